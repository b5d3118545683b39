"""What of drawn people synthetic images get right, by the factors that drew them.

    python experiments/true_factors.py RUN [RUN ...] [--output=FILE.json]

Of people whom the package draws, it is known what makes a person (the width of the face, the hue of
the hair, ...) and what makes an image of it (pose, light, expression, ...). A network learns to
read these factors from people who are in no run, drawn without end; it then reads them from each
synthetic data set of runs of such people, and from real images of the same people that nobody
trained on, which say how well it reads. Three figures of each set:

- person: how much of what sets people apart the read factors of a person tell, on average over
  factors (1 less the error's share of the variance; 1 is perfect, 0 as good as everybody's mean);
- image: how much factors of images differ between a person's images, as a share of real images'
  (deviations, on average over factors; below 1 a person's samples are more alike than photographs);
- drift: how far a person's samples differ in the person's own factors, as a share of the same of
  real images, where it is the network's error (above 1: samples of one person are several people).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlsyn_jax.data.identity_dataset import to_device_range
from rlsyn_jax.data.procedural import IDENTITY_RANGES, IMAGE_RANGES, make_procedural_dataset
from rlsyn_jax.data.synthetic_writer import MANIFEST, load_synthetic
from rlsyn_jax.models.resnet import SmallResNet
from rlsyn_jax.stages.inputs import load_target
from rlsyn_jax.stages.recorded_config import recorded_config
from rlsyn_jax.training.atomic_files import write_json

_WIDTH, _BATCH, _RATE, _SEED = 32, 128, 2e-3, 7
_PEOPLE, _IMAGES = 4096, 4  # That the network learns from.
_FIRST_PERSON = 10**6  # Runs have people of lower numbers.
_RANGES = {**IDENTITY_RANGES, **IMAGE_RANGES}


def main(arguments: list[str]) -> None:
    """Reads the factors of each run's sets, prints a table, and writes it where it is asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--steps", type=int, default=3000, help="of the network's training")
    parser.add_argument("--output", type=Path, help="a JSON file with the figures")
    options = parser.parse_args(arguments)
    try:
        sets = {run: _sets(run) for run in options.runs}
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    size = next(iter(sets.values()))[0].image.size
    read = train_reader(size, options.steps)
    found = {}
    print(f"{'run':<28} {'set':<14} {'person':>7} {'image':>7} {'drift':>7}")
    for run, (config, folders) in sets.items():
        found[str(run)] = of_run = measure_run(config, run, folders, read)
        for name, figures in of_run.items():
            print(
                f"{run.name[:28]:<28} {name:<14} {figures['person']:7.3f} "
                f"{figures['image']:7.3f} {figures['drift']:7.3f}",
                flush=True,
            )
    if options.output:
        write_json(options.output, found)


def _sets(run: Path):
    """Returns a run's config, and the folders of its synthetic data sets of the training people."""
    config = recorded_config(run / "adapt")
    if config.data.source != "procedural":
        raise ValueError(
            f"{run} has people of config.data.source {config.data.source!r}; the factors are known "
            "of 'procedural' ones alone"
        )
    names = ("cold_start", "best_of", "reinforced")
    folders = [run / "synthesize" / name for name in names]
    folders = [folder for folder in folders if (folder / MANIFEST).is_file()]
    if not folders:
        raise ValueError(f"{run} has no synthetic data set yet; run the stage synthesize")
    return config, folders


def train_reader(image_size: int, steps: int):
    """Trains a network that reads factors from images of drawn people.

    Args:
        image_size: pixels a side.
        steps: updates.

    Returns:
        A function, uint8 [n, size, size, 3] -> float32 [n, factors], people's first, as
        `standardised` has them.
    """
    dataset, factors = make_procedural_dataset(
        num_identities=_PEOPLE,
        images_per_identity=_IMAGES,
        image_size=image_size,
        identity_offset=_FIRST_PERSON,
    )
    wanted = standardised(factors, _RANGES).astype(np.float32)
    model = SmallResNet(width=_WIDTH, embedding_dim=len(_RANGES))
    variables = model.init(jax.random.key(_SEED), jnp.zeros((2, image_size, image_size, 3)), True)
    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, steps))

    @jax.jit
    def step(variables, opt_state, images, targets):
        def loss(params):
            outputs, updated = model.apply(
                {**variables, "params": params},
                to_device_range(images),
                True,
                mutable=["batch_stats"],
            )
            return jnp.square(outputs[0] - targets).mean(), updated

        gradients, updated = jax.grad(loss, has_aux=True)(variables["params"])
        changes, opt_state = optimizer.update(gradients, opt_state)
        params = optax.apply_updates(variables["params"], changes)
        return {"params": params, **updated}, opt_state

    opt_state, random = optimizer.init(variables["params"]), np.random.default_rng(_SEED)
    for _ in range(steps):
        rows = random.integers(0, len(dataset.images), _BATCH)
        variables, opt_state = step(variables, opt_state, dataset.images[rows], wanted[rows])

    @jax.jit
    def read_batch(images):
        return model.apply(variables, to_device_range(images), False)[0]

    def read(images: np.ndarray) -> np.ndarray:
        parts = [images[first : first + _BATCH] for first in range(0, len(images), _BATCH)]
        return np.concatenate([np.asarray(read_batch(part)) for part in parts])

    return read


def standardised(factors: dict[str, np.ndarray], ranges: dict) -> np.ndarray:
    """Returns factors as columns [n, factors], each of mean 0 and deviation 1 in its range.

    Args:
        factors: name -> float [n], as `make_procedural_dataset` gives them.
        ranges: name -> (lowest, highest) of those to return, each drawn uniformly.
    """
    return np.stack(
        [
            (factors[name] - (low + high) / 2) / ((high - low) / np.sqrt(12))
            for name, (low, high) in ranges.items()
        ],
        axis=1,
    )


def measure_run(config, run: Path, folders: list[Path], read) -> dict[str, dict[str, float]]:
    """Returns the figures of real images nobody trained on, and of each synthetic data set.

    Args:
        config: of the run.
        run: its folder.
        folders: of its synthetic data sets.
        read: of `train_reader`.
    """
    target, splits = load_target(config, run)
    _, factors = make_procedural_dataset(
        num_identities=config.data.num_identities,
        images_per_identity=1,
        image_size=config.image.size,
        identity_offset=config.data.identity_offset,
    )
    people = standardised(factors, IDENTITY_RANGES)[splits.train_identities]
    unseen = splits.closed_query
    labels = np.searchsorted(splits.train_identities, target.identities[unseen])
    real = read(target.images[unseen]), labels
    sets = {"real, unseen": real}
    for folder in folders:
        synthetic, _ = load_synthetic(folder)
        sets[folder.name] = read(synthetic.images), synthetic.identities
    return {name: figures(*each, people, real) for name, each in sets.items()}


def figures(factors, labels, people, real) -> dict[str, float]:
    """Returns a set's three figures.

    Args:
        factors: float [n, factors], as read, those of people first.
        labels: int [n], whose images they are.
        people: float [people, identity factors], the truth, as `standardised` has it.
        real: (factors, labels) of real images of the same people.
    """
    number, truth = people.shape[1], people[np.unique(labels)]
    error = _means(factors, labels)[:, :number] - truth
    told = 1 - np.square(error).mean(axis=0) / truth.var(axis=0)
    share = _deviations(factors, labels) / _deviations(*real)
    return {
        "person": float(told.mean()),
        "image": float(share[number:].mean()),
        "drift": float(share[:number].mean()),
    }


def _means(factors, labels):
    """Returns the mean of each person who has images, [people, factors]."""
    return np.stack([factors[labels == person].mean(axis=0) for person in np.unique(labels)])


def _deviations(factors, labels):
    """Returns how far factors differ between a person's images, [factors]: pooled deviations."""
    people, places = np.unique(labels, return_inverse=True)
    inner = factors - _means(factors, labels)[places]
    return np.sqrt(np.square(inner).sum(axis=0) / (len(labels) - len(people)))


if __name__ == "__main__":
    main(sys.argv[1:])
