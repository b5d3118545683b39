"""Measures recognisers, synthetic sets and privacy, each figure with an interval.

metrics.json: {"run", "protocol", "arms": {arm: {metric: figure}}, "differences": {arm: {metric:
figure}}, "not_measured": {metric: why}, "synthetic": {set: {metric: figure}}, "novel": of people
who do not exist, "prior": what stages/prior_measures.py says, or null, "verification_sets": what
stages/verification_sets.py says, "privacy": what stages/privacy.py says}, where a figure is
{"mean", "low", "high"} and, for arms, "seeds" with each seed's value. Shares are in [0, 1];
differences are paired with the first arm. curves.json: CMC and ROC of every arm, and what some
queries find. per_person.json: what stages/person_values.py says.
"""

from __future__ import annotations

import json
from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.stages.arms import start_of
from rlsyn_jax.stages.inputs import TARGET_FIELDS, load_target
from rlsyn_jax.stages.novel_identities import FOLDER
from rlsyn_jax.stages.novel_measures import measure_novel
from rlsyn_jax.stages.prior_measures import measure_prior
from rlsyn_jax.stages.privacy import measure_privacy
from rlsyn_jax.stages.recognition_measures import measure_recognition
from rlsyn_jax.stages.stage_record import StageRecord
from rlsyn_jax.stages.synthesize import read_gate
from rlsyn_jax.stages.synthetic_measures import measure_synthetic
from rlsyn_jax.stages.verification_sets import check_verification_sets, measure_verification_sets
from rlsyn_jax.training.atomic_files import write_json

FIELDS = (*TARGET_FIELDS, "evaluate", "privacy")
INPUTS = ("pretrain", "synthesize", "recognize")


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs or skips the stage."""
    record = StageRecord(workdir, "evaluate", config, FIELDS, INPUTS)
    if record.complete:
        return
    check_verification_sets(config)
    dataset, splits = load_target(config, workdir)
    recognition, curves, of_people = measure_recognition(config, workdir, dataset, splits)
    content = {
        "run": config.name,
        "protocol": {
            "train_identities": len(splits.train_identities),
            "train_images": len(splits.train),
            "held_out_identities": len(splits.open_identities),
            "held_out_queries": len(splits.open_query),
            "closed_queries": len(splits.closed_query),
            "seeds": config.recognize.seeds,
            "random_start": [
                arm
                for arm in config.recognize.arms
                if start_of(config, arm) != config.recognize.start
            ],
            "chance_closed_rank1": 1 / len(splits.train_identities),
            "closed_set_chose_iteration": config.reinforce.keep == "best"
            or config.reinforce.stop_when_hacked,
        },
        **recognition,
        "synthetic": measure_synthetic(config, workdir, dataset, splits),
        "novel": {},
        "prior": measure_prior(config, workdir),
        "verification_sets": measure_verification_sets(
            config,
            workdir,
            sources=config.evaluate.verification_sets,
            arms=config.recognize.arms,
            seeds=config.recognize.seeds,
        ),
        "privacy": measure_privacy(config, workdir, dataset, splits),
    }
    if FOLDER in read_gate(workdir):
        content["novel"] = measure_novel(config, workdir, dataset, splits)
    write_json(record.directory / "curves.json", curves)
    write_json(record.directory / "per_person.json", of_people)
    write_json(record.directory / "metrics.json", content)
    for arm, figures in content["arms"].items():
        shown = ", ".join(
            f"{name} {100 * f['mean']:.1f} [{100 * f['low']:.1f}, {100 * f['high']:.1f}]"
            for name, f in figures.items()
        )
        logging.info("evaluate: %s: %s", arm, shown)
    for metric, reason in content["not_measured"].items():
        logging.info("evaluate: %s is not measured: %s", metric, reason)
    record.finish()


def read_results(workdir: Path) -> dict:
    """Returns the content of metrics.json."""
    return json.loads((Path(workdir) / "evaluate" / "metrics.json").read_text())


def read_evaluation_curves(workdir: Path) -> dict:
    """Returns the content of curves.json."""
    return json.loads((Path(workdir) / "evaluate" / "curves.json").read_text())
