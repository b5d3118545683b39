import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.models.resnet import SmallResNet
from rlsyn_jax.recognition.embedding import embed_images, make_embed
from rlsyn_jax.recognition.identity_sampler import make_identity_table
from rlsyn_jax.recognition.objective import Objective, class_sharding
from rlsyn_jax.recognition.recognizer import (
    ImagePool,
    Mixture,
    create_recognizer_state,
    init_recognizer,
    make_train_step,
    place_pool,
    place_recognizer_state,
)
from rlsyn_jax.selection.dynamic_selection import DynamicSelection
from rlsyn_jax.training.checkpoints import CheckpointStore, restore_params
from rlsyn_jax.training.meshes import make_mesh
from rlsyn_jax.training.optimizers import make_optimizer

SHAPE = (8, 8, 1)
MODEL = SmallResNet(width=4, embedding_dim=8)
SELECTION = DynamicSelection(parameters="all")


class OneLayer(nn.Module):
    """Compiles in no time."""

    @nn.compact
    def __call__(self, images, train):
        features = nn.Dense(8)(images.reshape(len(images), -1))
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="neck")
        return features, norm(features)


class OneConvolution(nn.Module):
    """What residual networks are made of, once."""

    @nn.compact
    def __call__(self, images, train):
        hidden = nn.Conv(8, (3, 3), strides=2)(images)
        hidden = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(hidden))
        return OneLayer()(hidden, train)


SIMPLE = OneConvolution()


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
    margin=0.3,
    seed=0,
    selection=SELECTION,
    model=SIMPLE,
    ema_decay=0.0,
    split=False,
    others=0,
    observe=lambda state: None,
):
    optimizer = make_optimizer(learning_rate=1e-2, warmup_steps=0, total_steps=steps)
    mesh = make_mesh(devices=jax.devices()[:devices])
    step = make_train_step(
        model,
        optimizer,
        mesh,
        objective=Objective(loss=loss, triplet_margin=margin),
        mixture=mixture,
        identities_per_batch=4,
        augment=lambda key, images: images + 0.05 * jax.random.normal(key, images.shape),
        schedule=lambda step: 1e-2,
        selection=selection,
        ema_decay=ema_decay,
        split_classes=4 if split else 0,
        others_per_batch=others,
    )
    real, _, _ = make_pool(1)
    synthetic, _, _ = make_pool(2)
    variables = init_recognizer(model, jax.random.key(seed), SHAPE, 4)
    if split:
        padded = jnp.pad(variables["params"]["classifier"], ((0, 0), (0, 1020)))
        variables["params"]["classifier"] = jax.device_put(padded, class_sharding(mesh))
    state = create_recognizer_state(variables, optimizer, jax.random.key(5), ema_decay > 0)
    state = place_recognizer_state(state, mesh, split)
    real, synthetic = place_pool(real, mesh), place_pool(synthetic, mesh)
    own, last = jnp.arange(4 - others), jnp.arange(4 - others, 4)
    for _ in range(steps):
        state, metrics = step(state, real, synthetic, own, last)
        observe(state)
    return state, {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize(
    ("mixture", "loss", "model"),
    [
        (Mixture(real=4), "cross_entropy_triplet", MODEL),
        (Mixture(real=2, candidates=4, kept=2), "cosface", SIMPLE),
    ],
)
def test_training_learns_separable_people(mixture, loss, model):
    state, metrics = run(mixture, 40, loss=loss, model=model)
    assert metrics["accuracy"] > 0.9
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    _, pixels, labels = make_pool(3)
    embeddings = embed_images(model, variables, pixels)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    nearest = (embeddings @ embeddings.T - 2 * np.eye(len(labels))).argmax(1)
    assert (labels[nearest] == labels).mean() > 0.8
    device_images = pixels.astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(make_embed(model, variables)(device_images), embeddings, atol=1e-5)


def test_others_are_classes_that_are_learnt_too():
    state, _ = run(Mixture(real=2), 40, others=2)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    _, pixels, labels = make_pool(3)
    classes = np.asarray(state.params["classifier"])
    scores = embed_images(SIMPLE, variables, pixels) @ (classes / np.linalg.norm(classes, axis=0))
    assert (scores.argmax(1) == labels).mean() > 0.9


def test_others_are_learnt_beside_synthetic_images_and_selection():
    mixture = Mixture(real=1, candidates=2, kept=1)
    state, metrics = run(mixture, 40, others=2, loss="cosface")
    assert metrics["synthetic_share"] == 0.5
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    _, pixels, labels = make_pool(3)
    classes = np.asarray(state.params["classifier"])
    scores = embed_images(SIMPLE, variables, pixels) @ (classes / np.linalg.norm(classes, axis=0))
    assert (scores.argmax(1) == labels).mean() > 0.9


def test_copies_that_stand_in_for_what_is_turned_down_change_no_loss():
    """Of a single real image a person, a copy would be the positive that there is not."""
    nobody = dataclasses.replace(SELECTION, rule="threshold", threshold=1e6)
    mixture = Mixture(real=1, candidates=2, kept=1)
    _, selected = run(mixture, 1, selection=nobody, margin=50.0)
    _, alone = run(Mixture(real=1), 1, margin=50.0)
    assert selected["synthetic_share"] == 0
    assert selected["loss"] == pytest.approx(alone["loss"], rel=1e-4)


def test_others_need_candidates_beside_them():
    with pytest.raises(ValueError, match="4 others of 4"):
        make_train_step(
            SIMPLE,
            make_optimizer(learning_rate=1e-2, warmup_steps=0, total_steps=1),
            make_mesh(devices=jax.devices()[:1]),
            objective=Objective(),
            mixture=Mixture(real=2),
            identities_per_batch=4,
            augment=lambda key, images: images,
            schedule=lambda step: 1e-2,
            others_per_batch=4,
        )


def test_numbers_do_not_depend_on_the_number_of_devices():
    mixture = Mixture(real=2, candidates=4, kept=2)
    one, first = run(mixture, 1)
    several, again = run(mixture, 1, devices=4)
    assert first["loss"] == pytest.approx(again["loss"], rel=1e-4)
    assert first["loss_change"] == pytest.approx(again["loss_change"], rel=1e-2)
    for a, b in zip(jax.tree.leaves(one.batch_stats), jax.tree.leaves(several.batch_stats)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("number", [0, 1, 12, 16])
def test_each_device_holds_its_share_of_the_images(number):
    pool = ImagePool(
        np.arange(number * 6, dtype=np.uint8).reshape(number, 1, 2, 3),
        make_identity_table(np.arange(number), max(number, 1)),
    )
    placed = place_pool(pool, make_mesh(devices=jax.devices()[:8]))
    share = -(-number // 8)
    assert {shard.data.shape for shard in placed.images.addressable_shards} == {(share, 1, 2, 3)}
    np.testing.assert_array_equal(placed.images[:number], pool.images)
    np.testing.assert_array_equal(placed.table.counts, pool.table.counts)


def test_no_device_gets_all_images_to_draw_some():
    mesh = make_mesh(devices=jax.devices()[:8])
    images = np.zeros((4096, *SHAPE), np.uint8)
    pool = place_pool(ImagePool(images, make_identity_table(np.arange(4096) // 1024, 4)), mesh)
    optimizer = make_optimizer(learning_rate=1e-2, warmup_steps=0, total_steps=1)
    step = make_train_step(
        SIMPLE,
        optimizer,
        mesh,
        objective=Objective(),
        mixture=Mixture(real=2),
        identities_per_batch=4,
        augment=lambda key, images: images,
        schedule=lambda step: 1e-2,
    )
    variables = init_recognizer(SIMPLE, jax.random.key(0), SHAPE, 4)
    state = create_recognizer_state(variables, optimizer, jax.random.key(5), False)
    state = place_recognizer_state(state, mesh)
    memory = step.lower(state, pool, None, jnp.arange(4), None).compile().memory_analysis()
    assert memory.argument_size_in_bytes + memory.temp_size_in_bytes < images.nbytes / 2


def test_selection_keeps_candidates_that_the_virtual_step_helps_more_than_average():
    _, metrics = run(Mixture(real=2, candidates=6, kept=2), 3)
    assert metrics["loss_change_kept"] < metrics["loss_change"]


@pytest.mark.parametrize("parameters", ["classifier", "all"])
def test_training_with_split_class_weights_is_the_same(parameters):
    mixture = Mixture(real=2, candidates=4, kept=2)
    method = "jvp" if parameters == "all" else "exact"
    selection = DynamicSelection(parameters=parameters, method=method)
    common = {"model": OneLayer(), "loss": "cosface", "selection": selection, "ema_decay": 0.5}
    whole, expected = run(mixture, 1, **common)
    split, found = run(mixture, 1, devices=8, split=True, **common)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-2, abs=1e-5), name
    kept = [leaf for leaf in jax.tree.leaves(split) if leaf.shape == (8, 1024)]
    assert len(kept) == 4  # Weights, their average and Adam's two moments.
    for value in kept:
        assert {shard.data.shape for shard in value.addressable_shards} == {(8, 128)}
        np.testing.assert_array_equal(value[:, 4:], 0)
    gradients = (split.opt_state, whole.opt_state)
    for one, other in zip(*(jax.tree.leaves(tree) for tree in gradients)):
        one = one[:, :4] if one.shape == (8, 1024) else one
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-5)


def test_averages_are_those_of_parameters_and_statistics():
    seen = []
    state, _ = run(
        Mixture(real=3),
        3,
        model=OneLayer(),
        ema_decay=0.3,
        observe=lambda state: seen.append(jax.device_get((state.params, state.batch_stats))),
    )
    start = init_recognizer(OneLayer(), jax.random.key(0), SHAPE, 4)
    average = jax.device_get((start["params"], start["batch_stats"]))
    for number, values in enumerate(seen):
        decay = min(0.3, (1 + number) / (10 + number))
        average = jax.tree.map(lambda a, v, d=decay: d * a + (1 - d) * v, average, values)
    found = (state.ema_params, state.ema_batch_stats)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(average)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_gives_averages_where_there_are_any(tmp_path):
    optimizer = make_optimizer(learning_rate=1e-2, warmup_steps=0, total_steps=1)
    variables = init_recognizer(OneLayer(), jax.random.key(0), SHAPE, 4)
    for ema in (True, False):
        state = create_recognizer_state(variables, optimizer, jax.random.key(1), ema)
        if ema:
            moved = jax.tree.map(lambda value: value + 1, state.ema_batch_stats)
            state = state.replace(ema_batch_stats=moved)
        assert bool(state.ema_params) is ema
        folder = tmp_path / str(ema)
        with CheckpointStore(folder) as store:
            store.save(1, state, config={}, iterator_state=None)
        with CheckpointStore(folder) as store:
            restored, _, _ = store.restore(state)
        assert jax.tree.structure(restored) == jax.tree.structure(state)
        statistics = restore_params(folder, collection="batch_stats")
        expected = state.ema_batch_stats if ema else state.batch_stats
        for one, other in zip(jax.tree.leaves(statistics), jax.tree.leaves(expected)):
            np.testing.assert_array_equal(one, other)
        last = restore_params(folder, collection="batch_stats", ema=False)
        assert jax.tree.structure(last) == jax.tree.structure(state.batch_stats)


def test_no_images_give_no_embeddings():
    variables = init_recognizer(SIMPLE, jax.random.key(0), SHAPE, 4)
    assert embed_images(SIMPLE, variables, np.zeros((0, *SHAPE), np.uint8)).shape == (0, 8)
