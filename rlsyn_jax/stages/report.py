"""Writes report.html: what was run, what came out, in pictures and numbers, in one file."""

from __future__ import annotations

import datetime
import json
import os
import platform
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.data.synthetic_writer import load_synthetic
from rlsyn_jax.evaluation.nearest_real import nearest_real_distances
from rlsyn_jax.report.dosnes import dosnes, hemispheres
from rlsyn_jax.report.figures import (
    curve_chart,
    image_strip,
    sphere_map,
)
from rlsyn_jax.report.page import render_page
from rlsyn_jax.report.points_text import points_text
from rlsyn_jax.stages import prior_people
from rlsyn_jax.stages.arms import augmentation_of
from rlsyn_jax.stages.evaluate import read_evaluation_curves, read_results
from rlsyn_jax.stages.extractors import embed_images, load_extractor
from rlsyn_jax.stages.inputs import TARGET_FIELDS, load_target, train_labels
from rlsyn_jax.stages.novel_panel import novel_panel
from rlsyn_jax.stages.prior_measures import describe_prior
from rlsyn_jax.stages.privacy_panel import SET_TITLES, privacy_panel
from rlsyn_jax.stages.recognition_panel import (
    ARM_TITLES,
    METRIC_TITLES,
    OTHER_TITLES,
    recognition_panel,
)
from rlsyn_jax.stages.reinforce import read_curves
from rlsyn_jax.stages.stage_record import StageRecord, plain, stage_seconds
from rlsyn_jax.stages.synthesize import data_sets, read_gate
from rlsyn_jax.stages.verification_panel import verification_panel
from rlsyn_jax.training.atomic_files import write_text
from rlsyn_jax.training.metrics import duration

FIELDS = (*TARGET_FIELDS, "name", "report")
INPUTS = ("pretrain", "adapt", "reinforce", "synthesize", "recognize", "evaluate")
STRIP, MAP_POINTS = 5, 900
# Arms of real images alone, of which the summary says nothing, but for the one that is changed as
# arms with synthetic images are.
_REAL_ALONE = ("real_erasing", "real_rand_augment", "real_affine", "real_scratch", "real_general")


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs or skips the stage; logs the path of the report."""
    record = StageRecord(workdir, "report", config, FIELDS, INPUTS)
    path = record.directory / "report.html"
    if not record.complete:
        write_text(path, render_page(_content(config, workdir)))
        record.finish()
    logging.info("The report: %s", path)


def _content(config: ConfigDict, workdir: Path) -> dict:
    dataset, splits = load_target(config, workdir)
    results, gate = read_results(workdir), read_gate(workdir)
    sets = {name: load_synthetic(workdir / "synthesize" / name) for name in data_sets(config)}
    judge = load_extractor(config, workdir, "judge")
    train_images, labels = train_labels(dataset, splits)
    closed = splits.closed_query
    held_out_labels = np.searchsorted(splits.train_identities, dataset.identities[closed])
    real = embed_images(judge, train_images), labels
    held_out = embed_images(judge, dataset.images[closed]), held_out_labels
    made = {
        name: (embed_images(judge, synthetic.images), synthetic.identities)
        for name, (synthetic, _) in sets.items()
        if len(synthetic.images)
    }
    names = [dataset.identity_names[i] for i in splits.train_identities]
    people, columns = _people(config, sets, train_images, labels, names)
    return {
        "title": config.name,
        "subtitle": _subtitle(dataset, results["protocol"]),
        "summary": _summary(config, results, gate),
        **recognition_panel(results, read_evaluation_curves(workdir), dataset),
        **verification_panel(results["verification_sets"]),
        "people": people,
        "grid_columns": columns,
        "samples_text": _samples_text(config),
        "verdicts": [
            *(
                gate[name]["verdict"]
                for name in (*data_sets(config), prior_people.FOLDER)
                if name in gate
            ),
            # Runs that were evaluated before it was measured have none.
            *describe_prior(results.get("prior")),
        ],
        "synthetic_tables": _synthetic_tables(results),
        **novel_panel(workdir, results, gate),
        **_learning(workdir),
        **privacy_panel(
            results["privacy"],
            gate,
            {name: sets[name] for name in made},
            _distances(real, held_out, made),
            train_images,
        ),
        **_map(config, real, held_out, made.get("reinforced"), len(names)),
        "facts": _facts(workdir, dataset, results["protocol"]),
        "timing": _timing(workdir),
        "files": _files(workdir),
        "configuration": json.dumps(plain(config), indent=2, ensure_ascii=False),
    }


def _subtitle(dataset, protocol: dict) -> str:
    return (
        f"{dataset.name}: {protocol['train_identities']} people with {protocol['train_images']} "
        f"real training images in all; {protocol['held_out_identities']} people that nothing was "
        f"trained on; {protocol['seeds']} seed(s) of every recogniser."
    )


def _summary(config: ConfigDict, results: dict, gate: dict) -> list[dict]:
    """The report's outcome in sentences: arms against the baseline, samples, privacy."""
    sentences, augmentation = [], config.recognize.augmentation
    changed = f"real_{augmentation}"
    for arm, differences in results["differences"].items():
        if arm in _REAL_ALONE and arm != changed:
            continue
        metric = "open_map" if "open_map" in differences else "closed_rank1"
        change = differences[metric]
        clear = change["low"] > 0 or change["high"] < 0
        sentences.append(
            f"{ARM_TITLES[arm]}: {points_text(change['mean'])} points "
            f"({points_text(change['low'])} to {points_text(change['high'])})"
            + (", better" if change["low"] > 0 else ", worse" if clear else ", no clear difference")
        )
        title = (METRIC_TITLES | OTHER_TITLES)[metric]
    lines = []
    if sentences:
        baseline = next(iter(results["arms"]))
        against = "training on real images only"
        if baseline != "real":
            against = f"“{ARM_TITLES[baseline]}”"
        text = f"{title}, against {against}. " + "; ".join(sentences) + "."
        lines.append({"text": text, "warning": False})
    adding = [arm for arm in results["differences"] if arm not in _REAL_ALONE]
    if adding and augmentation and augmentation_of(config, baseline) != augmentation:
        text = (
            f"Arms that add images have {augmentation} besides (config.recognize.augmentation), "
            "and that which they are compared with has not: look at "
        )
        compared = f"“{ARM_TITLES[changed]}”"
        if changed not in results["arms"]:
            compared += f" (it did not run; config.recognize.arms can have {changed})"
        lines.append({"text": f"{text}{compared}, too.", "warning": True})
    for name in (*SET_TITLES, prior_people.FOLDER):
        # Those of the prior's people were once written without that word.
        if name in gate and not gate[name].get("usable", True):
            lines.append({"text": gate[name]["verdict"], "warning": True})
    return lines


def _samples_text(config) -> str:
    kept = config.synthesize.candidates
    if kept > 1:
        return f"The same people: of each generator, what the rewards kept of {kept} times as many."
    return "The same people and, for both generators, the same noise."


def _people(config, sets, train_images, labels, names) -> tuple[list[dict], str]:
    """Rows real | cold start | after RL, with the images that share their noise first.

    Where the rewards kept some of several, they kept others of either generator.
    """
    size = train_images.shape[2]
    shown = np.unique(np.linspace(0, len(names) - 1, config.report.identities).astype(int))
    most_real = min(STRIP, max(np.bincount(labels)[shown]))
    counts = {"real": most_real, "cold start": STRIP, "after RL": STRIP}
    people = []
    for person in shown:
        rows = {
            name: {
                seed: image
                for image, seed, identity in zip(
                    synthetic.images, columns.get("seed", []), synthetic.identities
                )
                if identity == person
            }
            for name, (synthetic, columns) in sets.items()
        }
        cold, learned = rows["cold_start"], rows["reinforced"]
        shared = [seed for seed in cold if seed in learned]
        images = {"real": list(train_images[labels == person])}
        for title, row in (("cold start", cold), ("after RL", learned)):
            rest = [seed for seed in row if seed not in shared]
            images[title] = [row[seed] for seed in (*shared, *rest)]
        strips = []
        for kind, number in counts.items():
            blank = np.full_like(train_images[0], 245)
            chosen = (images[kind] + [blank] * number)[:number]
            strips.append(
                {
                    "kind": kind,
                    "image": image_strip(np.stack(chosen)),
                    "width": number * (max(2, 72 // size) * size + 2),
                }
            )
        people.append({"name": names[person], "strips": strips})
    return people, f"minmax(4.5rem, 7rem) {most_real}fr {STRIP}fr {STRIP}fr"


def _synthetic_tables(results: dict) -> list[dict]:
    """Tables of the sets: against real images, and how people are kept together and apart."""
    against_real = {
        "identity_accuracy": ("identity, %", 100, 1),
        "frechet_distance": ("Fréchet", 1, 3),
        "precision": ("precision, %", 100, 1),
        "recall": ("recall, %", 100, 1),
        "density": ("density", 1, 2),
        "coverage": ("coverage, %", 100, 1),
        "nearest_real_distance": ("nearest real", 1, 3),
        "near_copies": ("left out", 1, 0),
    }
    of_people = {
        "identity_consistency": ("consistency", 1, 3),
        "diversity": ("diversity", 1, 3),
        "vendi_share": ("Vendi, %", 100, 1),
        "decidability": ("decidability d′", 1, 2),
        "identity_error": ("equal error rate, %", 100, 1),
    }
    tables = [_synthetic_table(results, against_real), _synthetic_table(results, of_people)]
    # The second table's row of real images is of others.
    for row, figures in zip(tables[0]["rows"], results["synthetic"].values()):
        row["title"] += f" ({figures['num_images']:,})"
    return tables


def _synthetic_table(results: dict, titles: dict) -> dict:
    rows = []
    for name, figures in results["synthetic"].items():
        cells = []
        for metric, (_, scale, digits) in titles.items():
            figure = figures[metric]
            if not isinstance(figure, dict):
                cells.append({"value": "" if figure is None else figure, "interval": ""})
                continue
            low, mean, high = (
                f"{scale * figure[part]:.{digits}f}" for part in ("low", "mean", "high")
            )
            cells.append({"value": mean, "interval": f"{low} to {high}"})
        rows.append({"title": SET_TITLES[name], "cells": cells})
    return {"titles": [title for title, _, _ in titles.values()], "rows": rows}


def _learning(workdir: Path) -> dict:
    """Curves of the reinforcement stage, and what it warned of."""
    records = read_curves(workdir)
    lines = [record for record in records if record["kind"] == "scalars"]

    def curve(name: str, relative: bool = False) -> tuple[list, list]:
        points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        steps, values = map(list, zip(*points)) if points else ([], [])
        return steps, [value - values[0] for value in values] if relative else values

    def curves(prefix: str, relative: bool = False) -> dict:
        names = sorted({key for line in lines for key in line if key.startswith(prefix)})
        titles = {name: name.removeprefix(prefix).replace("_", " ") for name in names}
        return {title: curve(name, relative) for name, title in titles.items()}

    within = {
        "spread of advantages": curve("advantage/spread"),
        "spread of a person's samples": curve("spread_within_identity"),
    }
    # Some algorithms have no advantages.
    within = {title: points for title, points in within.items() if points[0]}
    drawn = [
        (
            "Rewards, change since the cold start",
            curves("fixed/", True),
            "Reward curves",
            "Mean raw rewards of samples of the same people from the same noise, drawn as the "
            "synthetic data set is.",
        ),
        (
            "Measures no reward contains",
            curves("held_out/"),
            "Held-out measures",
            "The same samples against real images that were never trained on, by the judge. A "
            "reward that rises while these fall is being gamed.",
        ),
        (
            "Share of each reward in the advantages",
            curves("share/"),
            "Shares of the rewards",
            "Of the sum of magnitudes, after normalisation and weights.",
        ),
        (
            "Within an iteration",
            within,
            "Spread of samples",
            "How far samples of one person lie apart: a fall towards zero is collapse.",
        ),
    ]
    charts = [
        {"image": curve_chart(title, shown, "iteration"), "alt": alt, "caption": caption}
        for title, shown, alt, caption in drawn
        if shown
    ]
    texts = [record for record in records if record["kind"] == "texts"]
    warnings = [
        f"Iteration {record['step']}: {text}."
        for record in texts
        for name, text in record.items()
        if name.startswith("warning/")
    ]
    # The last of each kind says how it ended; all are in metrics.jsonl.
    return {"curve_charts": charts, "learning_warnings": warnings[-2:]}


def _distances(real, held_out, made) -> dict:
    """Cosine distances to the nearest training image, by the judge."""
    shown = {"held-out real": held_out}
    shown |= {SET_TITLES[name]: embedded for name, embedded in made.items()}
    return {
        title: nearest_real_distances(embeddings, real[0])[0]
        for title, (embeddings, _) in shown.items()
    }


def _map(config, real, held_out, made, num_people: int) -> dict:
    """The DOSNES map of some people's images: training, held-out and synthetic."""
    chosen = np.unique(np.linspace(0, num_people - 1, config.report.map_identities).astype(int))
    kinds = ["real, training", "real, held out"] + ["synthetic, after RL"] * (made is not None)
    parts = [real, held_out, *([made] if made is not None else [])]
    embeddings, labels, kind = [], [], []
    for number, (features, people) in enumerate(parts):
        rows = np.flatnonzero(np.isin(people, chosen))[: MAP_POINTS // len(parts)]
        embeddings.append(features[rows])
        labels.append(people[rows])
        kind.append(np.full(len(rows), number))
    embeddings, labels, kind = map(np.concatenate, (embeddings, labels, kind))
    text = (
        f"{len(chosen)} people, one colour each, seen by the judge: doubly stochastic neighbour "
        "embedding on the sphere, front and back. Synthetic images that lie among their person's "
        "real ones are on identity; those that spread as held-out images do cover the person."
    )
    if len(embeddings) < 4:
        return {"map": "", "map_text": "Too few images for a map."}
    front, places = hemispheres(dosnes(embeddings, perplexity=15.0, seed=config.seed))
    labels = np.searchsorted(chosen, labels)
    return {"map": sphere_map(front, places, labels, kind, kinds), "map_text": text}


def _facts(workdir: Path, dataset, protocol: dict) -> list[tuple[str, str]]:
    versions = ", ".join(
        f"{name} {metadata.version(name)}"
        for name in ("jax", "flax", "optax", "orbax-checkpoint", "numpy")
    )
    devices = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    height, width, channels = dataset.images.shape[1:]
    return [
        (
            "Data set",
            f"{dataset.name}, {len(dataset.images)} images, {height} x {width} x {channels}",
        ),
        (
            "Split",
            f"{protocol['train_identities']} people to train on, "
            f"{protocol['held_out_identities']} held out",
        ),
        ("Work folder", str(workdir)),
        ("Devices", f"{jax.device_count()} x {devices}, {os.cpu_count()} CPU cores"),
        ("Software", f"Python {platform.python_version()}, {versions}"),
        ("System", platform.platform()),
        ("Written", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")),
    ]


def _timing(workdir: Path) -> list[tuple[str, str]]:
    seconds = {stage: stage_seconds(workdir, stage) or 0.0 for stage in INPUTS}
    rows = [(stage, duration(value)) for stage, value in seconds.items()]
    return [*rows, ("together", duration(sum(seconds.values())))]


def _files(workdir: Path) -> list[dict]:
    """Links, relative to the report, to what the stages wrote."""
    described = {
        "evaluate/metrics.json": "every figure of this page",
        "evaluate/curves.json": "CMC and ROC of every arm, and what some queries find",
        "evaluate/per_person.json": "each person's values, of every arm and seed",
        "synthesize/cold_start/manifest.parquet": "the synthetic images before RL",
        "synthesize/cold_start/README.md": "their data card",
        "synthesize/best_of/manifest.parquet": "the best of many synthetic images before RL",
        "synthesize/best_of/README.md": "their data card",
        "synthesize/reinforced/manifest.parquet": "the synthetic images after RL",
        "synthesize/reinforced/README.md": "their data card",
        "synthesize/novel/manifest.parquet": "the images of people who do not exist",
        "synthesize/novel/README.md": "their data card",
        "synthesize/prior/manifest.parquet": "the prior's samples of its own people",
        "synthesize/prior/README.md": "their data card",
        "synthesize/gate.json": "whether they show the right people",
        "pretrain/samples.png": "samples of the prior",
        "pretrain/model": "the prior's checkpoint",
        "adapt/samples.png": "samples after the cold start, from noise",
        "adapt/model": "the cold start's checkpoint",
        "reinforce/metrics.jsonl": "every measure of every iteration",
        "reinforce/model": "the reinforced generator's checkpoint",
        "recognize": "the recognisers' checkpoints and metrics, by seed and arm",
    }
    grids = sorted(path.name for path in (Path(workdir) / "reinforce").glob("samples_*.png"))
    described |= {f"reinforce/{name}": "fixed-noise samples at that iteration" for name in grids}
    nearest = sorted(path.name for path in (Path(workdir) / "evaluate").glob("nearest_*.png"))
    described |= {
        f"evaluate/{name}": "synthetic images above the training images nearest to them"
        for name in nearest
    }
    return [
        {"link": f"../{path}", "what": what}
        for path, what in described.items()
        if (Path(workdir) / path).exists()
    ]
