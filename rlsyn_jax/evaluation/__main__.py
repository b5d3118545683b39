"""Measures embeddings in files, of whatever network: prints a table and writes metrics.json.

    python -m rlsyn_jax.evaluation ranking --query QUERY.npz --gallery GALLERY.npz
    python -m rlsyn_jax.evaluation verification --pairs PAIRS.npz

Files are .npz or .safetensors. Query and gallery hold `embeddings` [n, dim], `ids` [n] (-1 junk, 0
distractor) and `cameras` [n]; pairs hold `first` and `second` [n, dim], `is_same` [n], and, as text
in .npz, `groups` [n], for fairness between groups of people. Several query files, each with its
gallery, are arms: the others are compared with the first, paired by query. Intervals are of 95 %,
over people for rankings.

metrics.json: {arm: {metric: {"value", "low", "high"}}, "differences": {arm: {metric: ...}}} of
rankings; what cannot be measured is null.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

import numpy as np

from rlsyn_jax.evaluation.array_files import load_arrays
from rlsyn_jax.evaluation.bootstrap import cluster_bootstrap, mean_interval
from rlsyn_jax.evaluation.fairness import group_fairness
from rlsyn_jax.evaluation.re_ranking import re_rank
from rlsyn_jax.evaluation.reid import evaluate_distances, evaluate_ranking
from rlsyn_jax.evaluation.verification import (
    equal_error_rate,
    pair_distances,
    ten_fold_accuracy,
    true_accept_rate,
)
from rlsyn_jax.training.atomic_files import write_json

RANKS = (1, 5, 10)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; bad input ends it with one sentence and status 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        content, rows = options.measure(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}".rstrip())
    write_json(options.output, content)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rlsyn_jax.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ranking = commands.add_parser("ranking", help="mAP, mINP and CMC by Market-1501's protocol")
    ranking.add_argument("--query", nargs="+", required=True, type=Path)
    ranking.add_argument("--gallery", nargs="+", required=True, type=Path)
    ranking.add_argument("--re_ranking", action="store_true", help="k-reciprocal re-ranking")
    ranking.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    ranking.set_defaults(measure=_ranking)
    verification = commands.add_parser(
        "verification", help="ten-fold accuracy, TAR at FAR, equal error rate, fairness"
    )
    verification.add_argument("--pairs", required=True, type=Path)
    verification.add_argument(
        "--false_accept_rates", nargs="+", type=float, default=[1e-1, 1e-2, 1e-3, 1e-4]
    )
    verification.set_defaults(measure=_verification)
    for command in (ranking, verification):
        command.add_argument("--output", type=Path, default=Path("metrics.json"))
    return parser


def _ranking(options) -> tuple[dict, list]:
    if len(options.query) != len(options.gallery):
        raise ValueError(
            f"{len(options.query)} query files and {len(options.gallery)} galleries were given; "
            "each query needs its gallery"
        )
    arms = [path.stem for path in options.query]
    if len(set(arms)) < len(arms) or "differences" in arms:
        raise ValueError(f"query files are named by arm and must have different names, got {arms}")
    values, people, labels = {}, None, None
    for arm, query_path, gallery_path in zip(arms, options.query, options.gallery):
        query, gallery = (
            load_arrays(path, ("embeddings", "ids", "cameras"))
            for path in (query_path, gallery_path)
        )
        own_labels = [part[name] for part in (query, gallery) for name in ("ids", "cameras")]
        if labels is not None and not all(map(np.array_equal, labels, own_labels)):
            raise ValueError(
                f"{query_path} and {gallery_path}: ids and cameras are not those of {arms[0]}; "
                "arms are compared on the same images in the same order"
            )
        labels = own_labels
        values[arm], people = _per_query(query, gallery, options.re_ranking)

    def interval(each) -> dict:
        return _figure(*cluster_bootstrap(each, people, num_resamples=options.resamples))

    content: dict = {
        arm: {name: interval(each) for name, each in metrics.items()}
        for arm, metrics in values.items()
    }
    content["differences"] = {
        arm: {name: interval(values[arm][name] - values[arms[0]][name]) for name in values[arm]}
        for arm in arms[1:]
    }
    rows = [("queries with a match", str(len(people)))]
    for arm in arms:
        rows.append((f"{arm} (%)", ""))
        rows += [(f"  {name}", _shown(figure)) for name, figure in content[arm].items()]
    for arm, figures in content["differences"].items():
        rows.append((f"{arm} less {arms[0]} (points)", ""))
        rows += [(f"  {name}", _shown(figure, "+.2f")) for name, figure in figures.items()]
    return content, rows


def _per_query(query, gallery, re_ranking: bool) -> tuple[dict, np.ndarray]:
    """Returns {metric: value of each valid query} and the queries' people."""
    labels = query["ids"], query["cameras"], gallery["ids"], gallery["cameras"]
    if re_ranking:
        # Junk would take part in naming neighbours.
        kept = labels[2] != -1
        labels = *labels[:2], labels[2][kept], labels[3][kept]
        distances = re_rank(query["embeddings"], gallery["embeddings"][kept])
        result = evaluate_distances(distances, *labels)
    else:
        result = evaluate_ranking(
            query["embeddings"], *labels[:2], gallery["embeddings"], *labels[2:]
        )
    values = {"mAP": result.average_precisions, "mINP": result.inverse_negative_penalties}
    for rank in RANKS:
        values[f"rank-{rank}"] = (result.first_hits < rank).astype(np.float64)
    return values, labels[0][result.valid_queries]


def _verification(options) -> tuple[dict, list]:
    pairs = load_arrays(options.pairs, ("first", "second", "is_same"), optional=("groups",))
    distances, is_same = pair_distances(pairs["first"], pairs["second"], pairs["is_same"])
    similarities = 1 - distances / 2
    folds = ten_fold_accuracy(pairs["first"], pairs["second"], is_same)
    rate, threshold = equal_error_rate(similarities, is_same)
    num_impostors = int((~is_same).sum())
    content = {
        "num_genuine": int(is_same.sum()),
        "num_impostors": num_impostors,
        "accuracy": _figure(*mean_interval(folds.fold_accuracies)) | {"std": folds.accuracy_std},
        "equal_error_rate": {"value": rate, "threshold": threshold},
        "true_accept_rates": {},
    }
    rows = [
        ("genuine pairs", str(content["num_genuine"])),
        ("impostor pairs", str(num_impostors)),
        ("ten-fold accuracy (%)", _shown(content["accuracy"])),
        ("equal error rate (%)", f"{100 * rate:.2f}"),
    ]
    for wanted in options.false_accept_rates:
        name = f"TAR at FAR {wanted:g} (%)"
        if 0 < wanted < 1 / num_impostors:
            content["true_accept_rates"][f"{wanted:g}"] = None
            rows.append((name, f"not measurable: less than one of {num_impostors} impostor pairs"))
            continue
        accepted = true_accept_rate(similarities, is_same, wanted)
        content["true_accept_rates"][f"{wanted:g}"] = {
            **accepted.true_accept_rate._asdict(),
            "false_accept_rate": accepted.false_accept_rate._asdict(),
            "threshold": accepted.threshold if math.isfinite(accepted.threshold) else None,
        }
        rows.append((name, _shown(accepted.true_accept_rate._asdict())))
    if "groups" in pairs:
        groups = pairs["groups"].astype(str)
        result = group_fairness(
            pairs["first"],
            pairs["second"],
            is_same,
            groups,
            group_names=sorted(set(groups.tolist())),
        )
        content["fairness"] = {
            "own_threshold": _spread(result.own_threshold),
            "shared_threshold": _spread(result.shared_threshold)
            | {
                "false_accept_rates": result.false_accept_rates,
                "false_reject_rates": result.false_reject_rates,
            },
        }
        for name, spread in (
            ("own", result.own_threshold),
            ("shared", result.shared_threshold),
        ):
            rows.append((f"groups, {name} threshold (%)", ""))
            rows += [
                (f"  {group}", f"{100 * accuracy:.2f}")
                for group, accuracy in spread.accuracies.items()
            ]
            rows += [
                ("  mean", f"{100 * spread.mean:.2f}"),
                ("  std", f"{100 * spread.std:.2f}"),
                ("  largest less smallest", f"{100 * spread.gap:.2f}"),
                ("  skewed error ratio", f"{spread.skewed_error_ratio:.2f}"),
                ("  Gini of errors", f"{spread.gini:.3f}"),
            ]
    return content, rows


def _spread(spread) -> dict:
    values = dataclasses.asdict(spread)
    if not math.isfinite(spread.skewed_error_ratio):
        values["skewed_error_ratio"] = None
    return values


def _figure(value: float, low: float, high: float) -> dict:
    return {"value": value, "low": low, "high": high}


def _shown(figure: dict, form: str = ".2f") -> str:
    value, low, high = (100 * figure[name] for name in ("value", "low", "high"))
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


if __name__ == "__main__":
    main()
