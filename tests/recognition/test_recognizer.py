import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.models.resnet import SmallResNet
from rlsyn_jax.recognition.embedding import embed_images, make_embed
from rlsyn_jax.recognition.identity_sampler import make_identity_table
from rlsyn_jax.recognition.objective import Objective
from rlsyn_jax.recognition.recognizer import (
    ImagePool,
    Mixture,
    create_recognizer_state,
    init_recognizer,
    make_train_step,
)
from rlsyn_jax.selection.dynamic_selection import DynamicSelection
from rlsyn_jax.training.meshes import make_mesh, replicated
from rlsyn_jax.training.optimizers import make_optimizer

SHAPE = (8, 8, 1)
MODEL = SmallResNet(width=4, embedding_dim=8)
SELECTION = DynamicSelection(parameters="all")


def make_pool(seed, people=4, images=3):
    """People are told apart by the place of a bright stripe."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), images)
    pixels = random.integers(0, 60, (len(labels), *SHAPE)).astype(np.uint8)
    for row, label in enumerate(labels):
        pixels[row, :, 2 * label] = 255
    return ImagePool(jnp.asarray(pixels), make_identity_table(labels, people)), pixels, labels


def run(
    mixture,
    steps,
    *,
    devices=1,
    loss="cross_entropy_triplet",
    seed=0,
    selection=SELECTION,
):
    optimizer = make_optimizer(learning_rate=1e-2, warmup_steps=0, total_steps=steps)
    mesh = make_mesh(devices=jax.devices()[:devices])
    step = make_train_step(
        MODEL,
        optimizer,
        mesh,
        objective=Objective(loss=loss),
        mixture=mixture,
        identities_per_batch=4,
        augment=lambda key, images: images + 0.05 * jax.random.normal(key, images.shape),
        schedule=lambda step: 1e-2,
        selection=selection,
    )
    real, _, _ = make_pool(1)
    synthetic, _, _ = make_pool(2)
    state = create_recognizer_state(
        init_recognizer(MODEL, jax.random.key(seed), SHAPE, 4), optimizer, jax.random.key(5)
    )
    state, real, synthetic = jax.device_put((state, real, synthetic), replicated(mesh))
    for _ in range(steps):
        state, metrics = step(state, real, synthetic, jnp.arange(4))
    return state, {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize(
    ("mixture", "loss"),
    [
        (Mixture(real=4), "cross_entropy_triplet"),
        (Mixture(real=2, candidates=4, kept=2), "cosface"),
    ],
)
def test_training_learns_separable_people(mixture, loss):
    state, metrics = run(mixture, 40, loss=loss)
    assert metrics["accuracy"] > 0.9
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    _, pixels, labels = make_pool(3)
    embeddings = embed_images(MODEL, variables, pixels)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    nearest = (embeddings @ embeddings.T - 2 * np.eye(len(labels))).argmax(1)
    assert (labels[nearest] == labels).mean() > 0.8
    device_images = pixels.astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(make_embed(MODEL, variables)(device_images), embeddings, atol=1e-5)


def test_numbers_do_not_depend_on_the_number_of_devices():
    mixture = Mixture(real=2, candidates=4, kept=2)
    one, first = run(mixture, 1)
    for devices in (2, 4):
        several, again = run(mixture, 1, devices=devices)
        assert first["loss"] == pytest.approx(again["loss"], rel=1e-4)
        assert first["loss_change"] == pytest.approx(again["loss_change"], rel=1e-2)
        for a, b in zip(jax.tree.leaves(one.batch_stats), jax.tree.leaves(several.batch_stats)):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_selection_keeps_candidates_that_the_virtual_step_helps_more_than_average():
    _, metrics = run(Mixture(real=2, candidates=6, kept=2), 3)
    assert metrics["loss_change_kept"] < metrics["loss_change"]


def test_no_images_give_no_embeddings():
    variables = init_recognizer(MODEL, jax.random.key(0), SHAPE, 4)
    assert embed_images(MODEL, variables, np.zeros((0, *SHAPE), np.uint8)).shape == (0, 8)
