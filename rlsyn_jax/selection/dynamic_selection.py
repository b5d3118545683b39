"""Dynamic sample selection: keep the synthetic samples that one virtual update helps most.

During recogniser training a virtual gradient step is taken on a mixed batch. Every candidate is
judged by how far that step lowers its identity loss (equation 12 of arXiv 2604.07884), and those
with the smallest change, that is the largest drop, stay in the batch of the real update.

The paper leaves open which parameters the virtual step moves. Moving all of them costs a gradient
of the whole mixed batch, which is larger than the batch that is trained on, so that a step takes
more than twice as long as without selection. Moving the classifier alone, as GLISTER (arXiv
2012.10630) and GradMatch (arXiv 2103.00123) do with the last layer to choose training data, costs
one forward pass of the mixed batch; for that step the changes are as exact.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class DynamicSelection:
    """How a batch is selected.

    Attributes:
        method: "exact" takes the virtual step; "jvp" takes its first order, the inner product of
            each candidate's gradient with the step, by one Jacobian-vector product. A difference of
            two losses needs the digits of float32, the product does not: networks that compute in
            bfloat16 need "jvp".
        parameters: "classifier" or "all", what the virtual step moves.
        scope: "identity" keeps as many of every identity; "global" ranks the whole batch, so that
            an identity whose samples help keeps more of them.
        rule: "number" keeps a fixed number. The other two let the share of synthetic images adapt:
            "threshold" keeps, of that number, those whose loss falls by more than `threshold`;
            "adaptive" those whose loss falls at least as much as that of the batch's average real
            image, so that the share shrinks where synthetic images gain less than real ones.
        threshold: of rule "threshold", at least 0.
        keep_real: keep every real image; otherwise they compete with the synthetic ones, which
            needs rule "number".
        warmup_steps: first steps without selection, when losses say little yet; their samples are
            drawn at random.
        every: steps from one selection to the next, which spreads its cost; those between draw at
            random.
    """

    method: str = "exact"
    parameters: str = "classifier"
    scope: str = "identity"
    rule: str = "number"
    threshold: float = 0.0
    keep_real: bool = True
    warmup_steps: int = 0
    every: int = 1

    def loss_change(
        self,
        per_sample_loss: Callable[[Any], jax.Array],
        params: Any,
        gradients: Any,
        learning_rate: ArrayLike,
    ) -> jax.Array:
        """Change of every sample's loss by `method`; see `identity_loss_change`."""
        change = {"exact": identity_loss_change, "jvp": first_order_loss_change}[self.method]
        return change(per_sample_loss, params, gradients, learning_rate)

    def choose(self, loss_change: jax.Array, num_kept: int) -> jax.Array:
        """Samples with the smallest change, by `scope`.

        Args:
            loss_change: Loss changes [identities, samples].
            num_kept: How many to keep per identity, 1..samples.

        Returns:
            Places in the flattened changes, int32 [identities * num_kept]; per identity, or over
            the batch, in ascending order of change.
        """
        identities, samples = loss_change.shape
        if self.scope == "global":
            return keep_most_helpful(loss_change.reshape(1, -1), identities * num_kept)[0]
        first = samples * jnp.arange(identities, dtype=jnp.int32)
        return (first[:, None] + keep_most_helpful(loss_change, num_kept)).reshape(-1)

    def is_helpful(self, loss_change: jax.Array, real_loss_change: jax.Array) -> jax.Array:
        """Which of the chosen samples are trained on, by `rule`.

        Args:
            loss_change: Loss changes of the chosen synthetic samples [n].
            real_loss_change: Loss changes of the batch's real images, of any shape.

        Returns:
            bool [n].
        """
        if self.rule == "threshold":
            return loss_change < -self.threshold
        if self.rule == "adaptive":
            return loss_change <= real_loss_change.mean()
        return jnp.ones(loss_change.shape, bool)

    def is_due(self, step: jax.Array) -> jax.Array:
        """Whether a step, counted from 0, selects."""
        return (step >= self.warmup_steps) & ((step - self.warmup_steps) % self.every == 0)


def identity_loss_change(
    per_sample_loss: Callable[[Any], jax.Array],
    params: Any,
    gradients: Any,
    learning_rate: ArrayLike,
) -> jax.Array:
    """Change of every candidate's identity loss under one virtual gradient step.

    Equation 12 of arXiv 2604.07884: l(w - learning_rate * g) - l(w), by two forward passes. One
    step moves a loss by little, so that products of float32 are computed with all of its digits
    there, on accelerators at the price of slower passes. The stepped parameters keep the dtypes of
    `params`, as after a real update. May be called inside `jax.jit`.

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

    # By default these are rounded: on NVIDIA's to TensorFloat-32, on TPUs to bfloat16, which is
    # more than a small step moves a loss.
    with jax.default_matmul_precision("highest"):
        before = per_sample_loss(params)
        after = per_sample_loss(jax.tree.map(step, params, gradients))
    _check_losses(before, after)
    return after.astype(jnp.float32) - before.astype(jnp.float32)


def first_order_loss_change(
    per_sample_loss: Callable[[Any], jax.Array],
    params: Any,
    gradients: Any,
    learning_rate: ArrayLike,
) -> jax.Array:
    """Change of every candidate's identity loss under one virtual step, to first order.

    -learning_rate * <gradient of l, g>, which equation 12 of arXiv 2604.07884 comes to for small
    steps. One Jacobian-vector product gives it for all candidates, without any candidate's own
    gradient. May be called inside `jax.jit`.

    Args:
        per_sample_loss: As of `identity_loss_change`.
        params: As of `identity_loss_change`.
        gradients: As of `identity_loss_change`.
        learning_rate: As of `identity_loss_change`.

    Returns:
        Loss changes, float32 [m]; negative where the step helps.

    Raises:
        ValueError: As `identity_loss_change`.
    """
    _check_step(params, gradients, learning_rate)

    def direction(value, gradient):
        return jnp.asarray(-learning_rate * gradient, jnp.result_type(value))

    directions = jax.tree.map(direction, params, gradients)
    before, change = jax.jvp(per_sample_loss, (params,), (directions,))
    _check_losses(before, change)
    return change.astype(jnp.float32)


def _check_losses(before: jax.Array, after: jax.Array) -> None:
    """Raise a ValueError unless both are one value per candidate."""
    if jnp.ndim(before) != 1 or jnp.shape(before) != jnp.shape(after):
        raise ValueError(
            f"per_sample_loss gave shapes {jnp.shape(before)} before and {jnp.shape(after)} after "
            "the step; it must give one value per candidate, [m], both times"
        )


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
