"""The command `run`: the recognisers of a finished run on data that the run never saw."""

from __future__ import annotations

from pathlib import Path

from rlsyn_jax.evaluation.measured import Measured, share_text

_TITLES = {"open_map": "mAP", "open_minp": "mINP", "open_rank1": "rank-1"} | {
    f"open_rank{rank}": f"rank-{rank}" for rank in (5, 10)
}


def add_command(commands) -> None:
    """Adds the command to subparsers of argparse."""
    parser = commands.add_parser(
        "run", help="a run's recognisers on other data sets and on published verification sets"
    )
    parser.add_argument("--workdir", required=True, type=Path, help="of the run")
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="SOURCE:PATH",
        help="market1501:DIR, folder:DIR ...",
    )
    parser.add_argument(
        "--verification_sets",
        nargs="+",
        default=[],
        metavar="SET",
        help="FILE.bin, pairs:PAIRS.txt:FOLDER or rfw:FOLDER",
    )
    parser.add_argument(
        "--arms", nargs="+", default=[], help="some of the run's; the first is the baseline"
    )
    parser.set_defaults(measure=measure)


def measure(options) -> Measured:
    """Measures the run's recognisers.

    Args:
        options: workdir, data, verification_sets and arms.

    Returns:
        What is printed and written.

    Raises:
        ValueError: no such run or arm, nothing to measure, or a data set that cannot be read.
        OSError: a file that cannot be read.
    """
    if not options.data and not options.verification_sets:
        raise ValueError("nothing to measure; give --data or --verification_sets")
    # The one place of this package that knows runs: embeddings in files need nothing of them.
    from rlsyn_jax.stages.other_data import measure_on_other_data, recognizers_config
    from rlsyn_jax.stages.other_data_page import other_data_page

    config = recognizers_config(options.workdir, options.arms)
    content, pictures = measure_on_other_data(
        config, options.workdir, options.data, options.verification_sets
    )
    return Measured(content, _rows(content), lambda: other_data_page(content, pictures))


def _rows(content: dict) -> list[tuple[str, str]]:
    rows = []
    for name, measured in content["data"].items():
        counts = f"{measured['people']} people, {measured['queries']} queries"
        rows.append((f"{name} (%)", counts))
        for arm, figures in measured["arms"].items():
            rows += [
                (f"  {arm}, {_TITLES.get(metric, metric)}", share_text(figure, middle="mean"))
                for metric, figure in figures.items()
            ]
    for name, measured in content["verification_sets"]["sets"].items():
        rows.append((f"{name} (%)", f"{measured['pairs']} pairs"))
        rows += [
            (f"  {arm}, accuracy", share_text(figure, middle="mean"))
            for arm, figure in measured["arms"].items()
        ]
    for source, measured in content["verification_sets"]["groups"].items():
        rows.append((f"{source}, one threshold for all (%)", ""))
        for arm, figures in measured["arms"].items():
            shared = figures["shared_threshold"]
            rows += [
                (f"  {arm}, mean", share_text(shared["mean"], middle="mean")),
                (f"  {arm}, std", share_text(shared["std"], middle="mean")),
                (f"  {arm}, largest less smallest", share_text(shared["gap"], middle="mean")),
            ]
    return rows
