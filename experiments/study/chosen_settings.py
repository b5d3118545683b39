"""How a target's recognisers train: what was chosen, where it is kept, and what a page says of it.

Cells are planned by it, so that it is kept beside them: tables by several settings never come to
stand on one page.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeping.plan import read_plan

from rlsyn_jax.training.atomic_files import write_json
from study.design import ALL_TARGETS, AUGMENTATIONS, CHOOSERS, SETTINGS, Choice, Target
from study.gathering import Runs, best_mean, choose, stage_hours
from study.written_results import ResultsError, has_tables

_NO_AUGMENTATION = "no augmentation"
# As settings_lines writes it.
_LINE = re.compile(r"- (\w+) start: \*\*(.+)\*\*, ([^,]+)(?:, of .+)?")


def keep_choices(workdir: Path, name: str, choices: Mapping[str, Choice]) -> None:
    """Writes by what the cells of a target are planned, start -> choice, into a study's folder."""
    content = {start: dataclasses.asdict(choice) for start, choice in choices.items()}
    write_json(workdir / f"{name}_choices.json", content)


def choices_of_cells(workdir: Path, name: str) -> dict[str, Choice]:
    """Returns by what the cells of a target were planned in a study's folder, start -> choice.

    Args:
        workdir: of the study. If it was planned before choices were kept, the runs that tried
            settings say it.
        name: of the target.

    Raises:
        LookupError: neither is there.
    """
    file = workdir / f"{name}_choices.json"
    if not file.exists():
        return choose(Runs(workdir / f"{name}_settings"), ALL_TARGETS[name])
    return {start: Choice(**fields) for start, fields in json.loads(file.read_text()).items()}


def written_choices(section: Sequence[str], settings: Collection[str]) -> dict[str, Choice]:
    """Returns by what the recognisers of a target's written tables trained, start -> choice.

    Args:
        section: lines of the target in RESULTS.md.
        settings: names of those that the target has.

    Raises:
        LookupError: the lines do not have one of these settings for each start.
    """
    choices = {}
    for line in section:
        if row := _LINE.fullmatch(line):
            augmentation = "" if row[3] == _NO_AUGMENTATION else row[3]
            if row[2] in settings and augmentation in AUGMENTATIONS.values():
                choices[row[1]] = Choice(row[2], augmentation)
    if missing := [start for start in CHOOSERS if start not in choices]:
        raise LookupError(f"settings of {' and '.join(missing)} start")
    return choices


def check_same(name: str, section: Sequence[str], choices: Mapping[str, Choice]) -> None:
    """Checks that what is written of a target is by the settings of what is to stand beside it.

    Args:
        name: of the target.
        section: its lines in RESULTS.md.
        choices: of the others.

    Raises:
        ResultsError: it is by others, or by settings that the target does not have.
    """
    if not has_tables(section):
        return
    try:
        written = written_choices(section, ALL_TARGETS[name].settings)
    except LookupError as error:
        raise ResultsError(
            f"tables of {name} are written whose {error} the study does not know; --replace loses "
            "them, and another --results leaves them alone"
        ) from error
    if written != choices:
        raise ResultsError(
            f"tables of {name} are written by other settings of recognisers, {_shown(written)}, "
            f"than {_shown(choices)}; --replace loses them, another --results leaves them alone, "
            "and --written-settings runs what is missing by theirs"
        )


def check_planned(name: str, workdir: Path, choices: Mapping[str, Choice]) -> None:
    """Checks that the runs of a study train as the choices say that are kept beside them.

    Those of headroom have the setting in their names.

    Args:
        name: of the target.
        workdir: of the study.
        choices: start -> choice.

    Raises:
        ResultsError: its cells were planned by others, before these were chosen.
    """
    folder, target = workdir / name, ALL_TARGETS[name]
    cells = read_plan(folder).cells if (folder / "sweep.json").exists() else {}
    for cell, fields in cells.items():
        if not _trains_by(choices[fields["recognize.start"]], target, fields):
            raise ResultsError(
                f"the runs in {folder} were planned by other settings of recognisers than "
                f"{_shown(choices)}, {cell} the first; run what is to be gathered there once more, "
                "which plans it anew, or name another --workdir"
            )


def _trains_by(choice: Choice, target: Target, fields: Mapping[str, Any]) -> bool:
    """Whether a cell that sets these fields has the choice's setting and augmentation."""
    wanted = choice.fields(target)
    updates = wanted.pop("recognize.steps")
    others = {
        (field, value)
        for setting in SETTINGS.values()
        for field, value in setting.items()
        if field not in wanted
    }
    return (
        fields["recognize.steps"] in [updates * times for times in target.trainings.values()]
        and all(fields[field] == value for field, value in wanted.items())
        and not any(fields.get(field) == value for field, value in others)
    )


def _shown(choices: Mapping[str, Choice]) -> str:
    return "; ".join(f"{start} start: {choice.setting}" for start, choice in choices.items())


def settings_lines(
    name: str, workdir: Path, choices: Mapping[str, Choice], written: Sequence[str]
) -> Iterator[str]:
    """Yields the lines of how a target's recognisers train.

    Args:
        name: of the target.
        workdir: of the study; where its own runs made the choice, lines say what else was tried.
        choices: start -> choice.
        written: lines that say it by runs elsewhere; empty, where there are none.
    """
    folder = workdir / f"{name}_settings"
    tried, target, chosen = Runs(folder), ALL_TARGETS[name], {}
    with contextlib.suppress(LookupError):
        chosen = choose(tried, target)
    if chosen != choices and written:
        yield from written
        return
    yield from ("", "Recognisers' settings, chosen by the best arm without synthetic images on")
    here = chosen == choices
    yield f"validation people{' (mean of the measures)' if here else ', by runs elsewhere'}:"
    yield ""
    for start, choice in choices.items():
        line = f"- {start} start: **{choice.setting}**, {choice.augmentation or _NO_AUGMENTATION}"
        means = (
            f"{setting} {100 * best_mean(tried, start, setting):.1f}" for setting in target.settings
        )
        yield line + (f", of {'; '.join(means)}" if here else "")
    if here:
        hours = stage_hours(folder, ["*"], [0])
        yield from ("", f"{hours:.1f} hours, by the first of the commands below.")
