"""The study: does the method help, by how much, against what, on real images and with seeds.

    python experiments/ablation.py --workdir=DIR --data=FOLDER [--targets=lfw,omniglot] [--seeds=5]
        [--only='2 images, *'] [--results=DIR]

FOLDER has lfw_target, lfw_general, omniglot/small1, omniglot/small2 and orl_faces, one folder of
images an identity, as experiments/study_data.py lays them out; without them, --targets=tiny shows
in minutes that everything runs. What runs stands in experiments/study/design.py, and what counts as
a claim in claims.py beside it. For each target, recognisers' settings are chosen on validation
people in DIR/TARGET_settings, and what more real images give is measured in DIR/TARGET_headroom;
its cells then are a sweep in DIR/TARGET. With --only, which may be given several times, nothing
runs but the choosing and cells with such names, as the commands under the tables have them. The
same command resumes; at the end, and with --gather at any time, results.json has every comparison
of the complete runs of all targets in DIR, and RESULTS.md the tables. Both stand in DIR, or in the
folder that --results names, where what DIR does not have, or has by fewer seeds, stays as it is
written, unless --replace says otherwise: each target, and each table, can be run on a machine of
its own. With --written-settings recognisers train by what that folder says was chosen.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from study.chosen_settings import check_same, keep_choices, written_choices
from study.claims import SEEDS_OF_A_CLAIM
from study.design import (
    ALL_TARGETS,
    TARGETS,
    Choice,
    Target,
    cells,
    choosing_cells,
    first_seed,
    headroom_cells,
    names_of_cells,
)
from study.gathering import Runs, choose
from study.results_page import write_results
from study.written_results import TABLES_FILE, ResultsError, WrittenResults, read_results
from sweeping.cells import cell_names
from sweeping.name_patterns import add_only, is_like, unmatched
from sweeping.named_folder import named_folder

from rlsyn_jax.training.atomic_files import write_text

_HERE = Path(__file__).absolute().parent
# Codes of a sweep that was told to stop, before and after it had begun to listen.
_STOPPED = tuple(
    code for number in (signal.SIGTERM, signal.SIGINT) for code in (128 + number, -number)
)


def main(arguments: list[str]) -> None:
    """Runs what is not complete, and writes what was found."""
    options = parse(arguments)
    workdir = options.workdir.absolute()
    results = (options.results or workdir).absolute()
    data, cache = str(options.data.absolute()), str(workdir / "priors")
    failed, named = [], False
    try:
        check_folders(options, workdir)
        written = read_results(results, ALL_TARGETS)  # Refused before anything runs.
        settings = settings_before(options, written, results)
        for name in options.targets if not options.gather else ():
            target, choosing = ALL_TARGETS[name], workdir / f"{name}_settings"
            made = choosing_cells(target, data, cache)
            if name not in settings and not sweep(choosing, target, made, made, options.parallel):
                failed.append(f"{name} (settings)")
                continue
            choices = settings.get(name) or choose(Runs(choosing), target)
            if not options.replace:
                check_same(name, written.sections.get(name, ()), choices)
            keep_choices(workdir, name, choices)
            # Planned whole, whatever is asked for: a cell's folder then has the same name each
            # time, and what other commands have made is counted.
            planned = target, data, cache, max(options.seeds, SEEDS_OF_A_CLAIM), choices
            for folder, made in (
                (f"{name}_headroom", headroom_cells(*planned)),
                (name, cells(*planned)),
            ):
                asked = [cell for cell in made if is_asked_for(cell, options)]
                named |= bool(asked)
                if asked and not sweep(workdir / folder, target, made, asked, options.parallel):
                    failed.append(folder.replace("_headroom", " (headroom)"))
                    break
        write_results(workdir, results, keep=not options.replace)
    except ResultsError as error:
        sys.exit(f"error: {error}")
    if not (named or failed or options.gather):
        sys.exit(f"error: what --only names is not of the chosen settings: {options.only}")
    if failed:
        sys.exit(f"error: not all cells of {', '.join(failed)} are complete; see above")


def check_folders(options: argparse.Namespace, workdir: Path) -> None:
    """Looks whether the folders that are read are there, before anything is chosen or run.

    Raises:
        ResultsError: names the folder.
    """
    if options.gather and not workdir.is_dir():
        raise ResultsError(f"--workdir is {workdir}, which is not there; --gather runs nothing")
    for name in options.targets if not options.gather else ():
        for folder in filter(None, (ALL_TARGETS[name].data, ALL_TARGETS[name].general)):
            if not (options.data / folder).is_dir():
                raise ResultsError(
                    f"{options.data / folder} is not there, of the target {name}; --data names the "
                    "folder of the data sets, as study_data.py beside this file lays them out"
                )


def settings_before(
    options: argparse.Namespace, written: WrittenResults, results: Path
) -> dict[str, dict[str, Choice]]:
    """Returns how the recognisers of targets train that are not to be chosen by runs.

    Raises:
        ResultsError: it is to be as is written, and is not written.
    """
    found = {}
    for name in options.targets if options.written_settings and not options.gather else ():
        try:
            section = written.sections.get(name, ())
            found[name] = written_choices(section, ALL_TARGETS[name].settings)
        except LookupError as error:
            raise ResultsError(
                f"{results / TABLES_FILE} has no {error} of {name}; leave out --written-settings, "
                "and they are chosen, or name another folder with --results"
            ) from error
    return found


def is_asked_for(cell: dict, options: argparse.Namespace) -> bool:
    """Whether a cell is among the seeds and headings that the options name."""
    named = not options.only or is_like(cell["name"], options.only)
    return named and cell["seed"] - first_seed(cell["name"]) < options.seeds


def sweep(
    folder: Path, target: Target, changes: list[dict], asked: list[dict], parallel: int
) -> bool:
    """Runs some cells of a sweep in a folder; returns whether those are complete.

    A SIGTERM or an interrupt goes on to the sweep, whose runs save what they have; the study then
    ends, too.
    """
    file = folder.with_name(f"{folder.name}_cells.py")
    write_text(file, sweep_file(target, changes))
    command = [sys.executable, str(_HERE / "sweep.py"), str(file)]
    command += [f"--workdir={folder}", f"--parallel={parallel}"]
    if len(asked) < len(changes):
        names = zip(cell_names(changes), changes)
        command += [f"--only={name}" for name, changed in names if changed in asked]
    with subprocess.Popen(command) as process:
        # A terminal sends its interrupt to the sweep itself.
        before = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
            signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        }
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if code in _STOPPED:
        sys.exit(128 + signal.SIGTERM)
    return code == 0


def sweep_file(target: Target, changes: list[dict]) -> str:
    """Returns a sweep file with a target's cells written out."""
    base, _, variant = target.base.partition(":")
    lines = [f'"""Cells of the study, written by {Path(__file__).name}."""', ""]
    lines += [f"BASE = {str(_HERE.parent / base) + (variant and ':' + variant)!r}", ""]
    lines += ["CELLS = ["] + [f"    {changed!r}," for changed in changes] + ["]", "", ""]
    lines += ["def get_hyper(hyper):", '    """Returns the cells."""', "    return CELLS", ""]
    return "\n".join(lines)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=named_folder, required=True, help="folder of the study")
    parser.add_argument(
        "--data", type=named_folder, default=Path("data"), help="folder of the data sets"
    )
    parser.add_argument(
        "--targets",
        default=",".join(TARGETS),
        help="some of them, or tiny, which shows in minutes that everything runs",
    )
    parser.add_argument("--seeds", type=int, default=5, help="of each cell, from its first one")
    add_only(parser)
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument("--gather", action="store_true", help="run nothing")
    parser.add_argument(
        "--written-settings",
        action="store_true",
        help="recognisers train by the settings that the tables of --results have, of other runs "
        "of the same study; none are tried",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="keep nothing of what is written of the targets that --workdir has, even where it "
        "rests on more seeds",
    )
    parser.add_argument(
        "--results",
        type=named_folder,
        help="folder of RESULTS.md and results.json; default: --workdir",
    )
    options = parser.parse_args(arguments)
    options.targets = options.targets.split(",")
    unknown = set(options.targets) - set(ALL_TARGETS)
    if unknown:
        parser.error(f"unknown targets {sorted(unknown)}; there are {', '.join(ALL_TARGETS)}")
    names = {cell for target in options.targets for cell in names_of_cells(ALL_TARGETS[target])}
    for pattern in unmatched(options.only, names):
        parser.error(f"--only={pattern} is like no cell's name; there are {sorted(names)}")
    if options.seeds < 1:
        parser.error(f"--seeds is {options.seeds}; it must be at least 1")
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
