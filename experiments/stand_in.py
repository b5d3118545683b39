"""Makes small files in the layouts of the published data sets and weights, to try their configs.

    python experiments/stand_in.py DIR

DIR must not be there. It gets market1501, cuhk03-np, casia and rfw with drawn people, and weights
with networks of random numbers: enough to run configs/market1501.py:ci and its like on a CPU,
nothing to look at. What they make says nothing about the method.
"""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from PIL import Image

from rlsyn_jax.data.face_alignment import ARCFACE_TEMPLATE
from rlsyn_jax.data.insightface import write_insightface
from rlsyn_jax.data.pairs_file import RACES
from rlsyn_jax.data.procedural import make_procedural_dataset
from rlsyn_jax.models.autoencoder_kl import AutoencoderKL
from rlsyn_jax.models.dit import DiT
from rlsyn_jax.recognition.networks import build_network
from rlsyn_jax.training.atomic_files import whole_folder
from rlsyn_jax.training.checkpoints import CheckpointStore

PEOPLE, IMAGES, CAMERAS = 12, 6, 3
TRAINED_PEOPLE = 8
GENERATOR = {"patch_size": 2, "width": 32, "depth": 2, "num_heads": 2, "learn_sigma": True}
AUTOENCODER = {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "in_channels": 3,
    "out_channels": 3,
    "scaling_factor": 0.18215,
    "shift_factor": 0.0,
}
# Name of the folder -> network, its width (0 = the only one) and the image that it sees.
RECOGNIZERS = {
    "resnet50": ("resnet50", 8, (32, 16)),
    "osnet": ("osnet", 0, (32, 16)),
}


def write_people(folder: Path) -> None:
    """Writes the drawn people as Market-1501, as CUHK03-NP and as CASIA-WebFace are published."""
    dataset, _ = make_procedural_dataset(
        num_identities=PEOPLE, images_per_identity=IMAGES, image_size=32, seed=0, name="stand-in"
    )
    layouts = (folder / "market1501", folder / "cuhk03-np/labeled", folder / "cuhk03-np/detected")
    encoded = []
    for place, (pixels, person) in enumerate(zip(dataset.images, dataset.identities)):
        number, subset = place % IMAGES, "bounding_box_train"
        if person >= TRAINED_PEOPLE:
            subset = "query" if number < 2 else "bounding_box_test"
        name = f"{person + 1:04d}_c{1 + number % CAMERAS}s1_{place:06d}_00.png"
        for layout in layouts:
            (layout / subset).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(layout / subset / name)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, format="png")
        encoded.append((int(person), content.getvalue()))
    (folder / "casia").mkdir()
    write_insightface(folder / "casia/train.rec", iter(encoded), num_images=len(encoded))
    (folder / "casia/property").write_text(f"{PEOPLE},32,32\n")


def write_verification_sets(folder: Path) -> None:
    """Writes casia/lfw.bin and rfw with pairs of other drawn people: ten folds of two."""
    dataset, _ = make_procedural_dataset(
        num_identities=4, images_per_identity=IMAGES, image_size=32, identity_offset=PEOPLE
    )
    people = [dataset.images[dataset.identities == person] for person in range(4)]
    same = [(fold % 4, fold % IMAGES, fold % 4, (fold + 1) % IMAGES) for fold in range(10)]
    different = [(fold % 4, fold % IMAGES, (fold + 1) % 4, fold % IMAGES) for fold in range(10)]
    pairs = [pair for both in zip(same, different) for pair in both]
    encoded = []
    for one, first, other, second in pairs:
        for pixels in (people[one][first], people[other][second]):
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, format="png")
            encoded.append(content.getvalue())
    with open(folder / "casia/lfw.bin", "wb") as file:
        pickle.dump((encoded, [True, False] * 10), file, protocol=2)
    for race in RACES:
        (folder / "rfw/txts" / race).mkdir(parents=True)
        lines = ["10\t1"]
        for one, first, other, second in pairs:
            names = [
                f"m.{person}\t{number + 1}" for person, number in ((one, first), (other, second))
            ]
            lines.append("\t".join(names) if one != other else f"{names[0]}\t{second + 1}")
        (folder / "rfw/txts" / race / f"{race}_pairs.txt").write_text("\n".join(lines) + "\n")
        landmarks = []
        points = "\t".join(f"{value:.3f}" for value in (ARCFACE_TEMPLATE * 32 / 112).ravel())
        for person, images in enumerate(people):
            own = folder / "rfw/data" / race / f"m.{person}"
            own.mkdir(parents=True)
            for number, pixels in enumerate(images, start=1):
                file = f"m.{person}/m.{person}_{number:04d}.jpg"
                Image.fromarray(pixels).save(own.parent / file)
                landmarks.append(f"/data/{race}/{file}\t{person}\t{points}")
        (folder / "rfw/txts" / race / f"{race}_lmk.txt").write_text("\n".join(landmarks) + "\n")


def write_weights(folder: Path) -> None:
    """Writes networks of random numbers as models/import_weights.py writes published ones."""
    key = jax.random.key(0)
    model = DiT(**GENERATOR, num_classes=10)
    params = model.init(key, jnp.zeros((1, 16, 16, 4)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
    # The published initialisation's output is 0, of which no latent could be told from another.
    params = jax.tree.map(
        lambda value: value + 0.02 * jax.random.normal(key, value.shape), params["params"]
    )
    settings = {**GENERATOR, "timestep_frequency_shift": 0, "mlp_norm_epsilon": 1e-6}
    record = {"network": "DiT", "num_classes": 10, "generator": settings}
    _save(folder / "dit", {"params": params}, {**record, "image": {"size": 16, "channels": 4}})
    fields = {name: tuple(v) if isinstance(v, list) else v for name, v in AUTOENCODER.items()}
    params = AutoencoderKL(**fields).init(key, jnp.zeros((1, 8, 8, 3)))
    record = {"network": "AutoencoderKL", "autoencoder": AUTOENCODER, "imported": "stand-in"}
    _save(folder / "autoencoder", {"params": params["params"]}, record)
    for name, (kind, width, size) in RECOGNIZERS.items():
        network = build_network(kind, image_size=size, width=width)
        variables = jax.jit(network.init, static_argnames="train")(
            key, jnp.zeros((1, *size, 3)), train=False
        )
        _save(folder / name, variables, {"network": kind, "imported": "stand-in"})


def _save(folder: Path, state: dict, record: dict) -> None:
    state = jax.tree.map(jnp.asarray, state)
    with CheckpointStore(folder) as store:
        store.save(1, state, config=record, iterator_state=None)


def main(arguments: list[str]) -> None:
    """Writes everything into a new folder, whole or not at all."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.exit("usage: python experiments/stand_in.py DIR")
    if Path(arguments[0]).exists():
        sys.exit(f"{arguments[0]} is there already; name a folder that is not")
    with whole_folder(arguments[0]) as folder:
        write_people(folder)
        write_verification_sets(folder)
        write_weights(folder / "weights")


if __name__ == "__main__":
    main(sys.argv[1:])
