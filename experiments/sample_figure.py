"""Draws real images, cold-start samples and reinforced samples of the same people side by side.

    python experiments/sample_figure.py configs/quickstart.py WORKDIR FIGURE.png

Columns: three real training images, then five samples before and five after reinforcement, each
pair from the same noise.
"""

import runpy
import sys
from pathlib import Path

import numpy as np

from rlsyn_jax.data.synthetic_writer import load_synthetic
from rlsyn_jax.stages.inputs import load_target, train_labels
from rlsyn_jax.training.image_grids import save_png

PEOPLE, REAL, SAMPLES, ZOOM, GAP = 6, 3, 5, 2, 12


def draw(config, workdir: Path) -> np.ndarray:
    """Returns the figure, uint8 [h, w, 3], of a finished run."""
    dataset, splits = load_target(config, workdir)
    images, labels = train_labels(dataset, splits)
    sets = [load_synthetic(workdir / "synthesize" / name) for name in ("cold_start", "reinforced")]
    by_seed = [
        {
            (identity, seed): image
            for identity, seed, image in zip(synthetic.identities, rows["seed"], synthetic.images)
        }
        for synthetic, rows in sets
    ]
    # What both sets keep of the same noise comes first.
    shared = set(by_seed[0]) & set(by_seed[1])
    ordered = [sorted(chosen, key=lambda key: (key not in shared, key)) for chosen in by_seed]
    lines = []
    for person in np.linspace(0, len(splits.train_identities) - 1, PEOPLE).astype(int):
        groups = [list(images[labels == person][:REAL])]
        groups += [
            [chosen[key] for key in keys if key[0] == person][:SAMPLES]
            for chosen, keys in zip(by_seed, ordered)
        ]
        widths = (REAL, SAMPLES, SAMPLES)
        lines.append([_strip(group, width) for group, width in zip(groups, widths)])
    gap = np.full((lines[0][0].shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate(
        [np.concatenate([line[0], gap, line[1], gap, line[2]], axis=1) for line in lines]
    )


def _strip(images: list, width: int) -> np.ndarray:
    """Lays images [h, w, c] in a row of `width` places, enlarged; empty places are white."""
    blank = np.full_like(images[0], 255)
    row = np.concatenate((images + [blank] * width)[:width], axis=1)
    return np.broadcast_to(row, (*row.shape[:2], 3)).repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    path, _, argument = sys.argv[1].partition(":")
    get_config = runpy.run_path(path)["get_config"]
    figure = draw(get_config(*([argument] if argument else [])), Path(sys.argv[2]).absolute())
    save_png(sys.argv[3], figure)
