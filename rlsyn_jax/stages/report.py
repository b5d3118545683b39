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
    distance_chart,
    image_strip,
    interval_chart,
    png,
    sphere_map,
)
from rlsyn_jax.report.page import render_page
from rlsyn_jax.stages.evaluate import read_results
from rlsyn_jax.stages.extractors import embed_images, load_extractor
from rlsyn_jax.stages.inputs import TARGET_FIELDS, load_target, train_labels
from rlsyn_jax.stages.reinforce import read_curves
from rlsyn_jax.stages.stage_record import StageRecord, plain, stage_seconds
from rlsyn_jax.stages.synthesize import GENERATORS, read_gate
from rlsyn_jax.training.atomic_files import write_text
from rlsyn_jax.training.metrics import duration

FIELDS = (*TARGET_FIELDS, "name", "report")
STAGES = ("pretrain", "adapt", "reinforce", "synthesize", "recognize", "evaluate")
ARM_TITLES = {
    "real": "real only",
    "real_erasing": "real, Random Erasing",
    "real_cold_start": "real + synthetic, cold start",
    "real_reinforced": "real + synthetic, after RL",
    "real_reinforced_selected": "the same, dynamic selection",
    "real_reinforced_nearest": "the same, nearest embeddings",
    "synthetic_only": "synthetic only, after RL",
}
METRIC_TITLES = {
    "open_map": "mAP, unseen people",
    "open_rank1": "rank-1, unseen people",
    "closed_rank1": "rank-1, enrolled people",
    "verification": "verification, unseen people",
}
SET_TITLES = {
    "real_train": "real training images",
    "cold_start": "cold start",
    "reinforced": "after RL",
}
STRIP, PAIRS, MAP_POINTS = 5, 10, 900


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs or skips the stage; logs the path of the report."""
    record = StageRecord(workdir, "report", config, FIELDS, inputs=STAGES)
    path = record.directory / "report.html"
    if not record.complete:
        write_text(path, render_page(_content(config, workdir)))
        record.finish()
    logging.info("The report: %s", path)


def _content(config: ConfigDict, workdir: Path) -> dict:
    dataset, splits = load_target(config, workdir)
    results, gate = read_results(workdir), read_gate(workdir)
    sets = {name: load_synthetic(workdir / "synthesize" / name) for name in GENERATORS}
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
        "summary": _summary(results, gate),
        **_arms(results),
        "people": people,
        "grid_columns": columns,
        "verdicts": [gate[name]["verdict"] for name in GENERATORS],
        **_synthetic_table(results),
        **_learning(workdir),
        **_privacy(sets, made, real, held_out, train_images, gate),
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


def _summary(results: dict, gate: dict) -> list[dict]:
    """The report's outcome in sentences: arms against the baseline, samples, privacy."""
    sentences = []
    for arm, differences in results["differences"].items():
        if arm == "real_erasing":
            continue
        metric = "open_map" if "open_map" in differences else "closed_rank1"
        change = differences[metric]
        clear = change["low"] > 0 or change["high"] < 0
        sentences.append(
            f"{ARM_TITLES[arm]}: {100 * change['mean']:+.1f} points "
            f"({100 * change['low']:+.1f} to {100 * change['high']:+.1f})"
            + (", better" if change["low"] > 0 else ", worse" if clear else ", no clear difference")
        )
        title = METRIC_TITLES[metric]
    lines = []
    if sentences:
        text = f"{title}, against training on real images only. " + "; ".join(sentences) + "."
        lines.append({"text": text, "warning": False})
    for name in GENERATORS:
        if not gate[name]["usable"]:
            lines.append({"text": gate[name]["verdict"], "warning": True})
    return lines


def _arms(results: dict) -> dict:
    baseline = next(iter(results["arms"].values()))
    metrics = [name for name in METRIC_TITLES if name in baseline]
    rows = []
    for arm, figures in results["arms"].items():
        cells = []
        for metric in metrics:
            difference = results["differences"].get(arm, {}).get(metric)
            verdict = ""
            if difference:
                verdict = "good" if difference["low"] > 0 else "bad" * (difference["high"] < 0)
            cells.append({**figures[metric], "difference": difference, "verdict": verdict})
        rows.append({"title": ARM_TITLES[arm], "cells": cells})
    charts = [
        {
            "image": interval_chart(
                f"{METRIC_TITLES[metric]} (%)",
                [
                    (
                        ARM_TITLES[arm],
                        *(100 * figures[metric][part] for part in ("mean", "low", "high")),
                    )
                    for arm, figures in results["arms"].items()
                ],
            ),
            "alt": METRIC_TITLES[metric],
        }
        for metric in metrics
    ]
    protocol = results["protocol"]
    text = (
        "Every arm starts from the same weights and makes the same number of updates. "
        f"{protocol['held_out_queries']} queries of {protocol['held_out_identities']} unseen "
        f"people, and {protocol['closed_queries']} other images of the "
        f"{protocol['train_identities']} enrolled ones, where guessing is right in "
        f"{protocol['chance_closed_rank1']:.1%}."
    )
    return {
        "arms": rows,
        "metric_titles": [METRIC_TITLES[name] for name in metrics],
        "arm_charts": charts,
        "arms_text": text,
    }


def _people(config, sets, train_images, labels, names) -> tuple[list[dict], str]:
    """Rows real | cold start | after RL, with the images that share their noise first."""
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
            images[title] = [row[seed] for seed in shared] or list(row.values())
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


def _synthetic_table(results: dict) -> dict:
    titles = {
        "identity_accuracy": ("identity, %", 100, 1),
        "frechet_distance": ("Fréchet", 1, 3),
        "precision": ("precision, %", 100, 1),
        "recall": ("recall, %", 100, 1),
        "density": ("density", 1, 2),
        "coverage": ("coverage, %", 100, 1),
        "nearest_real_distance": ("nearest real", 1, 3),
        "near_copies": ("near copies", 1, 0),
    }
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
    return {
        "synthetic_titles": [title for title, _, _ in titles.values()],
        "synthetic_rows": rows,
    }


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

    charts = [
        {
            "image": curve_chart(
                "Rewards, change since the cold start", curves("fixed/", True), "iteration"
            ),
            "alt": "Reward curves",
            "caption": "Mean raw rewards of samples of the same people from the same noise, drawn "
            "as the synthetic data set is.",
        },
        {
            "image": curve_chart("Measures no reward contains", curves("held_out/"), "iteration"),
            "alt": "Held-out measures",
            "caption": "The same samples against real images that were never trained on, by the "
            "judge. A reward that rises while these fall is being gamed.",
        },
        {
            "image": curve_chart(
                "Share of each reward in the advantages", curves("share/"), "iteration"
            ),
            "alt": "Shares of the rewards",
            "caption": "Of the sum of magnitudes, after normalisation and weights.",
        },
        {
            "image": curve_chart(
                "Within an iteration",
                {
                    "spread of advantages": curve("advantage/spread"),
                    "spread of a person's samples": curve("spread_within_identity"),
                },
                "iteration",
            ),
            "alt": "Spread of advantages and samples",
            "caption": "How far samples of one person lie apart: a fall towards zero is collapse.",
        },
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


def _privacy(sets, made, real, held_out, train_images, gate) -> dict:
    threshold = gate["near_copy_threshold"]
    distances = {"held-out real": nearest_real_distances(held_out[0], real[0])[0]}
    groups = []
    for name, (embeddings, _) in made.items():
        distance, nearest = nearest_real_distances(embeddings, real[0])
        distances[SET_TITLES[name]] = distance
        if name != "reinforced":
            continue
        images = sets[name][0].images
        order = np.argsort(distance, kind="stable")
        spread = order[np.linspace(0, len(order) - 1, PAIRS).astype(int)]
        for title, chosen in (
            ("The closest of the set after RL: synthetic above, nearest real below", order[:PAIRS]),
            ("Evenly through the set, from closest to farthest", spread),
        ):
            pairs = [
                {
                    "image": png(np.concatenate([images[i], train_images[nearest[i]]])),
                    "caption": f"{distance[i]:.3f}",
                }
                for i in chosen
            ]
            groups.append({"title": title, "pairs": pairs})
    counts = ", ".join(
        f"{gate[name]['near_copies_left_out']} of the set {SET_TITLES[name]!r}" for name in made
    )
    text = (
        "The synthetic images show people of the training set by design, so they are personal data "
        "of those people. This section asks the narrower question whether single training images "
        f"were copied. An image nearer than {threshold:.4f} to a training image, which "
        "hardly any held-out real image is, counts as a near copy: it was drawn again, "
        f"and left out where it stayed one ({counts or 'no set has an image left'})."
    )
    return {
        "privacy_text": text,
        "distance_chart": distance_chart("How near to a training image", distances, threshold),
        "pair_groups": groups,
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
    seconds = {stage: stage_seconds(workdir, stage) or 0.0 for stage in STAGES}
    rows = [(stage, duration(value)) for stage, value in seconds.items()]
    return [*rows, ("together", duration(sum(seconds.values())))]


def _files(workdir: Path) -> list[dict]:
    """Links, relative to the report, to what the stages wrote."""
    described = {
        "evaluate/metrics.json": "every figure of this page",
        "synthesize/cold_start/manifest.parquet": "the synthetic images before RL",
        "synthesize/cold_start/README.md": "their data card",
        "synthesize/reinforced/manifest.parquet": "the synthetic images after RL",
        "synthesize/reinforced/README.md": "their data card",
        "synthesize/gate.json": "whether they show the right people",
        "pretrain/samples.png": "samples of the prior",
        "pretrain/model": "the prior's checkpoint",
        "adapt/samples.png": "samples after the cold start",
        "adapt/model": "the cold start's checkpoint",
        "reinforce/metrics.jsonl": "every measure of every iteration",
        "reinforce/model": "the reinforced generator's checkpoint",
        "recognize": "the recognisers' checkpoints and metrics, by seed and arm",
    }
    grids = sorted(path.name for path in (Path(workdir) / "reinforce").glob("samples_*.png"))
    described |= {f"reinforce/{name}": "fixed-noise samples at that iteration" for name in grids}
    return [
        {"link": f"../{path}", "what": what}
        for path, what in described.items()
        if (Path(workdir) / path).exists()
    ]
