"""Every comparison of a target that its runs can decide, with the command that makes them."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterable, Iterator

from study.claims import COMPARISONS
from study.design import ALL_TARGETS, MEASURES, first_seed, title, variation_title
from study.gathering import Runs, decide
from study.samples import COMPARED_SETS, compare_sets
from study.variations import IMAGES_OF_VARIATIONS
from study.written_results import is_claimed


def compare(name: str, runs: Runs) -> Iterator[dict]:
    """Yields every comparison of a target whose runs are there."""
    for images in ALL_TARGETS[name].images:
        for comparison in COMPARISONS:
            compared = comparison.cells(images)
            if not compared:
                continue
            of_arm, of_baselines = compared
            measured = {cell: runs.named(cell) for cell in (of_arm, *of_baselines)}
            seeds = sorted(set.intersection(*map(set, measured.values())))
            found = {cell: [of[seed] for seed in seeds] for cell, of in measured.items()}
            baselines = {cell: found[cell] for cell in of_baselines}
            for measure in MEASURES if seeds else ():
                yield {
                    "name": comparison.name,
                    "data": name,
                    "images": images or "all",
                    "measure": measure,
                    "arm": comparison.arm,
                    **decide(comparison, found[of_arm], baselines, measure),
                    "claimed": is_claimed(name, len(seeds)),
                    "command": command_of(name, seeds, measured),
                }


def compare_samples(name: str, runs: Runs) -> Iterator[dict]:
    """Yields every comparison of the sets of samples of a target whose runs are there."""
    variations = dict.fromkeys(sets.variation for sets in COMPARED_SETS.values())
    for images, variation in itertools.product(ALL_TARGETS[name].images, variations):
        if variation and images != IMAGES_OF_VARIATIONS:
            continue
        heading = variation or title(images, "random")
        # Who trains longer trains on the same samples.
        by_cell = {
            cell: runs.named(cell) for cell in (heading, variation_title(heading, longer=True))
        }
        cell = max(by_cell, key=lambda cell: len(by_cell[cell]))
        for compared in compare_sets([*by_cell[cell].values()], variation):
            yield {
                "data": name,
                "images": images or "all",
                **compared,
                "claimed": False,
                "command": command_of(name, by_cell[cell], [cell]),
            }


def command_of(name: str, seeds: Iterable[int], headings: Iterable[str]) -> str:
    """Returns what makes the runs of some seeds that have some headings."""
    command = f"python experiments/ablation.py --workdir=DIR --data=FOLDER --targets={name}"
    headings = dict.fromkeys(headings)
    number = max(seeds) + 1 - min(map(first_seed, headings))
    return " ".join(
        [command, f"--seeds={number}", *(f"--only={shlex.quote(each)}" for each in headings)]
    )
