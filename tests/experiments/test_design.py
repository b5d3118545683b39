"""Every cell of the study is a valid run, and what is compared is measured in it."""

import pytest
from study.design import (
    CHOOSERS,
    CLAIMED,
    COMPARISONS,
    STARTS,
    TARGETS,
    TINY,
    Choice,
    cells,
    choosing_cells,
    headroom_cells,
)
from sweeping.cells import cell_names, changed_config
from sweeping.python_files import load_base


@pytest.mark.parametrize("name", [*TARGETS, "tiny"])
def test_every_cell_is_valid(name):
    target = {**TARGETS, "tiny": TINY}[name]
    _, base = load_base(target.base)
    choices = dict.fromkeys(STARTS, Choice("CosFace", "affine"))
    changes = choosing_cells(target, "data", "priors")
    changes += headroom_cells(target, "data", "priors", 1, choices)
    changes += cells(target, "data", "priors", 1, choices)
    for cell, changed in zip(cell_names(changes), changes):
        changed_config(base, changed, cell)


def test_what_is_compared_is_measured():
    assert set(CLAIMED) <= set(TARGETS)
    for comparison in COMPARISONS:
        assert comparison.arm in STARTS[comparison.start]
        assert set(comparison.baselines) <= set(STARTS[comparison.baseline_start])
    assert set(CHOOSERS) == set(STARTS)
    assert all(set(arms) <= set(STARTS[start]) for start, arms in CHOOSERS.items())
    assert not any(
        "synthetic" in arm or "reinforced" in arm for a in CHOOSERS.values() for arm in a
    )
