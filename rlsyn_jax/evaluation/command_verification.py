"""The command `verification`: embeddings of pairs in a file."""

from __future__ import annotations

from pathlib import Path

from rlsyn_jax.evaluation.array_checks import checked_embeddings, checked_truths
from rlsyn_jax.evaluation.array_files import load_arrays
from rlsyn_jax.evaluation.measured import Measured, share_text
from rlsyn_jax.evaluation.measured_pairs import FALSE_ACCEPT_RATES, measure_pairs, roc_curve
from rlsyn_jax.report.verification_page import ratio_text, verification_page


def add_command(commands) -> None:
    """Adds the command to subparsers of argparse."""
    parser = commands.add_parser(
        "verification", help="ten-fold accuracy, TAR at FAR, equal error rate, fairness"
    )
    parser.add_argument("--pairs", required=True, type=Path)
    parser.add_argument(
        "--false_accept_rates", nargs="+", type=float, default=list(FALSE_ACCEPT_RATES)
    )
    parser.set_defaults(measure=measure)


def measure(options) -> Measured:
    """Reads the file and measures the pairs.

    Args:
        options: pairs (path) and false_accept_rates.

    Returns:
        What is printed and written.

    Raises:
        ValueError: a bad file or arrays. OSError: a file that cannot be read.
    """
    pairs = load_arrays(options.pairs, ("first", "second", "is_same"), optional=("groups",))
    for name in ("first", "second"):
        pairs[name] = checked_embeddings(f"{options.pairs}: {name}", pairs[name])
    pairs["is_same"] = checked_truths(f"{options.pairs}: is_same", pairs["is_same"])
    try:
        metrics = measure_pairs(**pairs, false_accept_rates=options.false_accept_rates)
    except ValueError as error:
        raise ValueError(f"{options.pairs}: {error}") from error

    def page() -> str:
        pairs.pop("groups", None)
        return verification_page(metrics, *roc_curve(**pairs), subtitle=options.pairs.name)

    return Measured(metrics, _rows(metrics), page)


def _rows(metrics: dict) -> list[tuple[str, str]]:
    rows = [
        ("genuine pairs", str(metrics["num_genuine"])),
        ("impostor pairs", str(metrics["num_impostors"])),
        ("ten-fold accuracy (%)", share_text(metrics["accuracy"])),
        ("equal error rate (%)", f"{100 * metrics['equal_error_rate']['value']:.2f}"),
    ]
    for rate, figure in metrics["true_accept_rates"].items():
        too_few = f"not measurable: less than one of {metrics['num_impostors']} impostor pairs"
        rows.append((f"TAR at FAR {rate} (%)", share_text(figure) if figure else too_few))
    for name in ("own", "shared") if "fairness" in metrics else ():
        spread = metrics["fairness"][f"{name}_threshold"]
        rows.append((f"groups, {name} threshold (%)", ""))
        rows += [
            (f"  {group}", f"{100 * accuracy:.2f}")
            for group, accuracy in spread["accuracies"].items()
        ]
        rows += [
            ("  mean", f"{100 * spread['mean']:.2f}"),
            ("  std", f"{100 * spread['std']:.2f}"),
            ("  largest less smallest", f"{100 * spread['gap']:.2f}"),
            ("  skewed error ratio", ratio_text(spread["skewed_error_ratio"])),
            ("  Gini of errors", f"{spread['gini']:.3f}"),
        ]
    return rows
