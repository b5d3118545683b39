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
    DIT_SIZES,
    DiT,
    TokenDense,
    dit_config,
    layer_norm,
    position_embedding,
    stack_blocks,
    timestep_features,
    unstack_blocks,
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
    for model in (MODEL, MODEL.clone(remat="blocks")):
        gradients.append(jax.jit(jax.grad(loss), static_argnums=1)(params, model))
        # What the backward pass holds on to, besides parameters and inputs.
        _, backward = jax.eval_shape(
            lambda params, model=model: jax.vjp(lambda p: loss(p, model), params), params
        )
        kept.append(sum(value.size for value in jax.tree.leaves(backward)))
    for one, other in zip(*map(jax.tree.leaves, gradients)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert kept[1] < 0.8 * kept[0]


@pytest.mark.parametrize(
    ("name", "parameters"),
    # As the published code prints them, with the 256 fixed position embeddings of 256 pixels.
    [("DiT-S/2", 32_963_360), ("DiT-B/2", 130_512_416), ("DiT-L/2", 458_102_816)]
    + [("DiT-XL/2", 675_129_632)],
)
def test_published_sizes_have_the_published_number_of_parameters(name, parameters):
    # One block in place of all keeps this quick; depths are counted instead.
    size = dit_config(name)
    model = DiT(num_classes=1000, learn_sigma=True, **{**size, "depth": 1})
    zero = jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 4)), zero, zero)

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    whole, block = count(shapes), count(shapes["params"]["blocks_0"])
    assert whole + (size["depth"] - 1) * block + 256 * size["width"] == parameters


def test_every_published_size_and_patch_has_a_name():
    sizes = [dit_config(f"{size}/{patch}") for size in DIT_SIZES for patch in (2, 4, 8)]
    assert len({tuple(sorted(size.items())) for size in sizes}) == 12
    assert {size["patch_size"] for size in sizes} == {2, 4, 8}
    assert all(size["width"] % size["num_heads"] == 0 for size in sizes)
    dit_config("DiT-S/2")["depth"] = 1
    assert dit_config("DiT-S/2") == {"width": 384, "depth": 12, "num_heads": 6, "patch_size": 2}


@pytest.mark.parametrize("name", ["DiT-M/2", "DiT-S/3", "DiT-S", "DiT-S/", "XL/2", "DiT-S/2/2"])
def test_unknown_sizes_are_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=f"'{name}' is no published size; .*DiT-XL.* 2, 4, 8"):
        dit_config(name)


def test_scanned_layers_give_the_same_numbers_and_gradients_with_remat_and_without():
    inputs, params = make_inputs(), random_params()
    weights = np.random.default_rng(5).normal(size=SHAPE)

    def value_and_gradient(model, params):
        def loss(params):
            output = model.apply({"params": params}, *inputs)
            return jnp.sum(weights * output), output

        compiled = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (_, output), gradient = compiled(params)
        return output, gradient

    expected = value_and_gradient(MODEL, params)
    for remat in ("none", "products", "blocks"):
        scanned = MODEL.clone(scan_layers=True, remat=remat)
        output, gradient = value_and_gradient(scanned, stack_blocks(params))
        np.testing.assert_allclose(output, expected[0], rtol=1e-5, atol=1e-5)
        gradient = unstack_blocks(gradient)
        assert jax.tree.structure(gradient) == jax.tree.structure(expected[1])
        for one, other in zip(*map(jax.tree.leaves, (gradient, expected[1]))):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())


def test_scanned_layers_with_remat_keep_only_block_inputs():
    params, inputs = stack_blocks(random_params()), make_inputs()

    def kept(model):
        def loss(params):
            return jnp.mean(model.apply({"params": params}, *inputs) ** 2)

        _, backward = jax.eval_shape(lambda params: jax.vjp(loss, params), params)
        return sum(value.size for value in jax.tree.leaves(backward))

    scanned = MODEL.clone(scan_layers=True)
    assert kept(scanned.clone(remat="blocks")) < 0.8 * kept(scanned)


def test_a_scanned_network_is_initialised_as_an_unrolled_one():
    scanned = MODEL.clone(scan_layers=True)
    init = jax.jit(scanned.init)
    params = init(jax.random.key(0, impl="rbg"), *make_inputs())["params"]
    one, other = unstack_blocks(params), fresh_params()
    assert jax.tree.map(jnp.shape, one) == jax.tree.map(jnp.shape, other)
    flat = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (one, other))
    for (name, mine), theirs in zip(*(sorted(tree.items()) for tree in flat)):
        # Other random numbers of the same spread, and zeros where zeros belong.
        np.testing.assert_allclose(np.std(mine), np.std(theirs[1]), rtol=0.35, err_msg=name)
    kernels = params["blocks"]["mlp_fc1"]["kernel"]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-2


def test_scanning_traces_one_block_at_any_depth():
    sizes = []
    for depth in (2, 9):
        model = MODEL.clone(depth=depth, scan_layers=True)
        params = jax.eval_shape(model.init, jax.random.key(0), *make_inputs())
        text = jax.jit(model.apply).lower(params, *make_inputs()).as_text()
        sizes.append(text.count("dot_general"))
    assert sizes[0] == sizes[1]


def test_stacking_and_unstacking_are_inverse_bit_for_bit():
    params = random_params()
    stacked = stack_blocks(params)
    assert stacked["blocks"]["attn"]["qkv"]["kernel"].shape == (2, WIDTH, 3 * WIDTH)
    back = unstack_blocks(stacked)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_blocks_are_stacked_in_the_order_of_their_numbers():
    blocks = {f"blocks_{index}": {"bias": np.full(1, index)} for index in range(11)}
    stacked = stack_blocks({name: blocks[name] for name in sorted(blocks)})
    np.testing.assert_array_equal(stacked["blocks"]["bias"][:, 0], range(11))


def test_trees_that_cannot_be_converted_are_refused():
    params = random_params()
    with pytest.raises(ValueError, match=r"without a gap, got \['blocks_1'\]"):
        stack_blocks({name: value for name, value in params.items() if name != "blocks_0"})
    with pytest.raises(ValueError, match=r"without a gap, got \['blocks'\]"):
        stack_blocks(stack_blocks(params))
    with pytest.raises(ValueError, match="want stacked blocks, got .*blocks_0"):
        unstack_blocks(params)
    with pytest.raises(ValueError, match=r"different leading axes: \[2, 3\]"):
        unstack_blocks({"blocks": {"a": np.zeros((2, 1)), "b": np.zeros((3, 1))}})


def test_timestep_features_of_diffusers_reach_the_longest_period():
    features = timestep_features(jnp.array([1, 50]), 8, max_period=100.0, frequency_shift=1)
    for row, timestep in zip(np.asarray(features), (1, 50)):
        angles = [timestep / 100 ** (k / 3) for k in range(4)]
        np.testing.assert_allclose(row, [*np.cos(angles), *np.sin(angles)], atol=1e-5)
