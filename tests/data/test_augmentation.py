"""The augmentations move pixels as they say, and act on every image by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.data.augmentation import random_affine, random_crop, random_erasing, random_flip

_KEY = jax.random.key(0)


def _images(batch=32, height=8, width=6, channels=3):
    return jax.random.uniform(jax.random.key(9), (batch, height, width, channels), minval=-1.0)


def _affine(key, images, fill=None):
    return random_affine(key, images, 10.0, 0.2, 0.1, fill)


def _erase(key, images):
    return random_erasing(key, images, 0.5)


def _crop(key, images):
    return random_crop(key, images, 2)


@pytest.mark.parametrize("function", [random_flip, _crop, _affine, _erase])
def test_keyed_jittable_and_shape_preserving(function):
    images = _images()
    changed = jax.jit(function)(_KEY, images)
    assert changed.shape == images.shape
    assert changed.dtype == images.dtype
    np.testing.assert_allclose(changed, function(_KEY, images), atol=1e-5)
    assert not np.array_equal(changed, function(jax.random.key(1), images))
    assert np.abs(changed).max() <= 1 + 1e-6
    same = jnp.broadcast_to(images[:1], images.shape)
    different = np.unique(np.asarray(function(_KEY, same)).reshape(len(images), -1), axis=0)
    assert len(different) > 1


def test_flip_gives_the_image_or_its_mirror_about_equally():
    images = _images(400)
    flipped = np.asarray(random_flip(_KEY, images))
    images = np.asarray(images)
    same = (flipped == images).all(axis=(1, 2, 3))
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert 140 < same.sum() < 260


def test_crop_shifts_within_the_padding():
    images = _images(200, channels=1)
    cropped = np.asarray(random_crop(_KEY, images, 1, fill=0.5))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=0.5)
    shifts = [(row, column) for row in range(3) for column in range(3)]
    found = np.array(
        [(cropped == padded[:, r : r + 8, c : c + 6]).all(axis=(1, 2, 3)) for r, c in shifts]
    )
    assert (found.sum(axis=0) == 1).all()
    assert (found.sum(axis=1) > 0).all()
    np.testing.assert_array_equal(random_crop(_KEY, images, 0), images)


def test_affine_without_ranges_changes_nothing_and_edges_are_filled():
    images = _images()
    np.testing.assert_allclose(random_affine(_KEY, images, 0.0, 0.0, 0.0), images, atol=1e-5)
    ones = jnp.ones_like(images)
    np.testing.assert_allclose(_affine(_KEY, ones), ones, atol=1e-5)
    assert _affine(_KEY, ones, -1.0).min() < 0


def test_affine_translates_by_at_most_the_given_fraction():
    images = jnp.zeros((300, 21, 11, 1)).at[:, 10, 5].set(1.0)
    moved = np.asarray(random_affine(_KEY, images, 0.0, 0.0, 0.2))[..., 0]
    mass = moved.sum(axis=(1, 2))
    np.testing.assert_allclose(mass, 1.0, atol=1e-4)
    rows = np.einsum("nhw,h->n", moved, np.arange(21.0)) - 10
    columns = np.einsum("nhw,w->n", moved, np.arange(11.0)) - 5
    assert 3.8 < np.abs(rows).max() <= 0.2 * 21 + 1e-3
    assert 1.9 < np.abs(columns).max() <= 0.2 * 11 + 1e-3


def test_affine_rotates_about_the_centre_and_scales():
    rows, columns = np.mgrid[-15:16, -15:16]
    blob = np.exp(-((rows**2) + (columns - 6) ** 2) / 3, dtype=np.float32)
    images = jnp.broadcast_to(blob[None, :, :, None], (200, 31, 31, 1))

    def positions(rotation, scale):
        moved = np.asarray(random_affine(_KEY, images, rotation, scale, 0.0))[..., 0]
        place = np.arange(31.0) - 15
        mass = moved.sum(axis=(1, 2))
        rows = np.einsum("nhw,h->n", moved, place) / mass
        columns = np.einsum("nhw,w->n", moved, place) / mass
        return np.hypot(rows, columns), np.degrees(np.arctan2(rows, columns))

    radius, angle = positions(40.0, 0.0)
    np.testing.assert_allclose(radius, 6.0, atol=0.1)
    assert 38 < angle.max() < 40.5
    assert -40.5 < angle.min() < -38
    radius, angle = positions(0.0, 0.4)
    np.testing.assert_allclose(angle, 0.0, atol=0.1)
    assert 8.1 < radius.max() < 8.45
    assert 4.25 < radius.min() < 4.45


def test_erasing_cuts_one_rectangle_of_the_given_area():
    images = jnp.zeros((500, 32, 16, 3))
    erased = np.asarray(random_erasing(_KEY, images, 0.5, (0.1, 0.3), fill=1.0))[..., 0] == 1
    some = erased.any(axis=(1, 2))
    assert 200 < some.sum() < 300
    rows, columns = erased.any(axis=2), erased.any(axis=1)
    heights, widths = rows.sum(axis=1), columns.sum(axis=1)
    np.testing.assert_array_equal(erased.sum(axis=(1, 2)), heights * widths)
    np.testing.assert_array_equal(erased, rows[:, :, None] & columns[:, None, :])
    share = (heights * widths / 512)[some]
    assert 0.08 < share.min() < 0.13
    assert 0.25 < share.max() < 0.34
    assert rows[:, 0].any() and rows[:, -1].any() and columns[:, 0].any() and columns[:, -1].any()


def test_erasing_probabilities_zero_and_one_and_noise():
    images = jnp.full((20, 16, 16, 1), 0.25)
    np.testing.assert_array_equal(random_erasing(_KEY, images, 0.0), images)
    erased = np.asarray(random_erasing(_KEY, images, 1.0))
    assert (erased != 0.25).any(axis=(1, 2, 3)).all()
    values = erased[erased != 0.25]
    assert values.min() < -0.9 and values.max() > 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: random_crop(_KEY, x, -1), "padding is -1"),
        (lambda x: random_affine(_KEY, x, -1.0, 0, 0), "max_rotation_degrees"),
        (lambda x: random_affine(_KEY, x, 0, 0, -0.1), "max_translation"),
        (lambda x: random_erasing(_KEY, x, 1.5), "probability is 1.5"),
        (lambda x: random_erasing(_KEY, x, 0.5, (0.5, 0.2)), "area is"),
        (lambda x: random_erasing(_KEY, x, 0.5, ratio=0.0), "ratio is"),
    ],
)
def test_bad_ranges_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(_images())
