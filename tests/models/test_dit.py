"""The transformer against a NumPy reading of the published one, and its parts against flax's."""

import functools

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsyn_jax.models.dit import (
    DiT,
    TokenDense,
    layer_norm,
    position_embedding,
    timestep_features,
)

CLASSES, PATCH, WIDTH, HEADS, SHAPE = 5, 2, 8, 2, (3, 4, 6, 3)
MODEL = DiT(num_classes=CLASSES, patch_size=PATCH, width=WIDTH, depth=2, num_heads=HEADS)


def make_inputs(seed=0):
    random = np.random.default_rng(seed)
    return (
        jnp.asarray(random.normal(size=SHAPE), jnp.float32),
        jnp.array([0, 17, 250]),
        jnp.array([0, 3, CLASSES]),
    )


@functools.cache
def fresh_params():
    return jax.jit(MODEL.init)(jax.random.key(0, impl="rbg"), *make_inputs())["params"]


@functools.cache
def random_params():
    """No parameter is zero, so that every part of the network shows in its output."""
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), *make_inputs())["params"]
    random = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: np.float32(0.3 * random.normal(size=leaf.shape)), shapes)


def mae_position_embedding(rows, columns, dim):
    """Reads get_2d_sincos_pos_embed of MAE and DiT: w goes first, sines before cosines."""
    table = np.zeros((rows * columns, dim))
    for row in range(rows):
        for column in range(columns):
            for start, place in ((0, column), (dim // 2, row)):
                for k in range(dim // 4):
                    angle = place / 10000 ** (k / (dim / 4))
                    table[row * columns + column, start + k] = np.sin(angle)
                    table[row * columns + column, start + dim // 4 + k] = np.cos(angle)
    return table


def published_forward(params, x, timesteps, labels):
    """DiT's forward pass in float64, written from the paper and its PyTorch code."""
    p = flax.traverse_util.flatten_dict(jax.tree.map(np.float64, params), sep="/")

    def dense(name, value):
        return value @ p[f"{name}/kernel"] + p[f"{name}/bias"]

    def silu(value):
        return value / (1 + np.exp(-value))

    def gelu(value):
        return 0.5 * value * (1 + np.tanh(np.sqrt(2 / np.pi) * (value + 0.044715 * value**3)))

    def norm(value):
        centred = value - value.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)

    frequencies = np.exp(-np.log(10000) * np.arange(128) / 128)
    outputs = []
    for image, timestep, label in zip(np.float64(x), np.asarray(timesteps), np.asarray(labels)):
        height, width, channels = image.shape
        tokens = []
        for top in range(0, height, PATCH):
            for left in range(0, width, PATCH):
                patch = image[top : top + PATCH, left : left + PATCH]
                tokens.append(np.einsum("hwc,hwcd->d", patch, p["x_embedder/kernel"]))
        tokens = np.array(tokens) + p["x_embedder/bias"]
        tokens += mae_position_embedding(height // PATCH, width // PATCH, WIDTH)
        angles = timestep * frequencies
        features = np.concatenate([np.cos(angles), np.sin(angles)])
        condition = dense("t_embedder/mlp_2", silu(dense("t_embedder/mlp_0", features)))
        condition = silu(condition + p["y_embedder/embedding_table"][label])
        for block in ("blocks_0", "blocks_1"):
            shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = np.split(
                dense(f"{block}/adaLN_modulation", condition), 6
            )
            h = norm(tokens) * (1 + scale_1) + shift_1
            query, key, value = np.split(dense(f"{block}/attn/qkv", h), 3, axis=1)
            heads = []
            for part in np.split(np.arange(WIDTH), HEADS):
                scores = query[:, part] @ key[:, part].T / np.sqrt(len(part))
                weights = np.exp(scores - scores.max(1, keepdims=True))
                heads.append(weights / weights.sum(1, keepdims=True) @ value[:, part])
            tokens = tokens + gate_1 * dense(f"{block}/attn/proj", np.concatenate(heads, axis=1))
            h = gelu(dense(f"{block}/mlp_fc1", norm(tokens) * (1 + scale_2) + shift_2))
            tokens = tokens + gate_2 * dense(f"{block}/mlp_fc2", h)
        shift, scale = np.split(dense("final_adaLN_modulation", condition), 2)
        patches = dense("final_linear", norm(tokens) * (1 + scale) + shift)
        output = np.zeros(image.shape)
        for place, patch in enumerate(patches):
            top, left = PATCH * (place // (width // PATCH)), PATCH * (place % (width // PATCH))
            output[top : top + PATCH, left : left + PATCH] = patch.reshape(PATCH, PATCH, channels)
        outputs.append(output)
    return np.array(outputs)


@jax.jit
def apply(params, x, timesteps, labels):
    return MODEL.apply({"params": params}, x, timesteps, labels)


def test_forward_pass_equals_the_published_network():
    inputs = make_inputs()
    output = apply(random_params(), *inputs)
    assert output.shape == SHAPE and output.dtype == jnp.float32
    expected = published_forward(random_params(), *inputs)
    assert expected.std() > 0.1
    np.testing.assert_allclose(output, expected, atol=5e-5)


def test_gradient_equals_finite_differences_of_the_published_network():
    x, timesteps, labels = make_inputs()
    random = np.random.default_rng(2)
    weights = random.normal(size=SHAPE)
    params = random_params()
    gradient = jax.jit(
        jax.grad(lambda params: jnp.sum(weights * apply(params, x, timesteps, labels)))
    )(params)
    for name in params:
        direction = jax.tree.map(lambda value: random.normal(size=value.shape), params[name])
        ends = [
            np.sum(
                weights
                * published_forward(
                    {**params, name: jax.tree.map(lambda v, d, e=e: v + e * d, at, direction)},
                    x,
                    timesteps,
                    labels,
                )
            )
            for e in (-1e-5, 1e-5)
            for at in (jax.tree.map(np.float64, params[name]),)
        ]
        slope = sum(
            np.sum(g * d)
            for g, d in zip(jax.tree.leaves(gradient[name]), jax.tree.leaves(direction))
        )
        np.testing.assert_allclose(slope, (ends[1] - ends[0]) / 2e-5, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_layer_norm_and_its_gradient_equal_flax(dtype):
    random = np.random.default_rng(3)
    x = 2 + 3 * random.normal(size=(2, 5, 16))
    x[0, 0] = 1.0  # No variance at all.
    x = jnp.asarray(x, dtype)
    weights = jnp.asarray(random.normal(size=x.shape), dtype)
    reference = nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False, dtype=dtype)

    def value_and_gradient(function):
        value, pull_back = jax.vjp(function, x)
        return value, pull_back(weights)[0]

    got = value_and_gradient(layer_norm)
    expected = value_and_gradient(lambda x: reference.apply({}, x))
    assert got[0].dtype == got[1].dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    np.testing.assert_allclose(
        np.float32(got[0]), np.float32(expected[0]), rtol=tolerance, atol=tolerance
    )
    np.testing.assert_allclose(
        np.float32(got[1])[0, 1:], np.float32(expected[1])[0, 1:], rtol=tolerance, atol=tolerance
    )


def test_layer_norm_of_equal_values_is_zero_with_a_finite_gradient():
    value, pull_back = jax.vjp(layer_norm, jnp.full((1, 8), 3.0))
    np.testing.assert_array_equal(value, 0)
    assert np.isfinite(pull_back(jnp.arange(8.0)[None])[0]).all()


def test_token_dense_and_its_gradients_equal_flax():
    random = np.random.default_rng(4)
    x = jnp.asarray(random.normal(size=(3, 7, 5)), jnp.float32)
    ours, reference = TokenDense(4), nn.Dense(4)
    params = ours.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        jnp.shape, reference.init(jax.random.key(0), x)
    )
    params["params"]["bias"] = jnp.arange(4.0)

    def run(layer):
        value, pull_back = jax.vjp(layer.apply, params, x)
        return value, pull_back(jnp.cos(value))

    for got, expected in zip(jax.tree.leaves(run(ours)), jax.tree.leaves(run(reference))):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 5), columns=st.integers(1, 5), quarter=st.integers(1, 4))
def test_position_embedding_equals_the_published_one(rows, columns, quarter):
    table = position_embedding(rows, columns, 4 * quarter)
    assert table.dtype == np.float32
    expected = mae_position_embedding(rows, columns, 4 * quarter)
    np.testing.assert_allclose(table, expected, atol=1e-6)
    assert len(np.unique(table, axis=0)) == rows * columns


def test_timestep_features_equal_the_formula_with_cosines_first():
    features = timestep_features(jnp.array([0, 3, 999]), 6, max_period=100.0)
    for row, timestep in zip(np.asarray(features), (0, 3, 999)):
        angles = [timestep / 100 ** (k / 3) for k in range(3)]
        np.testing.assert_allclose(row, [*np.cos(angles), *np.sin(angles)], atol=1e-4)


def test_a_fresh_network_predicts_zero_whatever_it_sees():
    for seed in range(2):
        assert not np.any(apply(fresh_params(), *make_inputs(seed)))


def test_fresh_blocks_change_nothing():
    params = fresh_params()
    rest = {name: value for name, value in random_params().items() if "blocks" not in name}
    without = {**rest, "blocks_0": params["blocks_0"], "blocks_1": params["blocks_1"]}
    other = {**without, "blocks_0": params["blocks_1"], "blocks_1": params["blocks_0"]}
    np.testing.assert_array_equal(apply(without, *make_inputs()), apply(other, *make_inputs()))


def test_the_null_class_is_the_row_after_the_last_class():
    params = random_params()
    table = params["y_embedder"]["embedding_table"]
    assert table.shape == (CLASSES + 1, WIDTH)
    higher = np.concatenate([table[:CLASSES], table[CLASSES:] + 1])
    moved = {**params, "y_embedder": {"embedding_table": higher}}
    before, after = (apply(tree, *make_inputs()) for tree in (params, moved))
    np.testing.assert_array_equal(before[:2], after[:2])
    assert np.abs(before[2] - after[2]).max() > 1e-3


def test_each_image_is_treated_alone():
    x, timesteps, labels = make_inputs()
    order = jnp.array([2, 0, 1])
    np.testing.assert_allclose(
        apply(random_params(), x[order], timesteps[order], labels[order]),
        apply(random_params(), x, timesteps, labels)[order],
        atol=1e-5,
    )


def test_learned_sigma_doubles_the_channels():
    model = MODEL.clone(learn_sigma=True)
    output = jax.eval_shape(
        lambda *inputs: model.init_with_output(jax.random.key(0), *inputs)[0], *make_inputs()
    )
    assert output.shape == (3, 4, 6, 6)


def test_bfloat16_keeps_float32_parameters_and_output_and_comes_near_float32():
    model = MODEL.clone(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *make_inputs())["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    inputs = make_inputs()
    output = jax.jit(model.apply)({"params": random_params()}, *inputs)
    assert output.dtype == jnp.float32
    exact = np.asarray(apply(random_params(), *inputs))
    error = np.abs(output - exact)
    assert 0 < error.max() and error.mean() < 0.05 * exact.std()


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (MODEL, (1, 5, 6, 3), "5 x 6 does not divide into patches of 2 x 2"),
        (MODEL, (1, 4, 7, 3), "4 x 7 does not divide into patches of 2 x 2"),
        (MODEL.clone(num_heads=3), (1, 4, 6, 3), "width 8 is not divisible by num_heads 3"),
        (MODEL.clone(width=6), (1, 4, 6, 3), "divisible by 4 for position embeddings, got 6"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_their_numbers(model, shape, message):
    zero = jnp.zeros(1, jnp.int32)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape), zero, zero)


def test_remat_changes_no_number_and_keeps_only_block_inputs():
    params, inputs = random_params(), make_inputs()

    def loss(params, model):
        return jnp.mean(model.apply({"params": params}, *inputs) ** 2)

    gradients, kept = [], []
    for model in (MODEL, MODEL.clone(remat=True)):
        gradients.append(jax.jit(jax.grad(loss), static_argnums=1)(params, model))
        # What the backward pass holds on to, besides parameters and inputs.
        _, backward = jax.eval_shape(
            lambda params, model=model: jax.vjp(lambda p: loss(p, model), params), params
        )
        kept.append(sum(value.size for value in jax.tree.leaves(backward)))
    for one, other in zip(*map(jax.tree.leaves, gradients)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert kept[1] < 0.8 * kept[0]
