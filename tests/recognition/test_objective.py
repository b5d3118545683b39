"""Split over eight devices, class weights give the values and gradients of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.recognition.objective import (
    LOSSES,
    Objective,
    class_sharding,
    init_split_classes,
    score_identities,
    score_split_identities,
)
from rlsyn_jax.training.meshes import make_mesh, replicated

CLASSES, COLUMNS, WIDTH, BATCH = 29, 32, 6, 5


def problem():
    random = np.random.default_rng(0)
    classifier = random.normal(size=(WIDTH, CLASSES)).astype(np.float32)
    neck = random.normal(size=(BATCH, WIDTH)).astype(np.float32)
    labels = np.array([28, 0, 3, 17, 4])
    neck[:2] = classifier[:, labels[:2]].T + 0.3 * neck[:2]  # Nearest to their own class.
    return jnp.asarray(classifier), jnp.asarray(neck), jnp.asarray(labels)


@pytest.mark.parametrize("loss", LOSSES)
def test_split_classes_score_as_whole_ones(loss):
    objective = Objective(loss=loss, arcface_scale=16.0, circle_scale=16.0)
    classifier, neck, labels = problem()
    mesh = make_mesh(2)
    padded = jnp.pad(classifier, ((0, 0), (0, COLUMNS - CLASSES)))
    padded = jax.device_put(padded, class_sharding(mesh))
    weights = jnp.arange(1.0, BATCH + 1)  # So that each sample's gradient is another.

    def graded(score):
        def weighed(classifier, neck, labels):
            losses, nearest = score(classifier, neck, labels)
            return jnp.sum(losses * weights), (losses, nearest)

        return jax.jit(jax.value_and_grad(weighed, argnums=(0, 1), has_aux=True))

    whole = graded(lambda *inputs: score_identities(objective, *inputs))
    split = graded(score_split_identities(objective, mesh, CLASSES))
    (_, (losses, nearest)), expected = whole(classifier, neck, labels)
    inputs = jax.device_put((neck, labels), replicated(mesh))
    (_, (split_losses, split_nearest)), found = split(padded, *inputs)
    np.testing.assert_allclose(split_losses, losses, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(split_nearest, nearest)
    assert nearest[:2].all() and not nearest.all()
    np.testing.assert_allclose(found[0][:, :CLASSES], expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[0][:, CLASSES:], 0)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-5)
    assert {shard.data.shape for shard in found[0].addressable_shards} == {(WIDTH, COLUMNS // 8)}


def test_a_sample_is_scored_without_regard_to_the_others():
    classifier, neck, labels = problem()
    for loss in LOSSES:
        together, _ = score_identities(Objective(loss=loss), classifier, neck, labels)
        alone, _ = score_identities(Objective(loss=loss), classifier, neck[:1], labels[:1])
        np.testing.assert_allclose(together[0], alone[0], rtol=1e-5)


def test_split_weights_are_the_same_on_any_mesh_and_refused_where_they_cannot_be_shared():
    key, drawn = jax.random.key(0), []
    for devices in (1, 8):
        mesh = make_mesh(devices=jax.devices()[:devices])
        drawn.append(init_split_classes(key, 4, 1030, mesh))
        assert {s.data.shape for s in drawn[-1].addressable_shards} == {(4, 2048 // devices)}
    np.testing.assert_array_equal(*drawn)
    assert (drawn[0][:, :1030] != 0).all() and (drawn[0][:, 1030:] == 0).all()
    assert np.std(drawn[0][:, :1030]) == pytest.approx(0.5, rel=0.05)
    with pytest.raises(ValueError, match="2048 columns .* over 3 devices"):
        init_split_classes(key, 4, 1030, make_mesh(devices=jax.devices()[:3]))


@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 128])
def test_a_million_classes_take_an_eighth_on_each_device(width):
    classes, batch = 1_000_000, 8
    mesh, objective = make_mesh(), Objective(loss="arcface")
    classifier = init_split_classes(jax.random.key(0), width, classes, mesh)
    neck = jax.device_put(jax.random.normal(jax.random.key(1), (batch, width)), replicated(mesh))
    labels = jax.device_put(jnp.arange(batch) * 124_999, replicated(mesh))
    score = score_split_identities(objective, mesh, classes)

    def loss(classifier, neck, labels):
        return score(classifier, neck, labels)[0].mean()

    step = jax.jit(jax.value_and_grad(loss)).lower(classifier, neck, labels).compile()
    value, gradient = step(classifier, neck, labels)
    # As many other classes as there are, at right angles, and an own one that a margin turns away.
    assert np.log(classes) < value < 64 + np.log(classes)
    share = 4 * width * 1_000_448 // 8
    for array in (classifier, gradient):
        held = {shard.device: shard.data.nbytes for shard in array.addressable_shards}
        assert len(held) == 8 and set(held.values()) == {share}
    memory = step.memory_analysis()
    # Of a device: its arguments, and less in between than the weights of all classes alone.
    assert memory.argument_size_in_bytes < 1.01 * share
    assert memory.temp_size_in_bytes < 4 * width * classes
    # One sample by the formula, whole, on the host.
    weights, one = np.asarray(classifier, np.float64)[:, :classes], np.asarray(neck, np.float64)[3]
    cosine = (one @ weights) / np.linalg.norm(weights, axis=0) / np.linalg.norm(one)
    own = int(labels[3])
    logits = 64 * cosine
    logits[own] = 64 * np.cos(np.arccos(cosine[own]) + 0.5)
    expected = np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[own]
    found = score(classifier, neck, labels)[0][3]
    assert found == pytest.approx(expected, rel=1e-4)
