"""Learning rates at the ends of their ramps, and updates against the formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlsyn_jax.training.optimizers import DECAYS, make_optimizer, make_schedule


def rates(steps, **options):
    schedule = make_schedule(learning_rate=0.4, total_steps=12, **options)
    return np.array([schedule(step) for step in steps])


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("warmup", [1, 4])
def test_warm_up_rises_by_equal_parts_from_the_first_update_to_the_peak(decay, warmup):
    ramp = rates(range(warmup), warmup_steps=warmup, decay=decay)
    np.testing.assert_allclose(ramp, 0.4 * np.arange(1, warmup + 1) / warmup, rtol=1e-6)
    np.testing.assert_allclose(rates([warmup], warmup_steps=warmup, decay=decay), 0.4, rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 4])
def test_decay_starts_at_the_peak_and_ends_at_zero_as_its_formula(warmup):
    steps = np.arange(warmup, 13)
    share = (steps - warmup) / (12 - warmup)
    for decay, expected in {
        "constant": np.full(len(steps), 0.4),
        "linear": 0.4 * (1 - share),
        "cosine": 0.4 * (1 + np.cos(np.pi * share)) / 2,
    }.items():
        got = rates(steps, warmup_steps=warmup, decay=decay)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(rates([40], warmup_steps=warmup, decay="linear"), 0, atol=1e-8)


def run(gradients, start, **options):
    optimizer = make_optimizer(warmup_steps=2, total_steps=9, learning_rate=0.1, **options)
    params, trail = jnp.asarray(start), []
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        trail.append(params)
    return np.array(trail)


GRADIENTS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
START = np.array([1.0, -2.0, 0.5, 3.0], np.float32)
RATES = (0.05, 0.1, 0.1)


def test_adamw_equals_its_formula_with_decay_apart_from_the_moments():
    b1, b2, weight_decay = 0.8, 0.95, 0.3
    got = run(GRADIENTS, START, weight_decay=weight_decay, b1=b1, b2=b2)
    value, first, second = np.float64(START), 0.0, 0.0
    for step, (gradient, rate) in enumerate(zip(np.float64(GRADIENTS), RATES), 1):
        first = b1 * first + (1 - b1) * gradient
        second = b2 * second + (1 - b2) * gradient**2
        move = first / (1 - b1**step) / (np.sqrt(second / (1 - b2**step)) + 1e-8)
        value = value - rate * (move + weight_decay * value)
        np.testing.assert_allclose(got[step - 1], value, rtol=1e-5)


def test_sgd_equals_its_formula_with_decay_in_the_gradient():
    got = run(GRADIENTS, START, name="sgd", momentum=0.7, weight_decay=0.3)
    value, velocity = np.float64(START), 0.0
    for step, (gradient, rate) in enumerate(zip(np.float64(GRADIENTS), RATES)):
        velocity = 0.7 * velocity + gradient + 0.3 * value
        value = value - rate * velocity
        np.testing.assert_allclose(got[step], value, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_only_a_gradient_longer_than_the_clip_is_shortened_to_it(scale):
    gradient = scale * GRADIENTS[:1] / np.linalg.norm(GRADIENTS[0])
    moved = START - run(gradient, START, name="sgd", gradient_clip=1.5)[0]
    np.testing.assert_allclose(np.linalg.norm(moved), 0.05 * min(scale, 1.5), rtol=1e-4)
    np.testing.assert_allclose(moved / np.linalg.norm(moved), gradient[0] / scale, atol=1e-4)


def test_the_clip_is_of_all_leaves_together():
    optimizer = make_optimizer(
        learning_rate=1.0, warmup_steps=0, total_steps=1, name="sgd", gradient_clip=1.0
    )
    gradients = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    updates, _ = optimizer.update(gradients, optimizer.init(gradients), gradients)
    np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [-0.6, -0.8], rtol=1e-6)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"decay is 'steps'.*'cosine'"):
        make_schedule(learning_rate=1.0, warmup_steps=0, total_steps=1, decay="steps")
    with pytest.raises(ValueError, match=r"optimizer is 'adamax'.*'adamw', 'muon', 'adam', 'sgd'"):
        make_optimizer(learning_rate=1.0, warmup_steps=0, total_steps=1, name="adamax")


def nearest_orthogonal(matrix):
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ right


def test_muon_moves_block_matrices_orthogonally_and_the_rest_by_adamw():
    random = np.random.default_rng(0)
    shapes = {
        "blocks_0": {"qkv": {"kernel": (8, 24), "bias": (24,)}},
        "y_embedder": {"table": (5, 8)},
    }
    params, gradients = (
        jax.tree.map(
            lambda shape: jnp.asarray(random.normal(size=shape), jnp.float32),
            shapes,
            is_leaf=lambda node: isinstance(node, tuple),
        )
        for _ in range(2)
    )
    options = {"learning_rate": 1e-3, "warmup_steps": 0, "total_steps": 1}
    optimizer = make_optimizer(name="muon", matrix_learning_rate=0.5, **options)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    update = np.float64(updates["blocks_0"]["qkv"]["kernel"])
    wanted = -0.5 * nearest_orthogonal(np.float64(gradients["blocks_0"]["qkv"]["kernel"]))
    # Its few iterations bring singular values near 1, not to it; the directions are the same.
    cosine = np.sum(update * wanted) / np.linalg.norm(update) / np.linalg.norm(wanted)
    assert cosine > 0.97
    # Wide matrices move by the square root of their shape's ratio less, or not: within a factor 2.
    assert 0.5 < np.linalg.norm(update) / np.linalg.norm(wanted) < 2
    adamw = optax.nadamw(1e-3, weight_decay=0.0)
    others, _ = adamw.update(gradients, adamw.init(params), params)
    for got, expected in (
        (updates["y_embedder"]["table"], others["y_embedder"]["table"]),
        (updates["blocks_0"]["qkv"]["bias"], others["blocks_0"]["qkv"]["bias"]),
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_muon_moves_stacked_blocks_as_it_moves_each():
    random = np.random.default_rng(1)
    options = {"learning_rate": 1e-3, "warmup_steps": 0, "total_steps": 1, "name": "muon"}
    values = [jnp.asarray(random.normal(size=(8, 12)), jnp.float32) for _ in range(2)]
    apart = {f"blocks_{i}": {"kernel": value} for i, value in enumerate(values)}
    stacked = {"blocks": {"kernel": jnp.stack(values)}}
    optimizer = make_optimizer(**options)
    moved, _ = optimizer.update(apart, optimizer.init(apart), apart)
    together, _ = optimizer.update(stacked, optimizer.init(stacked), stacked)
    for i in range(2):
        np.testing.assert_allclose(
            together["blocks"]["kernel"][i], moved[f"blocks_{i}"]["kernel"], rtol=1e-4, atol=1e-6
        )


def test_step_decay_is_that_of_a_published_schedule():
    rates = {"learning_rate": 0.1, "warmup_steps": 10, "total_steps": 120}
    schedule = make_schedule(**rates, decay="step", decay_at=(40 / 120, 70 / 120))
    expected = {0: 0.01, 9: 0.1, 39: 0.1, 41: 0.01, 69: 0.01, 71: 0.001, 119: 0.001}
    for step, rate in expected.items():
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-5), step


def test_adam_has_its_decay_in_the_gradient():
    """As torch's Adam: Kingma & Ba's update of gradient plus decay times weight."""
    optimizer = make_optimizer(
        learning_rate=0.1, warmup_steps=0, total_steps=10, name="adam", weight_decay=0.5
    )
    weight, gradient = jnp.array([2.0]), jnp.array([-1.0])  # Their sum with decay is 0: no update.
    update, _ = optimizer.update(gradient, optimizer.init(weight), weight)
    np.testing.assert_allclose(update, 0, atol=1e-6)
    update, _ = optimizer.update(-gradient, optimizer.init(weight), weight)
    np.testing.assert_allclose(update, -0.1, rtol=1e-5)
