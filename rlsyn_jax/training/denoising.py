"""One compiled step of denoising training, shared by pre-training and the cold start."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from rlsyn_jax.diffusion.training_loss import denoising_loss
from rlsyn_jax.training.train_state import TrainState, ema_update
from rlsyn_jax.training.trainable import merge


def make_denoising_step(
    apply: Callable,
    optimizer: optax.GradientTransformation,
    *,
    alpha_bars: jax.Array,
    num_classes: int,
    prediction_type: str,
    learn_sigma: bool,
    class_dropout: float,
    weighting: str,
    min_snr_gamma: float,
    ema_decay: float,
    prepare: Callable[[jax.Array, jax.Array], jax.Array],
    tell: Callable[[dict, jax.Array, jax.Array], dict] | None = None,
    state_shardings: TrainState | None = None,
) -> Callable:
    """Builds the jitted step (state, frozen, batch, class_labels) -> (state, metrics).

    Randomness is fold_in(state.key, state.step), so a resumed run draws what it would have drawn.

    Args:
        apply: (params, x, timesteps, labels) -> network output.
        optimizer: acts on the trained subtree.
        alpha_bars: float [T].
        num_classes: index of the null class.
        prediction_type, learn_sigma, class_dropout, weighting, min_snr_gamma: see denoising_loss.
        ema_decay: decay of the running average of the trained subtree.
        prepare: (two keys, batch) -> clean samples, float32 [b, h, w, c]: what makes of a batch of
            the data set what the network learns to denoise.
        tell: where labels do not stand for rows, (params, key, class_labels [b]) -> parameters
            whose row i of b + 1 is that of sample i; num_classes then is b.
        state_shardings: of the new state; None leaves them to the compiler, which may split small
            arrays of a state on several devices, so that the next step is compiled anew.

    Returns:
        A function whose first argument is donated; metrics are float32 scalars "loss" and
        "gradient_norm".
    """

    def step(state: TrainState, frozen: dict, batch: jax.Array, class_labels: jax.Array):
        keys = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
        images, loss_key = prepare(keys[:2], batch), keys[2]

        def loss_function(trained):
            params, labels = merge(trained, frozen), class_labels
            if tell is not None:
                tell_key = jax.random.fold_in(loss_key, num_classes + 1)
                params, labels = tell(params, tell_key, labels), jnp.arange(len(labels))
            return denoising_loss(
                lambda x, t, y: apply(params, x, t, y),
                images,
                labels,
                loss_key,
                alpha_bars=alpha_bars,
                num_classes=num_classes,
                class_dropout=class_dropout,
                prediction_type=prediction_type,
                weighting=weighting,
                min_snr_gamma=min_snr_gamma,
                learn_sigma=learn_sigma,
            ).mean()

        loss, gradients = jax.value_and_grad(loss_function)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, "gradient_norm": optax.global_norm(gradients)}
        state = state.replace(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema_params=ema_update(state.ema_params, params, ema_decay, state.step),
        )
        return state, jax.tree.map(jnp.float32, metrics)

    return jax.jit(step, donate_argnums=0, out_shardings=(state_shardings, None))
