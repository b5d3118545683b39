"""Splits never share an image, nest over the number of training images, and suit the protocol."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsyn_jax.data.identity_dataset import IdentityDataset, Subset
from rlsyn_jax.data.splits import search_split, split_dataset, training_side

_OPTIONS = {
    "held_out_fraction": 0.3,
    "train_images_per_identity": 0,
    "closed_images_per_identity": 2,
    "seed": 0,
}


def _dataset(counts, cameras=None):
    identities = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return IdentityDataset(
        name="toy",
        images=np.zeros((len(identities), 2, 2, 1), np.uint8),
        identities=identities,
        cameras=np.zeros(len(identities), np.int32) if cameras is None else cameras,
        identity_names=tuple(f"person{i}" for i in range(len(counts))),
        file_names=tuple(f"{i}.png" for i in range(len(identities))),
        has_cameras=cameras is not None,
    )


def _split(dataset, **options):
    return split_dataset(dataset, **_OPTIONS | options)


def _assert_sound(dataset, splits):
    sets = [splits.train, splits.closed_query, splits.open_query, splits.open_gallery]
    together = np.concatenate(sets)
    assert len(np.unique(together)) == len(together)
    labels = np.unique(dataset.identities)
    both = np.concatenate([splits.train_identities, splits.open_identities])
    np.testing.assert_array_equal(np.sort(both), labels)
    in_train = dataset.identities[np.concatenate(sets[:2])]
    assert np.isin(in_train, splits.train_identities).all()
    np.testing.assert_array_equal(
        np.unique(dataset.identities[splits.train]), splits.train_identities
    )
    held_out = np.flatnonzero(np.isin(dataset.identities, splits.open_identities))
    np.testing.assert_array_equal(np.sort(np.concatenate(sets[2:])), held_out)
    query, gallery = dataset.identities[splits.open_query], dataset.identities[splits.open_gallery]
    match = (query[:, None] == gallery[None]) & (
        splits.open_query_cameras[:, None] != splits.open_gallery_cameras[None]
    )
    assert match.any(axis=1).all()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_split_is_sound_and_nested(data):
    counts = data.draw(st.lists(st.integers(2, 7), min_size=4, max_size=9))
    num_cameras = data.draw(st.integers(1, 4))
    cameras = None
    if num_cameras > 1:
        cameras = np.array(
            data.draw(
                st.lists(
                    st.integers(0, num_cameras - 1), min_size=sum(counts), max_size=sum(counts)
                )
            ),
            np.int32,
        )
    dataset = _dataset(counts, cameras)
    seed = data.draw(st.integers(0, 5))
    try:
        all_images = _split(dataset, seed=seed)
    except ValueError as error:
        assert "different cameras" in str(error)
        return
    _assert_sound(dataset, all_images)
    smaller = None
    for number in (1, 2, 3, 9):
        splits = _split(dataset, seed=seed, train_images_per_identity=number)
        _assert_sound(dataset, splits)
        assert np.bincount(dataset.identities[splits.train]).max() <= number
        for field in ("closed_query", "open_query", "open_gallery", "train_identities"):
            np.testing.assert_array_equal(getattr(splits, field), getattr(all_images, field))
        assert np.isin(splits.train, all_images.train).all()
        assert smaller is None or np.isin(smaller, splits.train).all()
        smaller = splits.train


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.0, 0), (0.01, 1), (0.25, 2), (0.5, 5), (0.79, 8)]
)
def test_number_of_held_out_identities(fraction, expected):
    splits = _split(_dataset([4] * 10), held_out_fraction=fraction)
    assert len(splits.open_identities) == expected
    assert len(splits.train_identities) == 10 - expected
    assert (len(splits.open_query) > 0) == (expected > 0)


def test_same_seed_same_split_and_another_seed_another():
    dataset = _dataset([5] * 12)
    first, same, other = _split(dataset), _split(dataset), _split(dataset, seed=1)
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(same, field.name))
    assert not np.array_equal(first.train, other.train)
    assert not np.array_equal(first.open_identities, other.open_identities)


def test_numbers_of_images_of_each_set():
    dataset = _dataset([5] * 10)
    splits = _split(dataset, train_images_per_identity=2)
    assert (np.bincount(dataset.identities[splits.train])[splits.train_identities] == 2).all()
    assert len(splits.closed_query) == 2 * 7
    assert len(_split(dataset).train) == 3 * 7
    assert len(splits.open_query) == 2 * 3
    assert len(splits.open_gallery) == 3 * 3
    assert (splits.open_query_cameras == 0).all()
    assert (splits.open_gallery_cameras == 1).all()
    assert len(_split(dataset, closed_images_per_identity=0).closed_query) == 0


def test_one_query_from_each_camera():
    cameras = np.tile(np.array([0, 0, 1, 1, 2, 2], np.int32), 6)
    dataset = _dataset([6] * 6, cameras)
    splits = _split(dataset, held_out_fraction=0.5)
    pairs = list(zip(dataset.identities[splits.open_query], splits.open_query_cameras))
    assert len(pairs) == len(set(pairs)) == 9
    np.testing.assert_array_equal(splits.open_query_cameras, cameras[splits.open_query])
    np.testing.assert_array_equal(splits.open_gallery_cameras, cameras[splits.open_gallery])


def test_queries_without_a_match_from_another_camera_stay_in_the_gallery():
    cameras = np.tile(np.array([3, 3, 5], np.int32), 6)
    splits = _split(_dataset([3] * 6, cameras), held_out_fraction=0.5)
    _assert_sound(_dataset([3] * 6, cameras), splits)
    for query_camera in splits.open_query_cameras:
        assert query_camera in (3, 5)
    with pytest.raises(ValueError, match="two images from different cameras"):
        _split(_dataset([3] * 6, np.zeros(18, np.int32)))


def test_single_images_train_and_are_counted():
    splits = _split(_dataset([1, 1, 4, 4]), held_out_fraction=0.0)
    assert {0, 1} <= set(splits.train)
    np.testing.assert_array_equal(splits.identities_without_closed_query, [0, 1])
    with pytest.raises(ValueError, match="second image"):
        _split(_dataset([1, 1, 1]), held_out_fraction=0.0)
    splits = _split(_dataset([1, 1]), held_out_fraction=0.0, closed_images_per_identity=0)
    assert len(splits.identities_without_closed_query) == 0
    with pytest.raises(ValueError, match="has two images"):
        _split(_dataset([1, 1, 1, 1]), closed_images_per_identity=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out_fraction": 1.0}, "held_out_fraction is 1.0"),
        ({"held_out_fraction": -0.1}, "held_out_fraction is -0.1"),
        ({"held_out_fraction": 0.9}, "leaves 1 to train on; at least 2"),
        ({"train_images_per_identity": -1}, "train_images_per_identity is -1"),
        ({"closed_images_per_identity": -2}, "closed_images_per_identity is -2"),
        ({"seed": -3}, "seed is -3"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        _split(_dataset([4] * 10), **options)


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(2, 6), min_size=1, max_size=6), seed=st.integers(0, 3))
def test_a_whole_data_set_is_searched(counts, seed):
    dataset = _dataset(counts)
    splits = search_split(dataset, seed=seed)
    _assert_sound(dataset, splits)
    assert not len(splits.train) and not len(splits.closed_query)
    assert splits.open_identities.tolist() == list(range(len(counts)))


@pytest.mark.parametrize("published", [False, True])
def test_the_training_side_has_all_but_what_tests(published):
    dataset = _dataset([5] * 8)
    if published:
        subsets = np.repeat([Subset.TRAIN, Subset.QUERY], [25, 15]).astype(np.int8)
        subsets[[27, 32]] = Subset.GALLERY
        dataset = dataclasses.replace(dataset, subsets=subsets)
    splits = _split(dataset, train_images_per_identity=1)
    side = training_side(dataset, splits)
    tested = np.concatenate([splits.closed_query, splits.open_query, splits.open_gallery])
    if published:
        tested = np.union1d(tested, np.arange(25, 40))
    expected = np.setdiff1d(np.arange(len(dataset.identities)), tested)
    assert side.file_names == tuple(f"{image}.png" for image in expected)
    assert side.subsets is None
    assert side.identity_names == tuple(f"person{i}" for i in splits.train_identities)
    again = _split(side, train_images_per_identity=1)
    assert len(again.open_query) and len(again.closed_query) and len(again.train)


def test_a_published_query_and_gallery_are_searched_as_they_are():
    dataset = dataclasses.replace(
        _dataset([2, 3, 2], np.arange(7, dtype=np.int32)),
        subsets=np.array([0, 0, 1, 2, 2, 3, 3], np.int8),
    )
    kinds = [Subset.TRAIN, Subset.QUERY, Subset.GALLERY, Subset.DISTRACTOR]
    dataset = dataclasses.replace(
        dataset, subsets=np.array([kinds[each] for each in dataset.subsets], np.int8)
    )
    splits = search_split(dataset, seed=0)
    assert splits.open_query.tolist() == [2] and splits.open_gallery.tolist() == [3, 4, 5, 6]
    assert splits.open_query_people.tolist() == [2]
    assert splits.open_gallery_people.tolist() == [2, 2, 0, 0]
    assert splits.open_query_cameras.tolist() == [2]
    assert splits.open_identities.tolist() == [1]
    without = dataclasses.replace(dataset, subsets=np.full(7, Subset.TRAIN, np.int8))
    with pytest.raises(ValueError, match="has no query"):
        search_split(without, seed=0)
    with pytest.raises(ValueError, match="seed is -1"):
        search_split(dataset, seed=-1)
