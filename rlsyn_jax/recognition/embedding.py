"""Unit embeddings of images by a trained recogniser."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rlsyn_jax.data.identity_dataset import to_device_range
from rlsyn_jax.recognition.losses import unit
from rlsyn_jax.recognition.networks import embedding_width
from rlsyn_jax.recognition.recognizer import Network

_BATCH = 128


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


@functools.partial(jax.jit, static_argnums=0)
def _embed_batch(model, weights, images):
    return _embed(model, weights, to_device_range(images))


def embed_images(model: Network, variables: dict, images: np.ndarray) -> np.ndarray:
    """Embeds images batch by batch.

    Args:
        model: embedding network.
        variables: {"params": {"backbone", ...}, "batch_stats"}.
        images: uint8 [n, h, w, c]; n may be 0.

    Returns:
        float32 [n, d], of length 1.
    """
    weights = _weights(variables)
    parts = []
    for first in range(0, len(images), _BATCH):
        batch = images[first : first + _BATCH]
        # Padded to one size, so that one program serves all batches.
        padded = np.zeros((_BATCH, *images.shape[1:]), np.uint8)
        padded[: len(batch)] = batch
        parts.append(np.asarray(_embed_batch(model, weights, padded))[: len(batch)])
    if not parts:
        return np.zeros((0, embedding_width(model, weights, images.shape[1:])), np.float32)
    return np.concatenate(parts)
