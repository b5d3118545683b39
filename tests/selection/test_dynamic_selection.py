"""The virtual step's loss changes on a toy logistic regression, and the choice made from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.selection.dynamic_selection import (
    DynamicSelection,
    identity_loss_change,
    keep_most_helpful,
)


def losses(params, features, labels):
    """Logistic losses [m] of features [m, d] under labels [m] in {-1, 1}."""
    return jax.nn.softplus(-labels * (features @ params["weight"] + params["bias"]))


@pytest.fixture(scope="module")
def problem():
    generator = np.random.default_rng(0)
    params = {"weight": jnp.asarray(generator.normal(size=6), jnp.float32), "bias": jnp.float32(0)}
    features = jnp.asarray(generator.normal(size=(40, 6)), jnp.float32)
    labels = jnp.asarray(generator.choice([-1.0, 1.0], 40), jnp.float32)
    gradients = jax.grad(lambda p: losses(p, features[:16], labels[:16]).mean())(params)
    return params, features, labels, gradients


@pytest.mark.parametrize("learning_rate", [0.01, 1.0, 20.0])
def test_equals_explicit_recomputation(problem, learning_rate):
    params, features, labels, gradients = problem
    change = identity_loss_change(
        lambda p: losses(p, features, labels), params, gradients, learning_rate
    )

    def explicit(scale):  # float64 [m]
        weight = np.float64(params["weight"]) - scale * np.float64(gradients["weight"])
        bias = np.float64(params["bias"]) - scale * np.float64(gradients["bias"])
        logits = np.float64(features) @ weight + bias
        return np.logaddexp(0, -np.float64(labels) * logits)

    assert change.shape == (40,) and change.dtype == jnp.float32
    np.testing.assert_allclose(change, explicit(learning_rate) - explicit(0), atol=3e-6, rtol=1e-5)


def test_first_order_is_minus_the_inner_product_of_gradients(problem):
    params, features, labels, gradients = problem
    learning_rate = 0.01
    change = identity_loss_change(
        lambda p: losses(p, features, labels), params, gradients, learning_rate
    )
    per_sample = jax.jacobian(losses)(params, features, labels)
    first_order = -learning_rate * (
        per_sample["weight"] @ gradients["weight"] + per_sample["bias"] * gradients["bias"]
    )
    assert np.corrcoef(change, first_order)[0, 1] > 0.999
    assert np.polyfit(first_order, change, 1)[0] == pytest.approx(1, abs=0.02)


def test_works_under_jit_with_a_traced_learning_rate(problem):
    params, features, labels, gradients = problem

    def change(learning_rate):
        return identity_loss_change(
            lambda p: losses(p, features, labels), params, gradients, learning_rate
        )

    np.testing.assert_allclose(jax.jit(change)(0.5), change(0.5), atol=1e-6)
    np.testing.assert_array_equal(change(0.0), np.zeros(40))


def test_losses_are_compared_with_all_digits_of_float32(problem):
    params, features, labels, gradients = problem
    traced = jax.make_jaxpr(
        lambda p: identity_loss_change(lambda q: losses(q, features, labels), p, gradients, 0.1)
    )(params)
    found = [e.params["precision"] for e in traced.eqns if e.primitive.name == "dot_general"]
    assert found == [(jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)] * 2


def test_the_first_order_keeps_its_choice_in_bfloat16():
    """Of the most helpful half of 64, so many are those of float32."""
    random = np.random.default_rng(0)
    features = jnp.asarray(random.normal(size=(64, 32)), jnp.float32)
    labels = jnp.asarray(random.integers(0, 8, 64))
    shapes = {"first": (32, 64), "second": (64, 8)}
    params = {
        name: jnp.asarray(random.normal(size=shape) * shape[0] ** -0.5, jnp.float32)
        for name, shape in shapes.items()
    }

    def losses_in(dtype):
        def of(params):
            first, second = (params[name].astype(dtype) for name in shapes)
            logits = jax.nn.relu(features.astype(dtype) @ first) @ second
            logits = logits.astype(jnp.float32)
            return -jax.nn.log_softmax(logits)[jnp.arange(64), labels]

        return of

    gradients = jax.grad(lambda p: losses_in(jnp.float32)(p).mean())(params)

    def kept(method, dtype):
        change = DynamicSelection(method=method).loss_change
        found = change(losses_in(dtype), params, gradients, 1e-3)
        return set(np.asarray(keep_most_helpful(found[None], 32)).reshape(-1).tolist())

    expected = kept("exact", jnp.float32)
    assert len(kept("jvp", jnp.float32) & expected) >= 31
    assert len(kept("jvp", jnp.bfloat16) & expected) >= 30
    # Which is why a config that asks for both is refused.
    assert len(kept("exact", jnp.bfloat16) & expected) < 26


def test_stepped_parameters_keep_their_dtype():
    seen = []

    def loss(params):
        seen.append(params["weight"].dtype)
        return params["weight"] ** 2

    params = {"weight": jnp.array([1.0, 2.0], jnp.bfloat16)}
    gradients = {"weight": jnp.array([1.0, -1.0], jnp.float32)}
    change = identity_loss_change(loss, params, gradients, jnp.float32(0.5))
    assert seen == [jnp.bfloat16, jnp.bfloat16]
    assert change.dtype == jnp.float32
    np.testing.assert_array_equal(change, [-0.75, 2.25])


def test_identity_loss_change_errors(problem):
    params, features, labels, gradients = problem

    def loss(p):
        return losses(p, features, labels)

    with pytest.raises(ValueError, match="structure"):
        identity_loss_change(loss, params, {"weight": gradients["weight"]}, 0.1)
    with pytest.raises(ValueError, match=r"params\['weight'\] has shape \(5,\)"):
        identity_loss_change(loss, params, gradients | {"weight": jnp.ones(5)}, 0.1)
    with pytest.raises(ValueError, match="must be a scalar"):
        identity_loss_change(loss, params, gradients, jnp.ones(2))
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite and at least 0"):
            identity_loss_change(loss, params, gradients, wrong)
    with pytest.raises(ValueError, match="one value per candidate"):
        identity_loss_change(lambda p: loss(p).mean(), params, gradients, 0.1)


def test_keep_most_helpful_sorts_ascending_and_stably():
    change = jnp.array([[0.3, -0.2, 0.0, -0.2, -0.9], [1.0, 1.0, np.nan, 1.0, 0.5]])
    kept = keep_most_helpful(change, 4)
    assert kept.dtype == jnp.int32
    np.testing.assert_array_equal(kept, [[4, 1, 3, 2], [4, 0, 1, 3]])
    np.testing.assert_array_equal(keep_most_helpful(change, 5)[1], [4, 0, 1, 3, 2])
    jitted = jax.jit(keep_most_helpful, static_argnums=1)(change, 1)
    np.testing.assert_array_equal(jitted, [[4], [4]])


@pytest.mark.parametrize("num_kept", [0, 4, -1, 2.0, True])
def test_keep_most_helpful_rejects_a_count_out_of_range(num_kept):
    with pytest.raises(ValueError, match=r"integer in 1\.\.3"):
        keep_most_helpful(jnp.zeros((2, 3)), num_kept)


def test_keep_most_helpful_rejects_a_flat_array():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        keep_most_helpful(jnp.zeros(3), 1)
