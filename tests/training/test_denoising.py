"""One step of denoising training against optax's loop written out, and what a step may touch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlsyn_jax.data.augmentation import augment, random_affine, random_flip
from rlsyn_jax.diffusion.training_loss import denoising_loss
from rlsyn_jax.training.denoising import make_denoising_step
from rlsyn_jax.training.meshes import batch_sharding, make_mesh, replicated
from rlsyn_jax.training.optimizers import make_optimizer
from rlsyn_jax.training.train_state import create_train_state

CLASSES = 3
ALPHA_BARS = jnp.linspace(0.95, 0.05, 10)
LOSS = {
    "alpha_bars": ALPHA_BARS,
    "num_classes": CLASSES,
    "class_dropout": 0.2,
    "prediction_type": "v",
    "weighting": "min_snr",
    "min_snr_gamma": 5.0,
    "learn_sigma": False,
}
PLAIN = (False, 0.0, 0.0, 0.0)
AUGMENTED = (True, 20.0, 0.2, 0.3)
OPTIMIZER = make_optimizer(learning_rate=0.05, warmup_steps=0, total_steps=100)


def apply(params, x, timesteps, labels):
    """A denoiser of a dozen weights."""
    condition = (
        params["y_embedder"]["embedding_table"][labels] + params["time"] * timesteps[:, None]
    )
    return params["scale"] * x + condition[:, None, None, :]


def make_parts():
    trained = {
        "params": {"y_embedder": {"embedding_table": 0.1 * jnp.arange(4.0)[:, None]}},
        "lora": {},
    }
    return trained, {"scale": jnp.float32(0.3), "time": jnp.float32(0.02)}


def make_state(mesh, seed=0):
    trained, frozen = jax.device_put(make_parts(), replicated(mesh))
    key = jax.device_put(jax.random.key(seed), replicated(mesh))
    return create_train_state(trained, OPTIMIZER, key, mesh), frozen


def make_batch(number=8):
    random = np.random.default_rng(0)
    return random.integers(0, 256, (number, 4, 4, 1)).astype(np.uint8), np.arange(number) % CLASSES


@functools.cache
def make_step(augmentation=PLAIN):
    flip, rotation, scale, translation = augmentation
    prepare = functools.partial(
        augment,
        flip=flip,
        max_rotation_degrees=rotation,
        max_scale=scale,
        max_translation=translation,
    )
    return make_denoising_step(apply, OPTIMIZER, ema_decay=0.9, prepare=prepare, **LOSS)


def run(steps, *, devices=1, seed=0, step=None):
    mesh = make_mesh(devices=jax.devices()[:devices])
    state, frozen = make_state(mesh, seed)
    batch = jax.device_put(make_batch(), batch_sharding(mesh))
    losses = []
    for _ in range(steps):
        state, metrics = (step or make_step())(state, frozen, *batch)
        losses.append(float(metrics["loss"]))
    return state, metrics, losses


def rows(tree):
    return np.asarray(tree["params"]["y_embedder"]["embedding_table"])


@pytest.mark.parametrize("augmentation", [PLAIN, AUGMENTED], ids=["plain", "augmented"])
def test_steps_equal_the_loop_written_out(augmentation):
    state, metrics, losses = run(2, step=make_step(augmentation))
    pixels, labels = make_batch()
    pixels = jnp.asarray(pixels / 127.5 - 1, jnp.float32)
    trained, frozen = make_parts()
    opt_state, average = OPTIMIZER.init(trained), rows(trained)
    for step in range(2):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step), 3)
        images = pixels
        if augmentation is AUGMENTED:
            images = random_affine(
                keys[1],
                random_flip(keys[0], pixels),
                max_rotation_degrees=20.0,
                max_scale=0.2,
                max_translation=0.3,
            )

        def loss(trained, key=keys[2], images=images):
            denoise = functools.partial(apply, {**frozen, **trained["params"]})
            return denoising_loss(denoise, images, labels, key, **LOSS).mean()

        value, gradient = jax.value_and_grad(loss)(trained)
        updates, opt_state = OPTIMIZER.update(gradient, opt_state, trained)
        trained = optax.apply_updates(trained, updates)
        keep = min(0.9, (1 + step) / (10 + step))
        average = keep * average + (1 - keep) * rows(trained)
        np.testing.assert_allclose(losses[step], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], np.linalg.norm(rows(gradient)), rtol=1e-4)
    np.testing.assert_allclose(rows(state.params), rows(trained), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(rows(state.ema_params), average, rtol=1e-4, atol=1e-6)
    assert state.step == 2 and metrics["loss"].dtype == jnp.float32


def test_numbers_do_not_depend_on_the_number_of_devices():
    one, eight = run(2), run(2, devices=8)
    np.testing.assert_allclose(eight[2], one[2], rtol=1e-5)
    np.testing.assert_allclose(rows(eight[0].params), rows(one[0].params), rtol=1e-4, atol=1e-6)


def test_a_run_cut_in_two_draws_what_the_whole_would_have_drawn():
    whole, _, losses = run(3)
    mesh = make_mesh(devices=jax.devices()[:1])
    state, frozen = make_state(mesh)
    resumed = []
    for _ in range(3):
        state, metrics = make_step()(state, frozen, *make_batch())
        resumed.append(float(metrics["loss"]))
        # Through the host, as a checkpoint would.
        key = jax.random.wrap_key_data(np.asarray(jax.random.key_data(state.key)))
        state = jax.device_put(
            jax.tree.map(np.array, state.replace(key=None)), replicated(mesh)
        ).replace(key=jax.device_put(key, replicated(mesh)))
    assert resumed == losses and len(set(losses)) == 3
    np.testing.assert_array_equal(rows(state.params), rows(whole.params))


def test_the_key_stays_and_another_key_draws_otherwise():
    state, _, losses = run(2)
    assert state.key == jax.random.key(0)
    assert run(2, seed=1)[2] != losses


def test_the_state_is_donated_and_the_frozen_part_is_not():
    mesh = make_mesh(devices=jax.devices()[:1])
    state, frozen = make_state(mesh)
    make_step()(state, frozen, *make_batch())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(frozen))
