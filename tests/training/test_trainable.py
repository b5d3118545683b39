"""Parts of a generator that train: what they hold, and that the whole comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from rlsyn_jax.models.dit import DiT
from rlsyn_jax.training.trainable import CHOICES, merge, scale_class_rows, split

ROWS = "y_embedder/embedding_table"


@pytest.fixture(scope="module")
def params():
    model = DiT(num_classes=3, patch_size=2, width=8, depth=2, num_heads=2)
    zero = jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 4, 1)), zero, zero)
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(size=leaf.shape), jnp.float32), shapes["params"]
    )


def cut(params, choice):
    return split(params, choice, lora_rank=2, key=jax.random.key(1))


@pytest.mark.parametrize("choice", CHOICES)
def test_merging_the_parts_gives_the_whole_back(params, choice):
    merged = merge(*cut(params, choice))
    jax.tree.map(np.testing.assert_array_equal, merged, params)


def test_parts_hold_what_their_names_say(params):
    every = set(flatten_dict(params, sep="/"))
    adaln = {
        f"{module}/{part}"
        for module in (
            "blocks_0/adaLN_modulation",
            "blocks_1/adaLN_modulation",
            "final_adaLN_modulation",
        )
        for part in ("kernel", "bias")
    }
    assert adaln | {ROWS} <= every
    expected = {
        "class_embedding": {ROWS},
        "adaln": adaln | {ROWS},
        "lora": {ROWS},
        "all": every,
    }
    assert set(CHOICES) == set(expected)
    for choice, names in expected.items():
        trained, frozen = cut(params, choice)
        assert set(flatten_dict(trained["params"], sep="/")) == names
        assert set(flatten_dict(frozen, sep="/")) == every - names
        assert bool(trained["lora"]) == (choice == "lora")
    pairs = set(cut(params, "lora")[0]["lora"])
    assert pairs == {
        f"{block}/{module}/kernel"
        for block in ("blocks_0", "blocks_1")
        for module in ("attn/qkv", "attn/proj", "mlp_fc1", "mlp_fc2")
    }


@pytest.mark.parametrize("choice", CHOICES)
def test_a_step_of_descent_moves_the_chosen_leaves_only(params, choice):
    trained, frozen = cut(params, choice)

    def loss(trained):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(merge(trained, frozen)))

    moved = jax.tree.map(lambda value, slope: value - slope, trained, jax.grad(loss)(trained))
    before, after = (flatten_dict(tree, sep="/") for tree in (params, merge(moved, frozen)))
    changed = {name for name in before if np.any(before[name] != after[name])}
    assert changed == set(flatten_dict(trained["params"], sep="/")) | set(trained["lora"])


def test_low_rank_pairs_are_added_in(params):
    trained, frozen = cut(params, "lora")
    name = "blocks_1/mlp_fc1/kernel"
    pair = trained["lora"][name]
    pair["b"] = jnp.ones_like(pair["b"])
    merged = flatten_dict(merge(trained, frozen), sep="/")
    expected = flatten_dict(params, sep="/")[name] + pair["a"].sum(1, keepdims=True)
    np.testing.assert_allclose(merged[name], expected, rtol=1e-5, atol=1e-6)


def test_an_unknown_choice_is_told(params):
    with pytest.raises(ValueError, match=r"trainable is 'head'.*'class_embedding', 'adaln'"):
        split(params, "head")


@pytest.mark.parametrize("choice", CHOICES)
def test_rows_of_people_move_faster_and_the_null_row_and_the_rest_do_not(params, choice):
    trained, _ = cut(params, choice)
    ones = jax.tree.map(jnp.ones_like, trained)
    transformation = scale_class_rows(5.0)
    updates, _ = transformation.update(ones, transformation.init(trained))
    table = updates["params"]["y_embedder"].pop("embedding_table")
    np.testing.assert_array_equal(table, np.repeat([[5.0], [5.0], [5.0], [1.0]], 8, axis=1))
    assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(updates))


def test_the_factor_scales_the_step_when_it_comes_after_the_optimiser(params):
    trained, _ = cut(params, "class_embedding")
    optimizer = optax.chain(optax.adam(0.1), scale_class_rows(3.0))
    updates, _ = optimizer.update(
        jax.tree.map(jnp.ones_like, trained), optimizer.init(trained), trained
    )
    table = updates["params"]["y_embedder"]["embedding_table"]
    np.testing.assert_allclose(table[:, 0], [-0.3, -0.3, -0.3, -0.1], rtol=1e-5)
