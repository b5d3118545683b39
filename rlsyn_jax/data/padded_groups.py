"""Rows of one array, grouped by their labels into a row of rows each, on the host."""

from __future__ import annotations

import numpy as np


def padded_groups(
    rows: np.ndarray, labels: np.ndarray, num_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Groups rows by label and pads the groups to one length with zeros.

    Args:
        rows: [n, ...].
        labels: int [n], each in 0..num_groups - 1, in any order.
        num_groups: number of groups.

    Returns:
        (groups [num_groups, size of the largest, ...] of the rows' dtype, int32 counts
        [num_groups]); within a group the order of the input is kept and padding comes last. A label
        without rows has a group of padding.
    """
    counts = np.bincount(labels, minlength=num_groups)
    order = np.argsort(labels, kind="stable")
    group = labels[order]
    place = np.arange(len(group)) - (np.cumsum(counts) - counts)[group]
    groups = np.zeros((num_groups, counts.max(), *rows.shape[1:]), rows.dtype)
    groups[group, place] = rows[order]
    return groups, counts.astype(np.int32)
