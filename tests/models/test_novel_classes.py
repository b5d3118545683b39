"""Proposed class rows: where they lie, and that they do not depend on how many are asked for."""

import numpy as np
import pytest

from rlsyn_jax.models.novel_classes import novel_class_rows


def people(number=6, width=16):
    return np.random.default_rng(0).normal(size=(number, width)) + 3


def test_between_lies_in_the_plane_of_two_people():
    rows = people()
    mean = rows.mean(axis=0)
    radius = np.median(np.linalg.norm(rows - mean, axis=1))
    for row in novel_class_rows(rows, 20, "between", seed=1):
        assert np.linalg.norm(row - mean) == pytest.approx(radius, rel=1e-5)
        residuals = []
        for one in range(6):
            for other in range(one):
                plane = (rows - mean)[[one, other]].T
                found, *_ = np.linalg.lstsq(plane, row - mean, rcond=None)
                residuals.append((np.linalg.norm(plane @ found - row + mean), found))
        gap, found = min(residuals, key=lambda pair: pair[0])
        assert gap < 1e-4 and 0.5 < found[0] / found[1] < 2


def test_away_is_farther_from_everybody_than_chance_and_from_each_other():
    rows = people(12)
    mean = rows.mean(axis=0)
    proposed = novel_class_rows(rows, 8, "away", seed=1)
    random = np.random.default_rng(2).normal(size=(500, 12)) @ (rows - mean)
    radius = np.median(np.linalg.norm(rows - mean, axis=1))
    random = mean + random * radius / np.linalg.norm(random, axis=1, keepdims=True)

    def nearest(points, others):
        return np.linalg.norm(points[:, None] - others[None], axis=-1).min(axis=1)

    assert nearest(proposed, rows).min() > np.quantile(nearest(random, rows), 0.7)
    for place in range(1, 8):
        assert nearest(proposed[place : place + 1], proposed[:place]) > radius / 2
    # All lie where people lie: in the span of their rows.
    _, values, directions = np.linalg.svd(rows - mean, full_matrices=False)
    directions = directions[values > 1e-9]
    inside = (proposed - mean) @ directions.T @ directions
    np.testing.assert_allclose(inside, proposed - mean, atol=1e-5)


@pytest.mark.parametrize("way", ["between", "away"])
def test_a_smaller_number_comes_first_in_a_larger_one(way):
    few, many = (novel_class_rows(people(), number, way, seed=3) for number in (3, 9))
    np.testing.assert_array_equal(few, many[:3])
    assert few.dtype == np.float32 and not np.allclose(
        few, novel_class_rows(people(), 3, way, seed=4)
    )


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"2 people or more, \(1, 16\)"):
        novel_class_rows(people(1), 2, "away", seed=0)
    with pytest.raises(ValueError, match="got 'beside', 2"):
        novel_class_rows(people(), 2, "beside", seed=0)
    with pytest.raises(ValueError, match="all alike"):
        novel_class_rows(np.ones((3, 4)), 2, "between", seed=0)
