"""Embeddings of many images against the network applied to them one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.models.resnet import SmallResNet
from rlsyn_jax.recognition.embedding import class_logits, embed_images, make_embed

MODEL = SmallResNet(width=4, embedding_dim=6)


@pytest.fixture(scope="module")
def variables():
    shapes = jax.eval_shape(
        lambda: MODEL.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    )
    # Running statistics and scales that are not those of a fresh network, so that they show.
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * random.normal(size=leaf.shape), jnp.float32),
        shapes["params"],
    )
    statistics = jax.tree.map_with_path(
        lambda path, leaf: jnp.asarray(
            random.uniform(*((0.5, 1.5) if path[-1].key == "var" else (-0.5, 0.5)), leaf.shape),
            jnp.float32,
        ),
        shapes["batch_stats"],
    )
    return {"params": {"backbone": params, "head": {}}, "batch_stats": statistics}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (133, 8, 8, 1), dtype=np.uint8)


def neck(variables, images):
    """The network's last layer, by flax, with running statistics."""
    weights = {
        "params": variables["params"]["backbone"],
        "batch_stats": variables["batch_stats"],
    }
    _, result = MODEL.apply(weights, jnp.asarray(images / 127.5 - 1, jnp.float32), train=False)
    return np.float64(result)


def test_embeddings_are_the_neck_at_length_one_whatever_the_batch(variables, images):
    got = embed_images(MODEL, variables, images)
    assert got.shape == (133, 6) and got.dtype == np.float32 and isinstance(got, np.ndarray)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, rtol=1e-5)
    # The first and last of the full batch, and the whole of the padded one.
    for place in (0, 127, 128, 132):
        expected = neck(variables, images[place : place + 1])[0]
        np.testing.assert_allclose(got[place], expected / np.linalg.norm(expected), atol=1e-5)
    assert np.abs(got - np.roll(got, 1, axis=0)).max(1).min() > 1e-3


def test_the_function_for_devices_gives_the_same_numbers(variables, images):
    embed = jax.jit(make_embed(MODEL, variables))
    got = embed(jnp.asarray(images[:128] / 127.5 - 1, jnp.float32))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, embed_images(MODEL, variables, images[:128]), atol=1e-5)


def test_the_gradient_reaches_the_images(variables, images):
    embed = make_embed(MODEL, variables)
    inputs = jnp.asarray(images[:2] / 127.5 - 1, jnp.float32)
    gradient = jax.jit(jax.grad(lambda x: embed(x)[0, 0]))(inputs)
    assert np.any(gradient[0]) and not np.any(gradient[1])


def test_no_image_gives_no_row_of_the_right_width(variables, images):
    got = embed_images(MODEL, variables, images[:0])
    assert got.shape == (0, 6) and got.dtype == np.float32


@pytest.mark.parametrize("scale", [None, 16.0])
def test_logits_are_those_of_the_classifier_that_was_trained(variables, images, scale):
    classifier = np.random.default_rng(2).normal(size=(6, 5)).astype(np.float32)
    params = {**variables["params"], "classifier": jnp.asarray(classifier)}
    got = class_logits(MODEL, variables | {"params": params}, images, cosine_scale=scale)
    necks = neck(variables, images)
    expected = necks @ classifier
    if scale is not None:
        lengths = np.linalg.norm(necks, axis=1)[:, None] * np.linalg.norm(classifier, axis=0)
        expected = scale * expected / lengths
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_with_the_mirror_image_both_embeddings_are_summed_before_they_are_made_unit(
    variables, images
):
    weights = {"params": variables["params"]["backbone"], "batch_stats": variables["batch_stats"]}
    scaled = jnp.asarray(images, jnp.float32) / 127.5 - 1
    both = [MODEL.apply(weights, each, train=False)[1] for each in (scaled, scaled[:, :, ::-1])]
    expected = np.array(both[0] + both[1])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = embed_images(MODEL, variables, images, with_mirror=True)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.abs(found - embed_images(MODEL, variables, images)).max() > 0.01
