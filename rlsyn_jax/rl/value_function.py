"""DPOK's value function: the reward a half-finished image is heading for (2305.16381).

A small network reads x_t, its timestep and its identity and learns the trajectory's final reward;
the policy's advantage is the reward less its estimate.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from rlsyn_jax.models.dit import timestep_features


class ValueNetwork(nn.Module):
    """Three hidden layers on the flattened state, sinusoidal timestep and a row for each identity.

    Attributes:
        num_classes: identities.
        width: of the hidden layers; DPOK's is 256.
    """

    num_classes: int
    width: int = 256

    @nn.compact
    def __call__(self, x: jax.Array, timesteps: jax.Array, class_labels: jax.Array) -> jax.Array:
        """Returns expected rewards, float32 [b], of x [b, h, w, c], timesteps [b], labels [b]."""
        row = nn.Embed(self.num_classes, 64)(class_labels)
        hidden = jnp.concatenate(
            [x.reshape(len(x), -1), timestep_features(timesteps, 64), row], axis=-1
        )
        for _ in range(3):
            hidden = nn.relu(nn.Dense(self.width)(hidden))
        # Begins as zero: the first advantages are the rewards themselves.
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(hidden)[:, 0]


@flax.struct.dataclass
class ValueState:
    """The value network's parameters and its optimiser's state."""

    params: Any
    opt_state: Any


def make_value_optimizer(learning_rate: float) -> optax.GradientTransformation:
    """Returns Adam, as DPOK's code fits its value function (its rate is 1e-4)."""
    return optax.adam(learning_rate)


def create_value_state(
    network: ValueNetwork,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    image_shape: tuple[int, int, int],
) -> ValueState:
    """Returns a fresh value function for images of shape (h, w, c)."""
    label = jnp.zeros(1, jnp.int32)
    params = network.init(key, jnp.zeros((1, *image_shape)), label, label)["params"]
    return ValueState(params, optimizer.init(params))


def fit_value(
    network: ValueNetwork,
    optimizer: optax.GradientTransformation,
    state: ValueState,
    inputs: tuple[jax.Array, jax.Array, jax.Array],
    rewards: jax.Array,
    num_steps: int,
) -> tuple[ValueState, jax.Array]:
    """Fits the value function to the rewards of one iteration's transitions.

    Args:
        network, optimizer, state: the value function.
        inputs: states [n, h, w, c], timesteps [n], labels [n].
        rewards: float [n], of the trajectories that the states belong to.
        num_steps: gradient steps, each on all transitions.

    Returns:
        The fitted state, and the mean squared error before fitting.
    """

    def loss_function(params):
        return jnp.mean((network.apply({"params": params}, *inputs) - rewards) ** 2)

    def step(state, _):
        loss, gradients = jax.value_and_grad(loss_function)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        return ValueState(optax.apply_updates(state.params, updates), opt_state), loss

    state, losses = jax.lax.scan(step, state, None, length=num_steps)
    return state, losses[0]
