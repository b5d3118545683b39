"""Rewards that are ordinary Python: called on the host from within the compiled iteration."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rlsyn_jax.rewards.reference_bank import ReferenceBank


def on_host(function: Callable) -> Callable:
    """Makes a reward of a function of NumPy arrays.

    The price: every iteration waits while the embeddings travel to the host, the function runs
    there on one thread, and its result travels back; the devices stand still meanwhile. It serves
    one process with any number of devices, not a run of several processes.

    Args:
        function: (embeddings float32 [i, g, d], features float32 [i, r, d], mask bool [i, r],
            identities int32 [i], **options) -> numbers [i, g].

    Returns:
        A reward function as config.rewards names them; raises ValueError among several processes.
    """

    @functools.wraps(function)
    def reward(embeddings: jax.Array, bank: ReferenceBank, **options) -> jax.Array:
        if jax.process_count() > 1:
            raise ValueError("a reward on the host serves one process, and this run has several")
        shape = embeddings.shape[:2]

        def call(*arrays):
            values = np.asarray(function(*map(np.asarray, arrays), **options), np.float32)
            if values.shape != shape:
                raise ValueError(
                    f"the reward {function.__name__} returned shape {values.shape}; it must return "
                    f"one number for each sample, {shape}"
                )
            return values

        return jax.pure_callback(
            call,
            jax.ShapeDtypeStruct(shape, jnp.float32),
            embeddings,
            bank.features,
            bank.mask,
            bank.identities,
        )

    return reward
