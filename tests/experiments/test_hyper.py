"""Combinations of config changes against itertools, on generated fields and values."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweeping import hyper

FIELDS = st.sampled_from([f"section.field_{number}" for number in range(6)])
VALUES = st.lists(st.integers(-5, 5), min_size=1, max_size=3)
GRIDS = st.dictionaries(FIELDS, VALUES, max_size=4)


@given(GRIDS)
def test_a_grid_is_every_combination_and_the_last_field_varies_fastest(fields):
    expected = [dict(zip(fields, values)) for values in itertools.product(*fields.values())]
    assert hyper.grid(fields) == expected


@given(GRIDS, st.integers(1, 4))
def test_a_product_is_a_loop_in_a_loop(fields, number):
    expected = [cell | {"seed": seed} for cell in hyper.grid(fields) for seed in range(number)]
    assert hyper.product([hyper.grid(fields), hyper.seeds(number)]) == expected


@given(st.lists(st.tuples(st.integers(), st.text("ab", max_size=3)), min_size=1, max_size=4))
def test_zipped_cells_go_side_by_side(pairs):
    parts = [hyper.sweep(field, values) for field, values in zip(("a", "b"), zip(*pairs))]
    assert hyper.zipit(parts) == [{"a": first, "b": second} for first, second in pairs]


@given(st.lists(GRIDS, max_size=3))
def test_chained_cells_follow_each_other(grids):
    parts = [hyper.grid(fields) for fields in grids]
    assert hyper.chainit(parts) == [cell for part in parts for cell in part]


def test_seeds_begin_where_they_are_told_to():
    assert hyper.seeds(2, first=7) == [{"seed": 7}, {"seed": 8}]


def test_a_fixed_field_stands_in_every_cell():
    cells = hyper.product([hyper.fixed("a", 1), hyper.sweep("b", "xy")])
    assert cells == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}]


def test_combined_cells_are_not_those_that_were_combined():
    part = hyper.sweep("a", [1])
    hyper.product([part])[0]["a"] = 2
    assert part == [{"a": 1}]


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: hyper.sweep("a.b", []), "'a.b' is swept over no value"),
        (lambda: hyper.product([hyper.seeds(2), hyper.seeds(3)]), "'seed' is set by two parts"),
        (lambda: hyper.zipit([hyper.seeds(2), hyper.seeds(2)]), "'seed' is set by two parts"),
        (lambda: hyper.zipit([hyper.seeds(2), hyper.sweep("a", [1])]), r"got \[2, 1\] cells"),
    ],
)
def test_what_cannot_be_combined_is_refused(build, expected):
    with pytest.raises(ValueError, match=expected):
        build()
