"""Measures embeddings in files, or a run's recognisers: prints a table and writes metrics.json.

    python -m rlsyn_jax.evaluation ranking --query QUERY.npz --gallery GALLERY.npz
    python -m rlsyn_jax.evaluation verification --pairs PAIRS.npz
    python -m rlsyn_jax.evaluation privacy --synthetic S.npz --train T.npz --held_out H.npz
    python -m rlsyn_jax.evaluation run --workdir RUN --data market1501:DIR --verification_sets F.bin

Files are .npz or .safetensors. Query and gallery hold `embeddings` [n, dim], `ids` [n] (-1 junk, 0
distractor) and `cameras` [n]; pairs hold `first` and `second` [n, dim], `is_same` [n], and, as text
in .npz, `groups` [n], for fairness between groups of people. Several query files, each with its
gallery, are arms: the others are compared with the first, paired by query. Intervals are of 95 %,
over people for rankings.

Of privacy, each file holds `embeddings` [n, dim] and `ids` [n], 0 or more: whom a real image shows,
or whom a synthetic one was made for. Held-out images of the training people are what new
photographs of them look like; those of other people set the thresholds. `images`, uint8 [n, height,
width, 1 or 3], are compared pixel by pixel too, and shown.

The last embeds images itself, by the recognisers of a finished run, in its sizes and colours: of
other data sets the published query and gallery are ranked, or all people where there are none.

--report PAGE.html writes a page with charts, and, where query and gallery hold `images`, what
queries find; it fetches nothing.

metrics.json: {arm: {metric: {"value", "low", "high"}}, "differences": {arm: {metric: ...}}} of
rankings; what cannot be measured is null. Of privacy it is what a run has under "privacy", with
{"not_measured": why}; of runs what `measure_on_other_data` in stages/other_data.py says.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rlsyn_jax.evaluation import (
    command_privacy,
    command_ranking,
    command_run,
    command_verification,
)
from rlsyn_jax.training.atomic_files import check_takes_file, write_json, write_text

# Each adds a parser, whose default `measure` maps the options to a Measured.
_COMMANDS = (command_ranking, command_verification, command_privacy, command_run)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; bad input ends it with one sentence and status 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.report and options.report.resolve() == options.output.resolve():
            raise ValueError(f"--report and --output are both {options.output}; choose two names")
        _check_kept(options)
        # Now, and not when everything is measured.
        for target in (options.output, options.report):
            if target:
                check_takes_file(target)
        measured = options.measure(options)
        page = measured.page() if options.report else None
        width = max(len(name) for name, _ in measured.rows)
        for name, text in measured.rows:
            print(f"{name:<{width}}  {text}".rstrip())
        if page is not None:
            write_text(options.report, page)
        write_json(options.output, measured.metrics)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def _check_kept(options) -> None:
    """Looks whether what is written would replace what is read.

    Raises:
        ValueError: names both.
    """
    written = {"--output": options.output, "--report": options.report}
    read = {name: value for name, value in vars(options).items() if f"--{name}" not in written}
    for name, given in read.items():
        for path in given if isinstance(given, list) else [given]:
            for option, target in written.items():
                if isinstance(path, Path) and target and path.resolve() == target.resolve():
                    raise ValueError(f"{option} is {target}, which --{name} reads; choose another")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rlsyn_jax.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_command(commands)
    for added in commands.choices.values():
        added.add_argument("--output", type=Path, default=Path("metrics.json"))
        added.add_argument("--report", type=Path, help="an HTML page, too; none by default")
    return parser


if __name__ == "__main__":
    main()
