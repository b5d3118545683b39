"""Rows come to their label's group in the order they had, whatever that is."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rlsyn_jax.data.padded_groups import padded_groups


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_groups_hold_what_a_loop_finds(labels):
    labels = np.array(labels)
    rows = 1.0 + np.arange(2 * len(labels), dtype=np.float64).reshape(-1, 2)
    groups, counts = padded_groups(rows, labels, 5)
    assert groups.dtype == rows.dtype and counts.dtype == np.int32
    assert groups.shape == (5, np.bincount(labels).max(), 2)
    for label in range(5):
        members = rows[labels == label]
        assert counts[label] == len(members)
        np.testing.assert_array_equal(groups[label, : len(members)], members)
        assert not groups[label, len(members) :].any()
