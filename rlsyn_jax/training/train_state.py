"""The state of a training run: one pytree that holds everything a resumed run needs."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from rlsyn_jax.training.meshes import parameter_shardings, place, replicated


@flax.struct.dataclass
class TrainState:
    """Parameters and all that changes with them.

    Attributes:
        step: int32 scalar, updates done.
        params: parameters that train, any pytree of float arrays.
        opt_state: the optimiser's state.
        ema_params: running average of params, same tree, its own buffers.
        key: typed random key; never changes, folded with step where randomness is needed.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema_params: Any
    key: jax.Array


def create_train_state(
    params: Any, optimizer: optax.GradientTransformation, key: jax.Array, mesh: Mesh
) -> TrainState:
    """Makes the state of step 0 on the mesh.

    Args:
        params: arrays placed by `parameter_shardings`, as the optimiser's moments will be.
        optimizer: the optimiser whose state is made.
        key: typed random key on the mesh.
        mesh: where scalars are replicated.

    Returns:
        A state whose buffers are all its own, so that it can be donated.
    """
    whole = replicated(mesh)
    # Moments have their parameters' shapes, from which alone a sharding follows.
    opt_shardings = parameter_shardings(mesh, jax.eval_shape(optimizer.init, params))
    return TrainState(
        step=place(jnp.int32(0), whole),
        params=jax.tree.map(jnp.copy, params),
        opt_state=jax.jit(optimizer.init, out_shardings=opt_shardings)(params),
        ema_params=jax.tree.map(jnp.copy, params),
        key=key,
    )


def ema_update(ema_params: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """Moves the running average towards params.

    The decay grows from 0.1 to its full value as (1 + step) / (10 + step), so that the average
    of a short run is not dominated by its start.

    Args:
        ema_params, params: same trees.
        decay: final decay in [0, 1].
        step: int32 scalar, updates done before this one.
    """
    warm = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: old + (1 - warm) * (new - old), ema_params, params)
