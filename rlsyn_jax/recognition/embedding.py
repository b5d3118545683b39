"""Unit embeddings of images by a trained recogniser, on all devices of this process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlsyn_jax.data.identity_dataset import to_device_range
from rlsyn_jax.recognition.losses import unit
from rlsyn_jax.recognition.networks import embedding_width
from rlsyn_jax.recognition.recognizer import Network
from rlsyn_jax.training.meshes import batch_sharding, make_mesh, replicated

_BATCH = 128  # Images that a device embeds at once.


def make_embed(model: Network, variables: dict) -> Callable[[jax.Array], jax.Array]:
    """Returns a pure function: images in [-1, 1], float [b, h, w, c] -> unit float32 [b, d]."""
    weights = _weights(variables)
    return lambda images: _embed(model, weights, images)


def _weights(variables: dict) -> dict:
    return {
        "params": variables["params"]["backbone"],
        "batch_stats": variables["batch_stats"],
    }


def _embed(model, weights, images):
    return unit(model.apply(weights, images, train=False)[1].astype(jnp.float32))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _embed_batch(model, with_mirror, weights, images):
    images = to_device_range(images)
    if not with_mirror:
        return _embed(model, weights, images)
    both = (model.apply(weights, each, train=False)[1] for each in (images, images[:, :, ::-1]))
    return unit(sum(each.astype(jnp.float32) for each in both))


def embed_images(
    model: Network, variables: dict, images: np.ndarray, *, with_mirror: bool = False
) -> np.ndarray:
    """Embeds images batch by batch.

    Args:
        model: embedding network.
        variables: {"params": {"backbone", ...}, "batch_stats"}.
        images: uint8 [n, h, w, c]; n may be 0.
        with_mirror: sum the embeddings of image and mirrored image before they are made unit, as
            InsightFace's verification does.

    Returns:
        float32 [n, d], of length 1.
    """
    weights = _weights(variables)
    if not len(images):
        return np.zeros((0, embedding_width(model, weights, images.shape[1:])), np.float32)
    return _batches(images, weights, functools.partial(_embed_batch, model, with_mirror))


def class_logits(
    model: Network, variables: dict, images: np.ndarray, *, cosine_scale: float | None = None
) -> np.ndarray:
    """Asks the classifier that a recogniser was trained with who is shown.

    Args:
        model: embedding network.
        variables: {"params": {"backbone", "classifier"}, "batch_stats"}.
        images: uint8 [n, h, w, c], at least one.
        cosine_scale: of a classifier of cosines, which CosFace trains; None for products.

    Returns:
        float32 [n, identities], before the softmax, without CosFace's margin.
    """
    classifier, is_cosine = variables["params"]["classifier"], cosine_scale is not None
    if is_cosine:
        classifier = cosine_scale * unit(classifier, axis=0)
    weights = _weights(variables), classifier
    return _batches(images, weights, functools.partial(_classify_batch, model, is_cosine))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _classify_batch(model, is_cosine, weights, images):
    weights, classifier = weights
    neck = model.apply(weights, to_device_range(images), train=False)[1].astype(jnp.float32)
    return jnp.dot(unit(neck) if is_cosine else neck, classifier, precision="highest")


def _batches(images: np.ndarray, weights: Any, compute: Callable) -> np.ndarray:
    """Returns what compute(weights, batch) gives of all images; one program serves all batches."""
    mesh = make_mesh(devices=jax.local_devices())
    weights = jax.device_put(weights, replicated(mesh))
    # Few images share one device's batch, which would be mostly padding otherwise.
    few = len(images) < _BATCH * mesh.size
    size = mesh.size * (-(-_BATCH // mesh.size) if few else _BATCH)
    parts = []
    for first in range(0, len(images), size):
        batch = images[first : first + size]
        padded = np.zeros((size, *images.shape[1:]), np.uint8)
        padded[: len(batch)] = batch
        computed = compute(weights, jax.device_put(padded, batch_sharding(mesh)))
        parts.append(np.asarray(computed)[: len(batch)])
    return np.concatenate(parts)
