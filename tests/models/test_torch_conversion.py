"""Named tensors against trees of shapes: values, names, and every fault told at once."""

import jax
import ml_dtypes
import numpy as np
import pytest

from rlsyn_jax.models.torch_conversion import params_from_torch, torch_name, torch_shape


def make_shapes():
    def leaf(*shape):
        return jax.ShapeDtypeStruct(shape, np.float32)

    return {
        "blocks_0": {"conv1": {"kernel": leaf(3, 5, 2, 4), "bias": leaf(4)}},
        "to_out_0": {"kernel": leaf(4, 6), "bias": leaf(6)},
        "norm": {"scale": leaf(6)},
        "table": leaf(7, 2),
    }


def make_state_dict():
    random = np.random.default_rng(0)
    shapes = {
        "blocks.0.conv1.weight": (4, 2, 3, 5),
        "blocks.0.conv1.bias": (4,),
        "to_out.0.weight": (6, 4),
        "to_out.0.bias": (6,),
        "norm.weight": (6,),
        "table": (7, 2),
    }
    return {name: np.float32(random.normal(size=shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("down_blocks_10/resnets_1/conv_shortcut/kernel", None),
        ("norm1/scale", "norm1.weight"),
        ("to_out_0/bias", "to_out.0.bias"),
        ("pos_embed", "pos_embed"),
    ],
)
def test_names_differ_by_underscores_before_numbers_only(path, name):
    assert torch_name(path) == (name or "down_blocks.10.resnets.1.conv_shortcut.weight")


def test_kernels_are_laid_out_as_pytorch_has_them_and_nothing_else_is():
    assert torch_shape("a/kernel", (3, 5, 2, 4)) == (4, 2, 3, 5)
    assert torch_shape("a/kernel", (2, 4)) == (4, 2)
    assert torch_shape("table", (2, 4)) == (2, 4)


def test_each_tensor_lands_in_its_place_with_its_axes():
    state = make_state_dict()
    params = params_from_torch(state, make_shapes())
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, make_shapes())
    kernel, weight = params["blocks_0"]["conv1"]["kernel"], state["blocks.0.conv1.weight"]
    assert kernel[2, 4, 1, 3] == weight[3, 1, 2, 4]
    assert params["to_out_0"]["kernel"][1, 5] == state["to_out.0.weight"][5, 1]
    np.testing.assert_array_equal(params["norm"]["scale"], state["norm.weight"])
    np.testing.assert_array_equal(params["table"], state["table"])


def test_parameters_are_float32_and_share_no_memory_with_the_state_dict():
    state = make_state_dict()
    params = params_from_torch(state, make_shapes())
    for value in state.values():
        value[...] = 9
    assert all(np.abs(leaf).max() < 9 for leaf in jax.tree.leaves(params))
    half = {
        "table": state["table"].astype(np.float16),
        "norm.weight": state["norm.weight"].astype(ml_dtypes.bfloat16),
    }
    params = params_from_torch(state | half, make_shapes())
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert (params["norm"]["scale"] == 9).all()


def test_pytorch_tensors_of_any_precision_are_read():
    torch = pytest.importorskip("torch")
    state = make_state_dict()
    tensors = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in state.items()}
    for got, expected in zip(
        jax.tree.leaves(params_from_torch(tensors, make_shapes())),
        jax.tree.leaves(params_from_torch(state, make_shapes())),
    ):
        np.testing.assert_array_equal(got, expected)
    tensors = {name: value.detach().bfloat16() for name, value in tensors.items()}
    for got, expected in zip(
        jax.tree.leaves(params_from_torch(tensors, make_shapes())),
        jax.tree.leaves(params_from_torch(state, make_shapes())),
    ):
        np.testing.assert_allclose(got, expected, rtol=2**-8)


def test_a_pointwise_convolution_serves_as_a_linear_layer():
    state = make_state_dict()
    as_convolution = state | {"to_out.0.weight": state["to_out.0.weight"][:, :, None, None]}
    np.testing.assert_array_equal(
        params_from_torch(as_convolution, make_shapes())["to_out_0"]["kernel"],
        params_from_torch(state, make_shapes())["to_out_0"]["kernel"],
    )


def test_a_prefix_selects_where_it_occurs():
    state = make_state_dict()
    whole = {f"model.{name}": value for name, value in state.items()} | {"step": np.zeros(())}
    for given in (state, whole):
        params = params_from_torch(given, make_shapes(), prefix="model.")
        np.testing.assert_array_equal(params["table"], state["table"])


def test_all_faults_are_listed_in_one_error():
    state = make_state_dict()
    del state["norm.weight"], state["to_out.0.bias"]
    state |= {
        "head.weight": np.zeros((2, 2)),
        "table": np.zeros((2, 7)),
        "blocks.0.conv1.bias": np.array([1, 2, np.nan, 4]),
        "to_out.0.weight": {"nested": 1},
        "old.blocks.0.conv1.weight": state["blocks.0.conv1.weight"],
    }
    with pytest.raises(ValueError) as error:
        params_from_torch(state, make_shapes(), rename=lambda name: name.removeprefix("old."))
    assert str(error.value).splitlines() == [
        "these are not the 6 tensors of the model (7 faults):",
        "  value: blocks.0.conv1.bias holds numbers that are not finite",
        "  shape: to_out.0.weight is (), must be (6, 4)",
        "  missing: to_out.0.bias",
        "  missing: norm.weight",
        "  shape: table is (2, 7), must be (7, 2)",
        "  given twice: blocks.0.conv1.weight, as blocks.0.conv1.weight and as "
        "old.blocks.0.conv1.weight",
        "  unknown: head.weight",
    ]


def test_whole_numbers_and_objects_are_no_weights():
    state = make_state_dict() | {"norm.weight": np.arange(6), "table": np.full((7, 2), None)}
    with pytest.raises(ValueError) as error:
        params_from_torch(state, make_shapes())
    assert str(error.value).splitlines()[1:] == [
        "  type: norm.weight is int64, must be floating",
        "  type: table is object, must be floating",
    ]


@pytest.mark.parametrize("value", [None, [np.zeros(3)], {0: np.zeros(3)}])
def test_what_is_no_state_dict_is_refused(value):
    with pytest.raises(ValueError, match="a state dict maps names to tensors"):
        params_from_torch(value, make_shapes())
