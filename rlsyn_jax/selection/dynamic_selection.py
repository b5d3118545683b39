"""Dynamic sample selection: keep the synthetic samples that one virtual update helps most.

During recogniser training a virtual gradient step is taken on a mixed batch. Every candidate is
judged by how far that step lowers its identity loss (equation 12 of arXiv 2604.07884), and those
with the smallest change, that is the largest drop, stay in the batch of the real update.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def identity_loss_change(
    per_sample_loss: Callable[[Any], jax.Array],
    params: Any,
    gradients: Any,
    learning_rate: ArrayLike,
) -> jax.Array:
    """Change of every candidate's identity loss under one virtual gradient step.

    Equation 12 of arXiv 2604.07884: l(w - learning_rate * g) - l(w), computed exactly with two
    forward passes. The stepped parameters keep the dtypes of `params`, as after a real update.
    May be called inside `jax.jit`.

    Args:
        per_sample_loss: Maps parameters to the identity loss of every candidate, [m].
        params: Parameters w, a tree of floating arrays.
        gradients: Gradients g of the mixed batch's loss, a tree like `params`.
        learning_rate: Length of the virtual step, a scalar of at least 0.

    Returns:
        Loss changes, float32 [m]; negative where the step helps.

    Raises:
        ValueError: If the trees differ in structure or shapes, the learning rate is no scalar, is
            negative or not finite, or the loss is not one value per candidate.
    """
    _check_step(params, gradients, learning_rate)

    def step(value, gradient):
        return jnp.asarray(value - learning_rate * gradient, jnp.result_type(value))

    before = per_sample_loss(params)
    after = per_sample_loss(jax.tree.map(step, params, gradients))
    if jnp.ndim(before) != 1 or jnp.shape(before) != jnp.shape(after):
        raise ValueError(
            f"per_sample_loss gave shapes {jnp.shape(before)} before and {jnp.shape(after)} after "
            "the step; it must give one value per candidate, [m], both times"
        )
    return after.astype(jnp.float32) - before.astype(jnp.float32)


def keep_most_helpful(loss_change: ArrayLike, num_kept: int) -> jax.Array:
    """Indices of the candidates with the smallest loss change, per identity.

    Equal changes keep the order of the candidates, and NaN ranks last. May be called inside
    `jax.jit` with `num_kept` static.

    Args:
        loss_change: Loss changes [identities, candidates].
        num_kept: How many to keep per identity, 1..candidates.

    Returns:
        Candidate indices in ascending order of change, int32 [identities, num_kept].

    Raises:
        ValueError: If `loss_change` is not two-dimensional or `num_kept` is out of range.
    """
    shape = jnp.shape(loss_change)
    if len(shape) != 2:
        raise ValueError(f"loss_change has shape {shape}; it must be [identities, candidates]")
    is_integer = isinstance(num_kept, int | np.integer) and not isinstance(num_kept, bool)
    if not is_integer or not 1 <= num_kept <= shape[1]:
        raise ValueError(
            f"num_kept is {num_kept!r}; it must be an integer in 1..{shape[1]}, the number of "
            "candidates per identity"
        )
    order = jnp.argsort(jnp.asarray(loss_change), axis=1, stable=True)
    return order[:, :num_kept].astype(jnp.int32)


def _check_step(params: Any, gradients: Any, learning_rate: ArrayLike) -> None:
    """Raise a ValueError where a virtual step cannot be taken."""
    expected, found = jax.tree.structure(params), jax.tree.structure(gradients)
    if expected != found:
        raise ValueError(f"gradients have structure {found}; they must match params: {expected}")
    for (path, value), gradient in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(gradients)
    ):
        if jnp.shape(value) != jnp.shape(gradient):
            raise ValueError(
                f"the gradient of params{jax.tree_util.keystr(path)} has shape "
                f"{jnp.shape(gradient)}; it must be {jnp.shape(value)}"
            )
    if jnp.ndim(learning_rate) != 0:
        raise ValueError(f"learning_rate has shape {jnp.shape(learning_rate)}; it must be a scalar")
    is_known = not isinstance(learning_rate, jax.core.Tracer)
    if is_known and not (np.isfinite(learning_rate) and learning_rate >= 0):
        raise ValueError(f"learning_rate is {learning_rate}; it must be finite and at least 0")
