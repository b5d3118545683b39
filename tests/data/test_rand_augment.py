"""Every operation gives what Pillow's gives, and torchvision's where that is installed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from rlsyn_jax.data.rand_augment import (
    OPERATIONS,
    apply_operations,
    rand_augment,
    strengths_of,
)

SIZE = (24, 16)
# At none of these does a place lie in the middle between two pixels.
MAGNITUDES = (0, 7, 17, 30)
BATCH = 100
# These round once where Pillow and torchvision drop fractions, of greys, too: two levels at most.
ROUNDED = ("brightness", "color", "contrast", "sharpness", "auto_contrast")


def levels_of(images):
    return np.round((np.asarray(images) + 1) * 127.5).astype(int)


@functools.cache
def photograph(channels=3):
    """Smooth and a little noisy, as a photograph is; uint8 [h, w, c]."""
    random = np.random.default_rng(0)
    smooth = np.sin(np.mgrid[: SIZE[0], : SIZE[1]].sum(0) / 5)[..., None]
    noise = random.normal(size=(*SIZE, channels))
    return np.clip(110 + 50 * smooth + 20 * noise, 12, 230).astype(np.uint8)


SIGNED = OPERATIONS[OPERATIONS.index("shear_x") : OPERATIONS.index("posterize")]


def cases():
    """(operation, magnitude, strength), also the other way round where there is one."""
    for magnitude in MAGNITUDES:
        for name, strength in zip(OPERATIONS, strengths_of(magnitude, SIZE).tolist()):
            yield name, magnitude, strength
            if (
                OPERATIONS.index("shear_x")
                <= OPERATIONS.index(name)
                < OPERATIONS.index("posterize")
            ):
                yield name, magnitude, -strength


apply = jax.jit(apply_operations)


def levels_after(pixels, names, strengths):
    """Levels of one image after each of some operations; one program serves all tests."""
    images = np.broadcast_to(pixels, (BATCH, *SIZE, pixels.shape[-1])) / np.float32(127.5) - 1
    operations, given = np.zeros(BATCH, np.int32), np.zeros(BATCH, np.float32)
    operations[: len(names)] = [OPERATIONS.index(name) for name in names]
    given[: len(names)] = strengths
    return levels_of(apply(images, operations, given))[: len(names)]


@functools.cache
def changed(channels=3):
    """Levels after every case, of one photograph."""
    names, _, strengths = zip(*cases())
    return levels_after(photograph(channels), names, strengths)


def by_pillow(image, name, strength):
    def affine(*coefficients):
        return image.transform(image.size, Image.Transform.AFFINE, coefficients)

    factor = 1 + strength
    return {
        "identity": lambda: image,
        "shear_x": lambda: affine(1, strength, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, strength, 1, 0),
        "translate_x": lambda: affine(1, 0, -int(strength), 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, -int(strength)),
        "rotate": lambda: image.rotate(strength),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "posterize": lambda: ImageOps.posterize(image, int(strength)),
        "solarize": lambda: ImageOps.solarize(image, strength),
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }[name]()


def require_equal(found, expected, name, magnitude, strength):
    difference = np.abs(found - expected.astype(int))
    case = f"{name} of magnitude {magnitude}, strength {strength}"
    assert difference.max() <= (2 if name in ROUNDED else 0), case
    if magnitude >= 17 and strength:
        assert (found != photograph(found.shape[-1])).any(), case


@pytest.mark.parametrize("channels", [3, 1])
def test_operations_are_those_of_pillow(channels):
    pixels = photograph(channels)
    image = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
    for found, (name, magnitude, strength) in zip(changed(channels), cases()):
        if channels == 1 and name == "color":
            np.testing.assert_array_equal(found, pixels)
            continue
        expected = np.asarray(by_pillow(image, name, strength)).reshape(pixels.shape)
        if name == "rotate":  # Pillow's places have 16 bits behind the point.
            assert (found != expected).any(axis=-1).mean() < 0.02
            continue
        require_equal(found, expected, name, magnitude, strength)


@pytest.mark.slow  # Importing takes longest.
def test_operations_and_strengths_are_those_of_torchvision():
    torch = pytest.importorskip("torch")
    v2 = pytest.importorskip("torchvision.transforms.v2")
    reference = v2.RandAugment()
    names = dict(zip(OPERATIONS, reference._AUGMENTATION_SPACE))
    assert len(names) == len(reference._AUGMENTATION_SPACE)
    image = torch.from_numpy(photograph()).permute(2, 0, 1)
    for found, (name, magnitude, strength) in zip(changed(), cases()):
        values, signed = reference._AUGMENTATION_SPACE[names[name]]
        theirs = values(31, *SIZE)
        theirs = 0.0 if theirs is None else float(theirs[magnitude])
        scale = 255 if name == "solarize" else 1
        assert abs(strength) == pytest.approx(scale * theirs, abs=1e-4), name
        assert signed == (name in SIGNED)
        expected = reference._apply_image_or_video_transform(
            image, names[name], np.sign(strength) * theirs, v2.InterpolationMode.NEAREST, {}
        )
        expected = expected.permute(1, 2, 0).numpy()
        require_equal(found, expected, name, magnitude, strength)


def test_images_of_one_level_stay_without_a_number_that_is_none():
    names = ("auto_contrast", "equalize", "contrast", "sharpness", "color")
    pixels = np.full((*SIZE, 3), 90, np.uint8)
    for found in levels_after(pixels, names, [0.5] * 5):
        np.testing.assert_array_equal(found, pixels)


def test_each_image_draws_operations_of_its_own_and_all_of_them_come_up():
    pixels = np.broadcast_to(photograph(), (300, *SIZE, 3))
    images = jnp.asarray(pixels / np.float32(127.5) - 1)
    change = jax.jit(rand_augment, static_argnums=(2, 3))
    found = levels_of(change(jax.random.key(0), images, 1, 17))
    ways = [levels for levels, (_, magnitude, _) in zip(changed(), cases()) if magnitude == 17]
    assert len(ways) == 23  # Nine of the fourteen go both ways.
    which = np.array([[(image == way).all() for way in ways] for image in found])
    assert which.any(axis=1).all()
    counts = which.sum(axis=0)
    assert (counts > 0).all() and 8 <= counts[0] <= 40  # 21 of each operation.
    np.testing.assert_array_equal(levels_of(change(jax.random.key(0), images, 1, 17)), found)
    assert (levels_of(change(jax.random.key(1), images, 1, 17)) != found).any()
    several = levels_of(change(jax.random.key(0), images, 4, 17))
    unchanged = [(levels == pixels).all(axis=(1, 2, 3)).sum() for levels in (found, several)]
    assert unchanged[0] >= 8 and unchanged[1] <= 2


@pytest.mark.parametrize(
    ("number", "magnitude", "message"),
    [(0, 9, "num_operations is 0"), (1, 31, "magnitude is 31"), (1, -1, "magnitude is -1")],
)
def test_bad_settings_are_named(number, magnitude, message):
    with pytest.raises(ValueError, match=message):
        rand_augment(jax.random.key(0), jnp.zeros((1, *SIZE, 3)), number, magnitude)
