"""A data set checks its parts, gives subsets, and maps its pixels there and back."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsyn_jax.data.identity_dataset import IdentityDataset, to_device_range, to_uint8


def make(**changes):
    parts = {
        "name": "faces",
        "images": np.arange(6 * 12, dtype=np.uint8).reshape(6, 2, 2, 3),
        "identities": np.array([0, 0, 1, 2, 2, 2], np.int64),
        "cameras": np.array([0, 1, 0, 0, 1, 5], np.uint8),
        "identity_names": ("ann", "ben", "cat"),
        "file_names": tuple(f"{i}.png" for i in range(6)),
    }
    return IdentityDataset(**{**parts, **changes})


def test_labels_become_int32_and_the_data_set_cannot_be_changed():
    dataset = make()
    assert dataset.identities.dtype == dataset.cameras.dtype == np.int32
    assert dataset.num_identities == 3 and dataset.has_cameras
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "others"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((6, 2, 2, 3))}, r"uint8 .*, got float64 \(6, 2, 2, 3\)"),
        ({"images": np.zeros((6, 2, 2), np.uint8)}, r"got uint8 \(6, 2, 2\)"),
        ({"images": np.zeros((6, 2, 2, 4), np.uint8)}, r"1 or 3\], got uint8 \(6, 2, 2, 4\)"),
        ({"images": np.zeros((0, 2, 2, 3), np.uint8)}, "there is no image"),
        ({"identities": np.zeros(5, int)}, r"identities must be integers \[6\].*int64 \(5,\)"),
        ({"identities": np.zeros(6)}, r"identities must be integers.*float64 \(6,\)"),
        ({"identities": np.array([0, 0, 1, -1, 2, 2])}, "identities must be 0 or more, got -1"),
        ({"identities": np.array([0, 0, 1, 3, 2, 2])}, "identity 3 has no name; there are 3 names"),
        ({"cameras": np.zeros((6, 1), int)}, r"cameras must be integers \[6\].*\(6, 1\)"),
        ({"cameras": np.array([0, 0, 0, 0, 0, -2])}, "cameras must be 0 or more, got -2"),
        ({"file_names": ("a", "b")}, "2 file names for 6 images"),
    ],
)
def test_parts_that_do_not_fit_are_told_with_the_data_set_s_name(changes, message):
    with pytest.raises(ValueError, match=f"^faces: .*{message}"):
        make(**changes)


def test_a_subset_takes_every_part_in_the_asked_order():
    dataset = make()
    part = dataset.subset(np.array([5, 0, 3]))
    np.testing.assert_array_equal(part.images, dataset.images[[5, 0, 3]])
    np.testing.assert_array_equal(part.identities, [2, 0, 2])
    np.testing.assert_array_equal(part.cameras, [5, 0, 0])
    assert part.file_names == ("5.png", "0.png", "3.png")
    assert part.identity_names == ("ann", "ben", "cat") and part.num_identities == 3


@settings(max_examples=30, deadline=None)
@given(indices=st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_relabelling_numbers_the_people_left_and_keeps_their_names(indices):
    dataset = make()
    part = dataset.subset(indices, relabel=True)
    assert part.identities.dtype == np.int32
    assert set(part.identities) == set(range(part.num_identities))
    for place, index in enumerate(indices):
        own = part.identity_names[part.identities[place]]
        assert own == dataset.identity_names[dataset.identities[index]]


def test_a_subset_without_an_image_is_refused():
    with pytest.raises(ValueError, match="faces: there is no image"):
        make().subset(np.array([], int))


def test_pixels_go_to_minus_one_to_one_and_back_unchanged():
    pixels = jnp.arange(256, dtype=jnp.uint8)
    values = to_device_range(pixels)
    np.testing.assert_allclose(values, np.linspace(-1, 1, 256), atol=1e-6)
    assert values.dtype == jnp.float32 and to_uint8(values).dtype == jnp.uint8
    np.testing.assert_array_equal(to_uint8(values), pixels)


def test_values_are_clipped_and_rounded_to_the_nearest_pixel():
    values = jnp.array([-7.0, 7.0, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 1 - 0.6 / 127.5])
    np.testing.assert_array_equal(to_uint8(values), [0, 255, 0, 1, 254])
