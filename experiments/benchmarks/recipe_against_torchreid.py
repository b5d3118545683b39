"""One small recipe, trained by this package and by torchreid's own engine on the same real images.

    pip install -e '.[bench]'
    python experiments/benchmarks/recipe_against_torchreid.py DATA [--seeds 3] [--steps 150]

DATA is a folder with a folder of images for each person. Every second person trains; the others are
searched for, the first image of each among all the rest. Images are written once, as JPEG files in
Market-1501's layout, which both sides read.

Both train OSNet x0.25, in each seed from the weights with which torchreid begins, by smoothed cross
entropy and batch-hard triplet (margin 0.3), Adam with weight decay in the gradient, P x K batches,
mirrored images, the rate divided by ten after two thirds of the steps, and are measured by
torchreid's evaluate_rank. What differs: torchreid goes through all images of an epoch, we draw
identities anew in each step; its classifier has a bias.

The last line is JSON: mAP of each seed and means, the standard deviations over seeds,
difference_in_errors (difference of means / its standard error), and seconds a step.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchreid
from PIL import Image

from rlsyn_jax.data.augmentation import random_flip
from rlsyn_jax.data.identity_dataset import Subset
from rlsyn_jax.data.market1501 import read_market1501
from rlsyn_jax.models.import_recognizers import osnet_from_torch
from rlsyn_jax.models.osnet import OSNetX025
from rlsyn_jax.recognition.embedding import embed_images
from rlsyn_jax.recognition.identity_sampler import make_identity_table
from rlsyn_jax.recognition.objective import Objective
from rlsyn_jax.recognition.recognizer import (
    ImagePool,
    Mixture,
    create_recognizer_state,
    make_train_step,
)
from rlsyn_jax.training.meshes import make_mesh
from rlsyn_jax.training.optimizers import make_optimizer, make_schedule

NAME = "Market-1501-v15.09.15"
WEIGHT_DECAY, DECAY_AT = 5e-4, 2 / 3
EXTENSIONS = {".jpg", ".jpeg", ".png", ".pgm"}


@dataclasses.dataclass(frozen=True)
class Headless:
    """OSNet without the neck, which torchreid's has not: the triplet's features classify, too."""

    module: Any

    def apply(self, variables: dict, images: jax.Array, train: bool, **options: Any) -> Any:
        """Returns the features twice, and in training the statistics."""
        result = self.module.apply(variables, images, train=train, **options)
        if not train:
            return result[0], result[0]
        (features, _), updated = result
        return (features, features), updated


def write_market(data: Path, target: Path, arguments: argparse.Namespace) -> None:
    """Writes people of a folder in Market-1501's layout, at the size that networks see."""
    people = [
        (folder, sorted(f for f in folder.iterdir() if f.suffix.lower() in EXTENSIONS))
        for folder in sorted(data.iterdir())
        if folder.is_dir()
    ]
    people = [(folder, files) for folder, files in people if len(files) >= arguments.images]
    people = people[: arguments.people or len(people)]
    if len(people) < 2 * arguments.identities:
        sys.exit(f"{data} has {len(people)} people with {arguments.images} images; too few")
    for number, (_, files) in enumerate(people):
        for place, file in enumerate(files):
            part = "bounding_box_train" if number % 2 == 0 else "bounding_box_test"
            camera = 1
            if number % 2:
                part, camera = ("query", 1) if place == 0 else (part, 2)
            name = f"{number + 1:04d}_c{camera}s1_{place:06d}_00.jpg"
            (target / part).mkdir(parents=True, exist_ok=True)
            with Image.open(file) as image:
                image = image.convert("RGB").resize((arguments.size, arguments.size))
            image.save(target / part / name, quality=95)


def measure(embeddings: dict[str, np.ndarray], ids: dict, cameras: dict) -> float:
    """Returns torchreid's mAP of cosine distances."""
    lengths = {k: np.linalg.norm(v, axis=1, keepdims=True) for k, v in embeddings.items()}
    if any((length < 1e-6).any() for length in lengths.values()):
        sys.exit("error: embeddings have collapsed to zero; a smaller --learning_rate is needed")
    unit = {k: v / lengths[k] for k, v in embeddings.items()}
    distances = 1 - unit["query"] @ unit["gallery"].T
    return torchreid.metrics.evaluate_rank(
        distances,
        *(np.asarray(values[part]) for values in (ids, cameras) for part in ("query", "gallery")),
        use_cython=False,
    )[1]


def train_theirs(root: Path, seed: int, arguments: argparse.Namespace) -> tuple:
    """Trains by torchreid's engine; returns first weights, mAP, steps and seconds a step."""
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    manager = torchreid.data.ImageDataManager(
        root=str(root),
        sources="market1501",
        height=arguments.size,
        width=arguments.size,
        transforms="random_flip",
        norm_mean=[0.5] * 3,
        norm_std=[0.5] * 3,
        batch_size_train=arguments.identities * arguments.images,
        num_instances=arguments.images,
        train_sampler="RandomIdentitySampler",
        workers=0,
        use_gpu=False,
    )
    model = torchreid.models.build_model(
        "osnet_x0_25", manager.num_train_pids, loss="triplet", pretrained=False
    )
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torchreid.optim.build_optimizer(
        model, optim="adam", lr=arguments.learning_rate, weight_decay=WEIGHT_DECAY
    )
    epochs = max(1, round(arguments.steps / len(manager.train_loader)))
    scheduler = torchreid.optim.build_lr_scheduler(
        optimizer, "multi_step", stepsize=[round(DECAY_AT * epochs)]
    )
    engine = torchreid.engine.ImageTripletEngine(
        manager, model, optimizer, scheduler=scheduler, use_gpu=False
    )
    steps, started = 0, time.perf_counter()
    for engine.epoch in range(epochs):
        engine.train(print_freq=10**9)
        steps += engine.batch_idx + 1
    seconds = (time.perf_counter() - started) / steps
    model.eval()
    embeddings, ids, cameras = {}, {}, {}
    for part, loader in manager.test_loader["market1501"].items():
        with torch.no_grad():
            batches = [(model(b["img"]), b["pid"], b["camid"]) for b in loader]
        embeddings[part], ids[part], cameras[part] = (
            torch.cat(values).numpy() for values in zip(*batches)
        )
    return start, measure(embeddings, ids, cameras), steps, seconds


def train_ours(
    folder: Path, seed: int, start: dict, steps: int, arguments: argparse.Namespace
) -> tuple[float, float]:
    """Trains from the given weights for so many steps; returns mAP and seconds a step."""
    dataset = read_market1501(folder, image_size=arguments.size, channels=3)
    subsets = np.asarray(dataset.subsets)
    _, labels = np.unique(dataset.identities[subsets == Subset.TRAIN], return_inverse=True)
    count = int(labels.max()) + 1
    backbone = osnet_from_torch(start)
    variables = {
        "params": {
            "backbone": backbone["params"],
            "classifier": start["classifier.weight"].numpy().T,
        },
        "batch_stats": backbone["batch_stats"],
    }
    rate = {
        "learning_rate": arguments.learning_rate,
        "warmup_steps": 0,
        "total_steps": steps,
        "decay": "step",
        "decay_at": (DECAY_AT,),
    }
    optimizer = make_optimizer(**rate, name="adam", weight_decay=WEIGHT_DECAY)
    model = Headless(OSNetX025())
    step = make_train_step(
        model,
        optimizer,
        make_mesh(),
        objective=Objective(label_smoothing=0.1, triplet_margin=0.3),
        mixture=Mixture(real=arguments.images),
        identities_per_batch=arguments.identities,
        augment=random_flip,
        schedule=make_schedule(**rate),
    )
    table = make_identity_table(labels, count)
    pool = ImagePool(jnp.asarray(dataset.images[subsets == Subset.TRAIN]), table)
    state = create_recognizer_state(
        jax.tree.map(jnp.asarray, variables), optimizer, jax.random.key(seed)
    )
    candidates = jnp.arange(count)
    state, _ = step(state, pool, None, candidates)  # Compiles.
    jax.block_until_ready(state.params)
    started = time.perf_counter()
    for _ in range(steps - 1):
        state, metrics = step(state, pool, None, candidates)
    jax.block_until_ready(state.params)
    seconds = (time.perf_counter() - started) / max(steps - 1, 1)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    embeddings, ids, cameras = {}, {}, {}
    for part, subset in (("query", Subset.QUERY), ("gallery", Subset.GALLERY)):
        inside = subsets == subset
        embeddings[part] = embed_images(model, variables, dataset.images[inside])
        ids[part], cameras[part] = dataset.identities[inside], dataset.cameras[inside]
    return measure(embeddings, ids, cameras), seconds


def main() -> None:
    """Trains every seed on both sides and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--people", type=int, default=0, help="0 = all")
    parser.add_argument("--identities", type=int, default=8)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--learning_rate", type=float, default=3e-4, help="torchreid's own")
    arguments = parser.parse_args()
    ours, theirs, seconds = [], [], {"our": [], "torchreid": []}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "market1501" / NAME
        write_market(arguments.data, folder, arguments)
        for seed in range(arguments.seeds):
            with open(os.devnull, "w") as silent, contextlib.redirect_stdout(silent):
                start, score, steps, each = train_theirs(Path(root), seed, arguments)
            theirs.append(score)
            seconds["torchreid"].append(each)
            score, each = train_ours(folder, seed, start, steps, arguments)
            ours.append(score)
            seconds["our"].append(each)
            line = f"seed {seed}, {steps} steps: ours {ours[-1]:.4f}, torchreid {theirs[-1]:.4f}"
            print(line, flush=True)
    spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in (ours, theirs)]
    difference = statistics.mean(ours) - statistics.mean(theirs)
    error = (sum(spread**2 for spread in spreads) / arguments.seeds) ** 0.5
    result = {
        "our_map": round(statistics.mean(ours), 4),
        "torchreid_map": round(statistics.mean(theirs), 4),
        "our_spread": round(spreads[0], 4),
        "torchreid_spread": round(spreads[1], 4),
        "difference_in_errors": round(difference / error, 2) if error else None,
        "our_maps": [round(value, 4) for value in ours],
        "torchreid_maps": [round(float(value), 4) for value in theirs],
        "steps": steps,
    }
    result |= {
        f"{name}_seconds_a_step": round(statistics.median(v), 3) for name, v in seconds.items()
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
