"""Low-rank adaptation against W + A B written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.models.dit import stack_blocks, unstack_blocks
from rlsyn_jax.models.lora import init_lora, merge_lora


@pytest.fixture
def params():
    random = np.random.default_rng(0)

    def dense(rows, columns):
        return {
            "kernel": jnp.asarray(random.normal(size=(rows, columns)), jnp.float32),
            "bias": jnp.zeros(columns),
        }

    return {
        "blocks_0": {"attn": {"qkv": dense(4, 12), "proj": dense(4, 4)}, "mlp_fc1": dense(4, 8)},
        "blocks_1": {"attn": {"qkv": dense(4, 12), "proj": dense(4, 4)}, "adaLN": dense(4, 24)},
        "proj": {"kernel": jnp.ones((2, 2, 3, 4))},
    }


def test_only_named_dense_kernels_get_pairs_of_the_rank(params):
    lora = init_lora(jax.random.key(0), params, rank=2)
    assert {name: (pair["a"].shape, pair["b"].shape) for name, pair in lora.items()} == {
        "blocks_0/attn/proj/kernel": ((4, 2), (2, 4)),
        "blocks_0/attn/qkv/kernel": ((4, 2), (2, 12)),
        "blocks_0/mlp_fc1/kernel": ((4, 2), (2, 8)),
        "blocks_1/attn/proj/kernel": ((4, 2), (2, 4)),
        "blocks_1/attn/qkv/kernel": ((4, 2), (2, 12)),
    }
    chosen = init_lora(jax.random.key(0), params, rank=1, targets=("adaLN",))
    assert list(chosen) == ["blocks_1/adaLN/kernel"]


def test_starts_as_the_frozen_model(params):
    merged = merge_lora(params, init_lora(jax.random.key(0), params, rank=3))
    jax.tree.map(np.testing.assert_array_equal, merged, params)


def test_first_factors_are_normal_with_variance_one_over_the_inputs_and_all_differ():
    wide = {name: {"kernel": jnp.zeros((400, 5))} for name in ("qkv", "proj")}
    lora = init_lora(jax.random.key(1), wide, rank=16)
    factors = [np.asarray(pair["a"]) for pair in lora.values()]
    for factor in factors:
        assert factor.mean() == pytest.approx(0, abs=0.003)
        assert factor.std() == pytest.approx(1 / np.sqrt(400), rel=0.03)
    assert np.abs(np.corrcoef(factors[0].ravel(), factors[1].ravel())[0, 1]) < 0.05


def test_merging_adds_the_product_to_the_adapted_kernels_only(params):
    lora = init_lora(jax.random.key(0), params, rank=2, targets=("qkv",))
    random = np.random.default_rng(1)
    for pair in lora.values():
        pair["b"] = jnp.asarray(random.normal(size=pair["b"].shape), jnp.float32)
    merged = jax.jit(lambda p, pairs: merge_lora(p, pairs))(params, lora)
    for block in ("blocks_0", "blocks_1"):
        pair = jax.tree.map(np.float64, lora[f"{block}/attn/qkv/kernel"])
        before = np.float64(params[block]["attn"]["qkv"]["kernel"])
        after = np.float64(merged[block]["attn"]["qkv"].pop("kernel"))
        np.testing.assert_allclose(after, before + pair["a"] @ pair["b"], atol=1e-5)
        assert np.linalg.matrix_rank(after - before, tol=1e-4) == 2
        del params[block]["attn"]["qkv"]["kernel"]
    jax.tree.map(np.testing.assert_array_equal, merged, params)


def test_only_the_second_factor_learns_at_first(params):
    lora = init_lora(jax.random.key(0), params, rank=2)

    def loss(pairs):
        merged = merge_lora(params, pairs)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(merged))

    for name, gradient in jax.grad(loss)(lora).items():
        kernel = params
        for part in name.split("/"):
            kernel = kernel[part]
        np.testing.assert_allclose(gradient["b"], lora[name]["a"].T @ jnp.cos(kernel), atol=1e-5)
        assert not np.any(gradient["a"])


def test_mistakes_are_told(params):
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        init_lora(jax.random.key(0), params, rank=0)
    with pytest.raises(ValueError, match=r"named one of \('fc',\)"):
        init_lora(jax.random.key(0), params, rank=1, targets=("fc",))


def test_pairs_of_stacked_layers_are_those_of_each_layer(params):
    params = {f"blocks_{layer}": {"attn": params[f"blocks_{layer}"]["attn"]} for layer in (0, 1)}
    lora = init_lora(jax.random.key(0), stack_blocks(params), rank=2, targets=("qkv",))
    random = np.random.default_rng(1)
    for pair in lora.values():
        pair["b"] = jnp.asarray(random.normal(size=pair["b"].shape), jnp.float32)
    merged = unstack_blocks(merge_lora(stack_blocks(params), lora))
    for layer in (0, 1):
        of_layer = {
            name.replace("blocks/", f"blocks_{layer}/"): {
                "a": pair["a"][layer],
                "b": pair["b"][layer],
            }
            for name, pair in lora.items()
        }
        expected = merge_lora(params, of_layer)[f"blocks_{layer}"]["attn"]["qkv"]["kernel"]
        np.testing.assert_allclose(
            merged[f"blocks_{layer}"]["attn"]["qkv"]["kernel"], expected, atol=1e-6
        )
    first, second = (np.asarray(lora["blocks/attn/qkv/kernel"]["a"][layer]) for layer in (0, 1))
    assert np.abs(first - second).max() > 0.1
