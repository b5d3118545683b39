"""Keeps the images of a synthetic data set that lie near real ones and differ from each other.

    python -m rlsyn_jax.selection MANIFEST --synthetic SYNTHETIC.npz --real REAL.npz --images 6
    python -m rlsyn_jax.selection --workdir RUN

MANIFEST is a synthetic data set's folder, its manifest.parquet, or another Parquet file with the
columns identity and file. Embeddings are .npz or .safetensors of any network: both hold
`embeddings` [n, dim]; the synthetic ones are in the manifest's order, which `files` [n], as text in
.npz, lets check; the real ones come with `identities` [m], text as in the manifest, or with `ids`
[m], numbers that count the manifest's identity_names. With --workdir the images are embedded by the
run's extractor "reward", as the recognisers' arm real_reinforced_nearest does it, and whatever is
not given is taken from the run.

The output is a manifest of the kept rows, written whole or not at all, with two more columns:
nearest_real_similarity, the cosine to the nearest real embedding of the identity, and pick_rank,
from 1. Files in it are relative to the folder it is meant for, that of MANIFEST.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa

from rlsyn_jax.data.synthetic_writer import MANIFEST
from rlsyn_jax.evaluation.array_files import load_arrays
from rlsyn_jax.selection.manifest_selection import (
    ManifestSelection,
    identity_names,
    read_manifest_rows,
    select_rows,
    write_manifest,
)
from rlsyn_jax.training.atomic_files import check_takes_file


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; bad input ends it with one sentence and status 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        path = _manifest_path(options)
        output = options.output or path.with_name("selected.parquet")
        if output.resolve() == path.resolve():
            raise ValueError(f"--output is {output}, which is the manifest itself; choose another")
        for name in ("synthetic", "real"):
            given = getattr(options, name)
            if given and output.resolve() == Path(given).resolve():
                raise ValueError(f"--output is {output}, which --{name} reads; choose another")
        table = read_manifest_rows(path)
        check_takes_file(output)
        embeddings = _of_run(options, path) if options.workdir else _of_files(options, table)
        if options.images is None:
            raise ValueError("--images is missing: how many images are kept of each identity")
        selection = select_rows(
            table,
            *embeddings,
            options.images,
            trade_off=0.5 if options.trade_off is None else options.trade_off,
            per_identity=not options.total,
        )
        write_manifest(output, selection.table)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    rows = _summary(selection)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}")
    print(output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rlsyn_jax.selection",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("manifest", nargs="?", type=Path, metavar="MANIFEST")
    parser.add_argument("--synthetic", type=Path, help="embeddings of the manifest's images")
    parser.add_argument("--real", type=Path, help="embeddings of real images, with their people")
    parser.add_argument("--workdir", type=Path, help="a run, instead of files of embeddings")
    parser.add_argument("--images", type=int, help="images kept; of a run, as it is configured")
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument(
        "--per_identity", action="store_true", help="keep so many of each identity (default)"
    )
    scope.add_argument("--total", action="store_true", help="keep so many of all images together")
    parser.add_argument(
        "--trade_off", type=float, help="1 = nearest to real, 0 = farthest from the kept; 0.5"
    )
    parser.add_argument("--output", type=Path, help="default: selected.parquet beside MANIFEST")
    return parser


def _manifest_path(options) -> Path:
    files = options.synthetic, options.real
    if options.workdir and any(files):
        raise ValueError("--workdir embeds the images itself; leave --synthetic and --real out")
    if not options.workdir and not all(files):
        raise ValueError("give --synthetic and --real, files of embeddings, or --workdir, a run")
    if options.manifest is None:
        if not options.workdir:
            raise ValueError("MANIFEST is missing: a synthetic data set's folder or manifest")
        return options.workdir / "synthesize" / "reinforced" / MANIFEST
    return options.manifest / MANIFEST if options.manifest.is_dir() else options.manifest


def _of_files(options, table: pa.Table) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns synthetic and real embeddings, and the real ones' identities."""
    synthetic = load_arrays(options.synthetic, ("embeddings",), optional=("files",))
    real = load_arrays(options.real, ("embeddings",), optional=("identities", "ids"))
    if "files" in synthetic:
        files = synthetic["files"].astype(str).tolist()
        expected = table["file"].to_pylist()
        if files != expected:
            place = next(
                (n for n, pair in enumerate(zip(files, expected)) if pair[0] != pair[1]),
                min(len(files), len(expected)),
            )
            raise ValueError(
                f"{options.synthetic}: files are not those of the manifest in its order; the first "
                f"difference is at row {place}"
            )
    return synthetic["embeddings"], real["embeddings"], _identities(options.real, real, table)


def _identities(path: Path, real: dict, table: pa.Table) -> list[str]:
    if ("identities" in real) == ("ids" in real):
        raise ValueError(f"{path}: expected either identities, names, or ids, numbers, of people")
    if "identities" in real:
        if real["identities"].ndim != 1:
            raise ValueError(
                f"{path}: expected identities [n], got shape {real['identities'].shape}"
            )
        return real["identities"].astype(str).tolist()
    names, ids = identity_names(table), np.atleast_1d(real["ids"])
    if names is None:
        raise ValueError(
            f"{path}: ids count the manifest's identity_names, of which it has none; give "
            "identities instead, names as in its column identity"
        )
    if not np.issubdtype(ids.dtype, np.integer) or (
        ids.size and not 0 <= ids.min() <= ids.max() < len(names)
    ):
        raise ValueError(
            f"{path}: ids must be integers of 0 to {len(names) - 1}, the places of the manifest's "
            "identity_names"
        )
    return [names[number] for number in ids.ravel()]


def _of_run(options, path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """As _of_files, by the run's own network; fills in what the options leave to the run."""
    # Imported here: files of embeddings need nothing of a run.
    from rlsyn_jax.stages.recorded_config import recorded_config
    from rlsyn_jax.stages.selection_embeddings import embed_for_selection

    config = recorded_config(options.workdir / "pretrain" / "extractors" / "reward")
    if options.images is None:
        options.images = config.recognize.nearest.images
    if options.trade_off is None:
        options.trade_off = config.recognize.nearest.trade_off
    return embed_for_selection(config, options.workdir, path)


def _summary(selection: ManifestSelection) -> list[tuple[str, str]]:
    counts = list(selection.kept_of_identity.values())
    distance = selection.distance
    return [
        ("images kept", f"{selection.table.num_rows} of {selection.num_rows}"),
        ("identities", str(len(counts))),
        ("kept of an identity, least / mean", f"{min(counts)} / {np.mean(counts):.1f}"),
        ("mean closeness to real, all", f"{selection.closeness_of_all:.4f}"),
        ("mean closeness to real, kept", f"{selection.closeness:.4f}"),
        (
            "mean distance to the nearest other kept",
            "no other is kept" if distance is None else f"{distance:.4f}",
        ),
    ]


if __name__ == "__main__":
    main()
