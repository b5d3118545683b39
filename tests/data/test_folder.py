"""A folder of identities is read in order; whatever is wrong with it is named with its path."""

import os

import numpy as np
import pytest
from PIL import Image

from rlsyn_jax.data.folder import camera_of, natural_order, read_folder


def _write(path, value=100, size=(6, 8), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).convert(mode).save(path)


def _folder(tmp_path, files):
    for number, file in enumerate(files):
        _write(tmp_path / file, value=number * 10)
    return tmp_path


def _read(path, **options):
    return read_folder(path, **{"image_size": (8, 6), "channels": 1} | options)


def test_reads_in_natural_order_with_labels_and_values(tmp_path):
    files = ["s2/1.png", "s2/2.png", "s2/10.png", "s10/1.bmp", "s10/B.PNG", "s10/a.tif"]
    dataset = _read(_folder(tmp_path / "orl", files))
    assert dataset.name == "orl"
    assert dataset.identity_names == ("s2", "s10")
    assert dataset.file_names == tuple(files)
    np.testing.assert_array_equal(dataset.identities, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(dataset.images[:, 3, 3, 0], np.arange(6) * 10)
    assert dataset.images.shape == (6, 8, 6, 1) and dataset.images.dtype == np.uint8
    assert not dataset.has_cameras and (dataset.cameras == 0).all()
    assert _read(tmp_path / "orl", name="other").name == "other"


def test_mixed_sizes_modes_and_kinds(tmp_path):
    _write(tmp_path / "a" / "1.pgm", 50, (9, 30))
    _write(tmp_path / "a" / "2.jpg", 50, mode="CMYK")
    _write(tmp_path / "a" / "3.webp", 50, mode="RGB")
    _write(tmp_path / "b" / "4.png", 50, mode="RGBA")
    _write(tmp_path / "b" / "5.jpeg", 50)
    _write(tmp_path / "b" / "6.ppm", 50, mode="RGB")
    dataset = _read(tmp_path, channels=3)
    assert dataset.images.shape == (6, 8, 6, 3)
    assert (np.abs(dataset.images.astype(int) - 50) < 6).all()


@pytest.mark.parametrize(
    ("name", "camera"),
    [
        ("0002_c1s1_000451_03.jpg", 1),
        ("cam_c2.png", 2),
        ("x_c12_4.png", 12),
        ("a_c3/plain.png", None),
        ("x_cat.png", None),
        ("x_c4x.png", None),
        ("c5.png", None),
        ("x_C5.png", None),
    ],
)
def test_camera_of(name, camera):
    assert camera_of(name) == camera


def test_cameras_are_known_only_where_every_image_has_one(tmp_path):
    _folder(tmp_path, ["1/1_c1s1.png", "1/1_c2s1.png", "2/2_c3.png"])
    dataset = _read(tmp_path)
    assert dataset.has_cameras
    np.testing.assert_array_equal(dataset.cameras, [1, 2, 3])
    _write(tmp_path / "2" / "plain.png")
    dataset = _read(tmp_path)
    assert not dataset.has_cameras
    np.testing.assert_array_equal(dataset.cameras, 0)


def test_natural_order_is_total():
    names = ["a10", "a2", "a02", "1a", "b", "a", "10", "9"]
    assert sorted(names, key=natural_order) == ["1a", "9", "10", "a", "a02", "a2", "a10", "b"]


def test_other_files_hidden_files_and_unicode_names(tmp_path):
    _folder(tmp_path, ["Zoë 李/ü.png", "Ångström/1.png", "Ångström/Ø 2.png"])
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "Ångström" / "notes.txt").write_text("x")
    (tmp_path / "Ångström" / "._1.png").write_bytes(b"")
    (tmp_path / ".cache").mkdir()
    dataset = _read(tmp_path)
    assert dataset.identity_names == ("Zoë 李", "Ångström")
    assert dataset.file_names[0] == "Zoë 李/ü.png"


def test_single_images_and_links_are_accepted(tmp_path):
    _folder(tmp_path / "real", ["a/1.png", "b/1.png"])
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").symlink_to(tmp_path / "real" / "a")
    (tmp_path / "set" / "b").mkdir()
    (tmp_path / "set" / "b" / "2.png").symlink_to(tmp_path / "real" / "b" / "1.png")
    assert _read(tmp_path / "set").file_names == ("a/1.png", "b/2.png")


def _missing(path):
    return path / "absent", "absent does not exist; expected one folder for each identity"


def _is_a_file(path):
    (path / "set.zip").write_bytes(b"x")
    return path / "set.zip", "set.zip is a file; expected"


def _empty(path):
    return path, "holds no identity folders; expected"


def _one_identity(path):
    _folder(path, ["anna/1.png", "anna/2.png"])
    return path, "only one identity, 'anna'; at least two"


def _identity_without_images(path):
    _folder(path, ["a/1.png", "b/1.png"])
    (path / "empty").mkdir()
    return path, "empty holds no images; expected at least one file that ends in .jpg"


def _images_that_are_not_read(path):
    _folder(path, ["a/1.png", "b/1.png"])
    (path / "b" / "1.png").rename(path / "b" / "1.HEIC")
    return path, "b holds no images; .*, and there are 1 of .HEIC. Convert them"


def _loose_images(path):
    _folder(path, ["a/1.png", "b/1.png", "c.png", "d.png"])
    return path, r"holds 2 images directly, 'c.png' among them; expected one folder.*PATH/IDENTITY"


def _truncated(path):
    _folder(path, ["a/1.png", "b/1.png"])
    (path / "a" / "2.png").write_bytes((path / "a" / "1.png").read_bytes()[:-20])
    return path, "a/2.png cannot be read"


def _zero_bytes(path):
    _folder(path, ["a/1.png", "b/1.png"])
    (path / "a" / "2.png").touch()
    return path, r"a/2.png is empty \(0 bytes\)"


def _dangling_link(path):
    _folder(path, ["a/1.png", "b/1.png"])
    (path / "a" / "2.png").symlink_to(path / "gone.png")
    return path, "a/2.png cannot be opened: No such file"


def _dangling_identity(path):
    _folder(path, ["a/1.png", "b/1.png"])
    (path / "c").symlink_to(path / "gone")
    return path, "c is a link to nothing"


def _folder_named_like_an_image(path):
    _folder(path, ["a/1.png", "b/1.png"])
    (path / "a" / "2.jpg").mkdir()
    return path, "a holds the folder '2.jpg'"


def _one_level_too_high(path):
    _folder(path, ["set1/a/1.png", "set2/b/1.png"])
    return path, "set1 holds the folder 'a'.*one level further down"


def _pipe(path):
    _folder(path, ["a/1.png", "b/1.png"])
    os.mkfifo(path / "a" / "2.png")
    return path, "a/2.png is a device or pipe"


def _differ_in_case(path):
    _folder(path, ["Anna/1.png", "anna/1.png"])
    return path, "'Anna' and 'anna', whose names differ only in upper and lower case"


def _differ_in_normalisation(path):
    _folder(path, ["Zo\u00eb/1.png", "Zoe\u0308/1.png"])
    return path, "identities 'Zoe.*' and 'Zo.*', whose names differ only"


def _not_utf8(path):
    _folder(path, ["a/1.png", "b/1.png"])
    os.mkdir(os.fsencode(path) + b"/caf\xe9")
    return path, "not valid UTF-8"


def _bomb(path):
    _folder(path, ["a/1.png", "b/1.png"])
    _write(path / "b" / "2.png", size=(500, 500))
    return path, "b/2.png claims to be larger than 10000 pixels"


@pytest.mark.parametrize(
    "make",
    [
        _missing, _is_a_file, _empty, _one_identity, _identity_without_images,
        _images_that_are_not_read, _loose_images,
        _truncated, _zero_bytes, _dangling_link, _dangling_identity, _folder_named_like_an_image,
        _one_level_too_high, _pipe, _differ_in_case, _differ_in_normalisation, _not_utf8, _bomb,
    ],
)  # fmt: skip
def test_bad_folders_are_named_with_what_would_be_right(tmp_path, monkeypatch, make):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10000)
    path, message = make(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        _read(path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("make", [_truncated, _zero_bytes, _dangling_link, _bomb])
def test_damaged_images_are_skipped_and_logged_where_asked(tmp_path, monkeypatch, caplog, make):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10000)
    path, _ = make(tmp_path)
    dataset = _read(path, skip_damaged=True)
    assert dataset.file_names == ("a/1.png", "b/1.png")
    np.testing.assert_array_equal(dataset.identities, [0, 1])
    np.testing.assert_array_equal(dataset.images[:, 0, 0, 0], [0, 10])
    assert "2.png" in caplog.text and "1 of 3 images" in caplog.text


def test_an_identity_with_only_damaged_images_is_an_error(tmp_path):
    _folder(tmp_path, ["a/1.png", "b/1.png"])
    for identity in ("a", "b"):
        (tmp_path / identity / "1.png").write_bytes(b"")
        with pytest.raises(ValueError, match="None of the 1 images in .*a can be read"):
            _read(tmp_path, skip_damaged=True)
        _write(tmp_path / "b" / "1.png")
