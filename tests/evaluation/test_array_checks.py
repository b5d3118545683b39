"""Checks of foreign arrays: what is right passes unchanged, what is wrong is named."""

import re

import numpy as np
import pytest

from rlsyn_jax.evaluation.array_checks import (
    checked_embeddings,
    checked_images,
    checked_labels,
    checked_truths,
)


def test_what_is_right_passes():
    embeddings, images = np.ones((2, 3), np.float16), np.zeros((2, 4, 5, 1), np.uint8)
    assert checked_embeddings("e", embeddings) is embeddings
    assert checked_images("i", images, 2) is images
    for labels in (np.array([-1.0, 7.0]), np.array([-1, 7], np.int16)):
        assert checked_labels("l", labels, 2).tolist() == [-1, 7]
    for truths in (np.array([1, 0], np.uint8), np.array([True, False]), np.array([1.0, 0.0])):
        assert checked_truths("t", truths).tolist() == [True, False]
        assert checked_truths("t", truths).dtype == bool


@pytest.mark.parametrize(
    ("check", "arguments", "message"),
    [
        (checked_embeddings, [np.ones(3)], "expected numbers [n, dim]"),
        (checked_embeddings, [np.ones((0, 3))], "at least one image"),
        (checked_embeddings, [np.array([["a"]])], "expected numbers"),
        (checked_embeddings, [np.array([[0.0], [np.inf]])], "row 1 is not"),
        (checked_labels, [np.ones(3, int), 2], "one of each of 2 images, got (3,)"),
        (checked_labels, [np.ones((2, 1), int), 2], "got (2, 1)"),
        (checked_labels, [np.array([1, np.nan]), 2], "whole numbers"),
        (checked_labels, [np.array([1, 0.5]), 2], "whole numbers"),
        (checked_labels, [np.array(["1", "2"]), 2], "whole numbers"),
        (checked_labels, [np.array([1.0, 1e300]), 2], "must be -2**53 to 2**53 - 1 as float64"),
        (checked_labels, [np.array([0, 2**63], np.uint64), 2], "2**63 - 1 as uint64, got 0 to 92"),
        (checked_truths, [np.array([1, 2])], "true or false"),
        (checked_truths, [np.array([np.nan])], "true or false"),
        (checked_truths, [np.array(["no"])], "true or false"),
        (checked_images, [np.zeros((2, 4, 4, 3)), 2], "expected uint8"),
        (checked_images, [np.zeros((2, 4, 4), np.uint8), 2], "expected uint8"),
        (checked_images, [np.zeros((2, 3, 4, 4), np.uint8), 2], "expected uint8"),
        (checked_images, [np.zeros((2, 0, 4, 3), np.uint8), 2], "expected uint8"),
        (checked_images, [np.zeros((3, 4, 4, 3), np.uint8), 2], "3 images do not fit 2"),
    ],
)
def test_what_is_wrong_is_named(check, arguments, message):
    with pytest.raises(ValueError, match="^" + re.escape("a.npz: x: ") + ".*" + re.escape(message)):
        check("a.npz: x", *arguments)
