"""Recognition networks by name: sizes, colours, settings, and weights that fit or do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rlsyn_jax.recognition.networks import (
    NETWORKS,
    build_network,
    check_fits,
    embedding_width,
    network_settings,
)

SMALL = {"width": 4, "embedding_dim": 6}


def shapes_of(network, image_shape):
    image = jnp.zeros((1, *image_shape))
    return jax.eval_shape(lambda key: network.init(key, image, train=False), jax.random.key(0))


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("small_resnet", 128),
        ("resnet50", 2048),
        ("resnet50_ibn", 2048),
        ("osnet", 512),
        ("osnet_x0_25", 512),
        ("vit_base_16", 768),
        ("iresnet18", 512),
        ("iresnet50", 512),
        ("iresnet100", 512),
    ],
)
def test_every_network_embeds_images_of_another_size(name, width):
    network = build_network(name, image_size=(64, 32))
    shapes = shapes_of(network, (48, 48, 3))
    assert embedding_width(network, shapes, (48, 48, 3)) == width
    assert set(shapes) == {"params", "batch_stats"}


def test_the_list_of_networks_is_what_was_tested():
    assert len(NETWORKS) == 9


def test_images_are_resized_before_the_network():
    network = build_network("small_resnet", image_size=(8, 4), **SMALL)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    images = jnp.asarray(pixels, jnp.float32)[None] / 127.5 - 1
    resized = np.asarray(network.resize(images)[0] + 1) * 127.5
    # Pillow's triangle filter also widens with the reduction.
    expected = np.asarray(Image.fromarray(pixels).resize((4, 8), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(resized, expected, atol=1.0)
    variables = network.init(jax.random.key(0), images, train=False)
    outside = network.module.apply(variables, network.resize(images), train=False)[1]
    np.testing.assert_array_equal(network.apply(variables, images, train=False)[1], outside)


def test_images_of_the_right_size_pass_as_they_are():
    network = build_network("small_resnet", image_size=(8, 8), **SMALL)
    images = jnp.ones((2, 8, 8, 3))
    assert network.resize(images) is images


def test_imagenet_colours_are_normalised_as_published():
    network = build_network("small_resnet", image_size=(8, 8), normalisation="imagenet", **SMALL)
    pixels = np.random.default_rng(0).uniform(0, 1, (2, 8, 8, 3)).astype(np.float32)
    images = jnp.asarray(pixels * 2 - 1)
    variables = network.init(jax.random.key(0), images, train=False)
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = network.module.apply(variables, (pixels - mean) / deviation, train=False)[1]
    actual = network.apply(variables, images, train=False)[1]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_settings_that_a_network_lacks_are_refused():
    assert network_settings("resnet50", pooling="gem") == {"pooling": "gem"}
    with pytest.raises(ValueError, match="vit_base_16 has no pooling and no width to choose"):
        network_settings("vit_base_16", width=8, pooling="gem")
    with pytest.raises(ValueError, match="must be one of"):
        network_settings("resnet51")
    with pytest.raises(ValueError, match="normalisation is 'zero'"):
        build_network("osnet", image_size=(8, 8), normalisation="zero")


def test_weights_of_another_network_are_listed():
    expected = shapes_of(build_network("small_resnet", image_size=(8, 8), **SMALL), (8, 8, 3))
    check_fits(expected, expected, "these weights")
    other = shapes_of(
        build_network("small_resnet", image_size=(8, 8), width=4, embedding_dim=5), (8, 8, 3)
    )
    other["params"].pop("Conv_0")
    with pytest.raises(ValueError, match=r"(?s)these weights .*missing: .*Conv_0.*must be \(6,\)"):
        check_fits(other, expected, "these weights")
