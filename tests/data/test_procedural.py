"""The drawn world: what depends on which number, and that people can be told apart."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from rlsyn_jax.data.procedural import make_procedural_dataset


def make(**options):
    options = {"num_identities": 6, "images_per_identity": 5, "image_size": 16, **options}
    return make_procedural_dataset(**options)


def image_factors(factors):
    """Names of the factors that differ between the first two images of one person."""
    return {name for name, values in factors.items() if values[0] != values[1]}


def test_the_same_seed_gives_the_same_bytes_in_another_process():
    code = (
        "import hashlib; from rlsyn_jax.data.procedural import make_procedural_dataset as make;"
        "print(hashlib.sha256(make(num_identities=6, images_per_identity=5, image_size=16, seed=3)"
        "[0].images.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    here = make(seed=3)[0].images
    assert hashlib.sha256(here.tobytes()).hexdigest() == other.stdout.strip()
    np.testing.assert_array_equal(here, make(seed=3)[0].images)
    assert np.any(here != make(seed=4)[0].images, axis=(1, 2, 3)).all()


def test_the_data_set_says_who_is_where_and_which_camera_took_it():
    dataset, factors = make(num_cameras=3, name="drawn", identity_offset=10)
    assert dataset.name == "drawn" and dataset.has_cameras and dataset.num_identities == 6
    assert dataset.images.shape == (30, 16, 16, 3) and dataset.images.dtype == np.uint8
    np.testing.assert_array_equal(dataset.identities, np.repeat(np.arange(6), 5))
    np.testing.assert_array_equal(dataset.cameras, factors["camera"])
    assert dataset.identity_names[2] == "person_000012"
    assert dataset.file_names[11] == f"person_000012/0001_c{dataset.cameras[11] + 1}.png"
    assert len(set(dataset.file_names)) == 30
    assert {values.shape for values in factors.values()} == {(30,)}


def test_cameras_take_turns_for_every_person():
    dataset, _ = make(images_per_identity=8, num_cameras=4)
    for person in range(6):
        cameras = dataset.cameras[dataset.identities == person]
        np.testing.assert_array_equal(np.bincount(cameras), [2, 2, 2, 2])
        np.testing.assert_array_equal(np.diff(cameras) % 4, 1)
    # One image a person: still not one camera for all.
    assert len(set(make(images_per_identity=1)[0].cameras)) == 4


def test_a_person_keeps_own_factors_while_image_factors_change():
    _, factors = make()
    changing = image_factors(factors)
    assert {"yaw", "light", "expression", "camera"} <= changing
    assert {"face_width", "skin_tone", "glasses", "beard"}.isdisjoint(changing)
    for name, values in factors.items():
        people = values.reshape(6, 5)
        if name in changing - {"camera"}:
            assert len(np.unique(values)) == 30
        elif name != "camera":
            assert (people == people[:, :1]).all() and len(np.unique(people)) == 6


def test_an_image_does_not_depend_on_how_many_others_are_drawn():
    many, _ = make(num_identities=15, images_per_identity=5)
    few, _ = make(num_identities=2, images_per_identity=3)
    later, _ = make(num_identities=2, images_per_identity=5, identity_offset=13)
    places = [0, 1, 2, 5, 6, 7]
    np.testing.assert_array_equal(few.images, many.images[places])
    # Seventy-five images are drawn in two parts; the last people lie in both.
    np.testing.assert_array_equal(later.images, many.images[65:])
    assert later.identity_names == many.identity_names[13:]


def test_disjoint_ranges_are_different_people():
    first, first_factors = make(num_identities=10)
    second, second_factors = make(num_identities=10, identity_offset=10)
    assert set(first.identity_names).isdisjoint(second.identity_names)
    for name in ("face_width", "skin_tone", "yaw"):
        assert set(first_factors[name]).isdisjoint(second_factors[name])


def test_images_of_different_people_differ_more_than_those_of_one():
    dataset, _ = make(num_identities=20, images_per_identity=6, num_cameras=1)
    pixels = dataset.images.reshape(120, -1).astype(float)
    squared = np.square(pixels[:, None] - pixels[None]).mean(-1)
    same = dataset.identities[:, None] == dataset.identities[None]
    others = ~same
    np.fill_diagonal(same, False)
    assert np.median(squared[others]) > 1.3 * np.median(squared[same])
    np.fill_diagonal(squared, np.inf)
    hits = dataset.identities[squared.argmin(1)] == dataset.identities
    # Guessing is right for one in twenty.
    assert hits.mean() > 0.4


def test_each_camera_has_its_own_colour_cast_brightness_and_background():
    dataset, _ = make(num_identities=30, images_per_identity=8, num_cameras=4)
    rows = []
    for camera in range(4):
        images = dataset.images[dataset.cameras == camera].astype(float)
        red, green, blue = face = images[:, 5:11, 5:11].mean(axis=(0, 1, 2))
        corner = images[:, :2, :2].mean(axis=(0, 1, 2)) / face
        rows.append([red / green, blue / green, face.mean(), *corner])
    # Sixty images a camera: what is people's own averages out to under a tenth of these.
    assert (np.ptp(rows, axis=0) > [0.15, 0.15, 15, 0.2, 0.2, 0.2]).all()
    alone, _ = make(num_cameras=1)
    assert (alone.cameras == 0).all()


def test_light_from_the_right_makes_the_right_half_of_faces_lighter():
    dataset, factors = make(num_identities=40, images_per_identity=5, image_size=32)
    face = dataset.images[:, 8:24, 8:24].astype(float).mean(axis=(1, 3))
    slope = face[:, 8:].mean(1) - face[:, :8].mean(1)
    assert np.corrcoef(slope, factors["light"])[0, 1] > 0.7


def test_sizes_show_the_same_picture():
    small, large = (make(image_size=size)[0].images.astype(float) for size in (16, 64))
    shrunk = large.reshape(30, 16, 4, 16, 4, 3).mean(axis=(2, 4))
    assert np.abs(shrunk - small).mean() < 6


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [
        ("num_identities", 1, 2),
        ("images_per_identity", 0, 1),
        ("image_size", 15, 16),
        ("seed", -1, 0),
        ("identity_offset", -1, 0),
        ("num_cameras", 0, 1),
    ],
)
def test_numbers_out_of_range_are_told(option, value, least):
    with pytest.raises(ValueError, match=f"{option} must be at least {least}, got {value}"):
        make(**{option: value})
