"""Alignment against a least-squares solution by linear equations, and pixels that must move."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsyn_jax.data.face_alignment import (
    ARCFACE_TEMPLATE,
    align_face,
    similarity_transform,
)


def by_linear_equations(source, target):
    """The best (a, b, t): x' = a x - b y + t_x, y' = b x + a y + t_y, which cannot reflect."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, t_x, t_y = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return np.array([[a, -b, t_x], [b, a, t_y]])


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**32), number=st.integers(2, 8), mirrored=st.booleans())
def test_the_similarity_is_the_least_squares_one(seed, number, mirrored):
    random = np.random.default_rng(seed)
    source = random.normal(size=(number, 2)) * 40 + 60
    target = random.normal(size=(number, 2)) * 5 + source * 0.7
    if mirrored:
        target[:, 0] *= -1
    expected = by_linear_equations(source, target)
    scale = np.hypot(*expected[:, 0])
    if scale < 1e-2:  # Where nothing turns better than another way, both may choose.
        return
    np.testing.assert_allclose(similarity_transform(source, target), expected, atol=1e-7)


def test_a_known_similarity_is_found():
    angle, scale, shift = 0.3, 1.7, np.array([5.0, -40.0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = similarity_transform(ARCFACE_TEMPLATE, ARCFACE_TEMPLATE @ turn.T + shift)
    np.testing.assert_allclose(matrix, np.column_stack([turn, shift]), atol=1e-9)


def test_agrees_with_scikit_image():
    transform = pytest.importorskip("skimage.transform")
    points = ARCFACE_TEMPLATE * 2.1 + np.random.default_rng(0).normal(size=(5, 2)) * 6
    expected = transform.SimilarityTransform.from_estimate(points, ARCFACE_TEMPLATE).params[:2]
    np.testing.assert_allclose(similarity_transform(points, ARCFACE_TEMPLATE), expected, atol=1e-9)
    image = np.random.default_rng(1).integers(0, 256, (250, 250, 3)).astype(np.uint8)
    inverse = transform.AffineTransform(np.vstack([expected, [0, 0, 1]])).inverse
    reference = 255 * transform.warp(image, inverse, order=1, output_shape=(112, 112))
    assert np.abs(align_face(image, points).astype(float) - reference).max() <= 1


def test_a_face_that_lies_right_stays(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    np.testing.assert_array_equal(align_face(image, ARCFACE_TEMPLATE), image)


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, -7), (20, 11)])
def test_a_face_that_lies_aside_is_moved_by_whole_pixels(dx, dy):
    image = np.random.default_rng(0).integers(0, 256, (160, 160, 1)).astype(np.uint8)
    moved = align_face(image, ARCFACE_TEMPLATE + [20 + dx, 20 + dy])
    np.testing.assert_array_equal(moved, image[20 + dy :, 20 + dx :][:112, :112])


def test_a_quarter_turn_is_turned_back():
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    turned = np.rot90(image)  # Point (x, y) comes to (y, 111 - x).
    landmarks = np.column_stack([ARCFACE_TEMPLATE[:, 1], 111 - ARCFACE_TEMPLATE[:, 0]])
    np.testing.assert_array_equal(align_face(np.ascontiguousarray(turned), landmarks), image)


def test_landmarks_are_at_the_template_at_every_size():
    points = ARCFACE_TEMPLATE * 1.5 + [30, 10]
    image = np.zeros((250, 250, 1), np.uint8)
    for x, y in np.round(points).astype(int):
        image[y - 4 : y + 5, x - 4 : x + 5] = 255
    for size in (56, 112, 224):
        aligned = align_face(image, points, size=size)[..., 0].astype(float)
        assert aligned.shape == (size, size)
        for x, y in ARCFACE_TEMPLATE * (size / 112):
            assert aligned[round(y), round(x)] > 200
        assert aligned[0, 0] == 0


@pytest.mark.parametrize(
    ("image", "landmarks", "size", "message"),
    [
        (np.zeros((9, 9)), ARCFACE_TEMPLATE, 112, "image must be uint8"),
        (np.zeros((9, 9, 3), np.uint8), ARCFACE_TEMPLATE[:4], 112, r"landmarks must be \[5, 2\]"),
        (np.zeros((9, 9, 3), np.uint8), np.full((5, 2), np.nan), 112, "finite"),
        (np.zeros((9, 9, 3), np.uint8), np.full((5, 2), 3.0), 112, "all landmarks are at"),
        (np.zeros((9, 9, 3), np.uint8), ARCFACE_TEMPLATE, 0, "size is 0"),
    ],
)
def test_what_is_no_face_is_named(image, landmarks, size, message):
    with pytest.raises(ValueError, match=message):
        align_face(image, landmarks, size=size)
    with pytest.raises(ValueError, match="expected as many"):
        similarity_transform(ARCFACE_TEMPLATE, ARCFACE_TEMPLATE[:3])
