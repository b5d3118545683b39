"""Weights from elsewhere against the codes they come from, run in PyTorch, and files that lie."""

import argparse
import functools
import json
import os
import pickle
import sys

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from rlsyn_jax.config import ConfigError
from rlsyn_jax.models import import_weights
from rlsyn_jax.models.dit import DiT, stack_blocks
from rlsyn_jax.models.import_weights import (
    dit_from_torch,
    dit_sizes,
    dit_to_diffusers,
    export_diffusers,
    import_checkpoint,
    resnet_from_torch,
)
from rlsyn_jax.models.resnet import ResNet50, ResNet50IBN
from rlsyn_jax.models.weight_files import read_weights, sha256
from rlsyn_jax.stages import pretrain
from rlsyn_jax.stages.generator import init_params
from rlsyn_jax.stages.pretrain import check_fits, check_record, check_source
from rlsyn_jax.stages.stage_record import plain
from rlsyn_jax.training.checkpoints import CheckpointStore, restore_config, restore_params

CLASSES, CHANNELS, WIDTH, DEPTH, HEADS = 5, 4, 16, 2, 2


def relative_error(got, expected):
    """Length of the difference over the length of the expected values, of the worst image."""
    got, expected = (np.asarray(value).reshape(len(value), -1) for value in (got, expected))
    return np.max(np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1))


def apply(params, x, timesteps, labels, **settings):
    """Runs our network on channels-first images, as the other codes take them."""
    sizes = dit_sizes(params)
    del sizes["channels"]
    model = DiT(**{"num_heads": HEADS, **sizes, **settings})
    inputs = (np.moveaxis(np.asarray(x), 1, -1), np.asarray(timesteps), np.asarray(labels))
    output = jax.jit(model.apply)({"params": params}, *inputs)
    return np.moveaxis(np.asarray(output), -1, 1)


def make_inputs(height, width, seed=0):
    x = np.random.default_rng(seed).normal(size=(4, CHANNELS, height, width)).astype(np.float32)
    return x, np.array([0, 17, 500, 999]), np.array([0, 3, CLASSES, CLASSES - 1])


def original_state_dict(*, patch=2, learn_sigma=True, seed=0, side=None):
    """Weights under the published code's names; none is zero."""
    random = np.random.default_rng(seed)
    outputs = patch * patch * CHANNELS * (2 if learn_sigma else 1)
    shapes = {
        "x_embedder.proj": (WIDTH, CHANNELS, patch, patch),
        "t_embedder.mlp.0": (WIDTH, 256),
        "t_embedder.mlp.2": (WIDTH, WIDTH),
        "final_layer.linear": (outputs, WIDTH),
        "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
    }
    for index in range(DEPTH):
        shapes |= {
            f"blocks.{index}.attn.qkv": (3 * WIDTH, WIDTH),
            f"blocks.{index}.attn.proj": (WIDTH, WIDTH),
            f"blocks.{index}.mlp.fc1": (4 * WIDTH, WIDTH),
            f"blocks.{index}.mlp.fc2": (WIDTH, 4 * WIDTH),
            f"blocks.{index}.adaLN_modulation.1": (6 * WIDTH, WIDTH),
        }
    tensors = {"y_embedder.embedding_table.weight": random.normal(size=(CLASSES + 1, WIDTH))}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        tensors[f"{name}.bias"] = 0.3 * random.normal(size=shape[:1])
    if side:
        tensors["pos_embed"] = sine_cosine_table(side, side)[None]
    return {name: np.float32(value) for name, value in tensors.items()}


def sine_cosine_table(rows, columns):
    """The fixed table of MAE, which DiT took over: the column first, sines before cosines."""
    quarter = WIDTH // 4
    table = np.zeros((rows, columns, 4, quarter))
    for k in range(quarter):
        frequency = 10000.0 ** (-k / quarter)
        table[:, :, 0, k] = np.sin(np.arange(columns) * frequency)[None]
        table[:, :, 1, k] = np.cos(np.arange(columns) * frequency)[None]
        table[:, :, 2, k] = np.sin(np.arange(rows) * frequency)[:, None]
        table[:, :, 3, k] = np.cos(np.arange(rows) * frequency)[:, None]
    return table.reshape(rows * columns, WIDTH)


def original_forward(tensors, x, timesteps, labels):
    """The published DiT's forward pass in plain PyTorch, in double precision."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    t = {name: torch.tensor(value, dtype=torch.float64) for name, value in tensors.items()}

    def linear(name, value):
        return functional.linear(value, t[f"{name}.weight"], t[f"{name}.bias"])

    def norm(value):
        return functional.layer_norm(value, value.shape[-1:], eps=1e-6)

    def modulate(value, shift, scale):
        return value * (1 + scale[:, None]) + shift[:, None]

    x, timesteps, labels = torch.tensor(x).double(), torch.tensor(timesteps), torch.tensor(labels)
    patch = t["x_embedder.proj.weight"].shape[-1]
    h = functional.conv2d(x, t["x_embedder.proj.weight"], t["x_embedder.proj.bias"], stride=patch)
    batch, _, rows, columns = h.shape
    h = h.flatten(2).transpose(1, 2) + torch.tensor(sine_cosine_table(rows, columns))
    angles = timesteps[:, None] * 10000.0 ** (-torch.arange(128, dtype=torch.float64) / 128)
    features = torch.cat([angles.cos(), angles.sin()], dim=1)
    c = linear("t_embedder.mlp.2", functional.silu(linear("t_embedder.mlp.0", features)))
    c = functional.silu(c + t["y_embedder.embedding_table.weight"][labels])
    for index in range(DEPTH):
        block = f"blocks.{index}"
        parts = linear(f"{block}.adaLN_modulation.1", c).chunk(6, dim=1)
        qkv = linear(f"{block}.attn.qkv", modulate(norm(h), parts[0], parts[1]))
        # The published order within the outputs: query, key, value; then heads; then features.
        query, key, value = qkv.reshape(batch, -1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, -1, WIDTH)
        h = h + parts[2][:, None] * linear(f"{block}.attn.proj", mixed)
        hidden = linear(f"{block}.mlp.fc1", modulate(norm(h), parts[3], parts[4]))
        hidden = functional.gelu(hidden, approximate="tanh")
        h = h + parts[5][:, None] * linear(f"{block}.mlp.fc2", hidden)
    shift, scale = linear("final_layer.adaLN_modulation.1", c).chunk(2, dim=1)
    h = linear("final_layer.linear", modulate(norm(h), shift, scale))
    h = h.reshape(batch, rows, columns, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
    return h.reshape(batch, -1, rows * patch, columns * patch).numpy()


def import_diffusers():
    pytest.importorskip("torch")
    return pytest.importorskip("diffusers")


@functools.cache
def diffusers_model(*, patch=2, learn_sigma=True, epsilon=1e-5):
    """diffusers' network with random weights; none is zero, and blocks share their embeddings."""
    import torch
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=CHANNELS,
        out_channels=CHANNELS * (2 if learn_sigma else 1),
        num_layers=DEPTH,
        sample_size=4 * patch,
        patch_size=patch,
        num_embeds_ada_norm=CLASSES,
        norm_eps=epsilon,
    ).eval()
    generator = torch.Generator().manual_seed(0)
    tensors = model.state_dict()
    for name, tensor in tensors.items():
        scale = 0.3 if tensor.ndim == 1 else tensor[0].numel() ** -0.5
        tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))
        if ".norm1.emb." in name:
            tensor.copy_(tensors["transformer_blocks.0.norm1" + name.split(".norm1")[1]])
    return model


def diffusers_forward(model, x, timesteps, labels):
    import torch

    with torch.no_grad():
        return model(
            torch.tensor(x), timestep=torch.tensor(timesteps), class_labels=torch.tensor(labels)
        ).sample.numpy()


@pytest.mark.parametrize("learn_sigma", [False, True])
@pytest.mark.parametrize("patch", [2, 4, 8])
def test_diffusers_network_gives_the_same_numbers(patch, learn_sigma):
    import_diffusers()
    model = diffusers_model(patch=patch, learn_sigma=learn_sigma)
    params = dit_from_torch(model.state_dict())
    inputs = make_inputs(4 * patch, 4 * patch)
    expected = diffusers_forward(model, *inputs)
    assert expected.shape[1] == CHANNELS * (2 if learn_sigma else 1) and expected.std() > 0.5
    got = apply(params, *inputs, timestep_frequency_shift=1, mlp_norm_epsilon=1e-5)
    assert relative_error(got, expected) < 1e-5
    assert np.abs(expected[2] - expected[1]).max() > 0.1  # The null class is another.


def test_diffusers_epsilon_is_that_of_the_second_normalisation():
    import_diffusers()
    model, inputs = diffusers_model(epsilon=0.3), make_inputs(8, 8)
    params, expected = dit_from_torch(model.state_dict()), diffusers_forward(model, *inputs)
    got = apply(params, *inputs, timestep_frequency_shift=1, mlp_norm_epsilon=0.3)
    assert relative_error(got, expected) < 1e-5
    got = apply(params, *inputs, timestep_frequency_shift=1)
    assert relative_error(got, expected) > 1e-2


@pytest.mark.parametrize(
    ("patch", "learn_sigma", "height", "width"),
    [(2, True, 8, 8), (2, False, 12, 6), (4, True, 8, 16), (8, False, 16, 16)],
)
def test_the_published_network_gives_the_same_numbers(patch, learn_sigma, height, width):
    tensors = original_state_dict(patch=patch, learn_sigma=learn_sigma)
    inputs = make_inputs(height, width)
    expected = original_forward(tensors, *inputs)
    assert expected.shape == (4, CHANNELS * (2 if learn_sigma else 1), height, width)
    assert expected.std() > 0.5
    assert relative_error(apply(dit_from_torch(tensors), *inputs), expected) < 1e-5


def test_both_layouts_of_the_same_weights_give_the_same_parameters():
    import_diffusers()
    expected = dit_from_torch(original_state_dict())
    model = diffusers_model()
    import torch

    exported = {name: torch.tensor(value) for name, value in dit_to_diffusers(expected).items()}
    assert {name: value.shape for name, value in exported.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    got = dit_from_torch(exported)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert jax.tree.structure(got) == jax.tree.structure(expected)


def test_sizes_are_found_out_with_scanned_layers_too():
    params = dit_from_torch(original_state_dict(patch=4))
    expected = {"num_classes": CLASSES, "patch_size": 4, "width": WIDTH, "depth": DEPTH}
    expected |= {"learn_sigma": True, "channels": CHANNELS}
    assert dit_sizes(params) == dit_sizes(stack_blocks(params)) == expected
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(params))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    one, other = dit_to_diffusers(params), dit_to_diffusers(stack_blocks(params))
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float64"])
def test_every_floating_precision_is_read_without_torch(precision, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    tensors = {
        name: value.astype(jnp.dtype(precision)) for name, value in original_state_dict().items()
    }
    params = dit_from_torch(tensors)
    np.testing.assert_array_equal(
        params["blocks_1"]["mlp_fc1"]["kernel"],
        tensors["blocks.1.mlp.fc1.weight"].T.astype(np.float32),
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


def test_tensors_of_torch_are_read_with_gradients_and_in_half_precision():
    torch = pytest.importorskip("torch")
    arrays = original_state_dict()
    tensors = {
        name: torch.tensor(value, dtype=torch.bfloat16, requires_grad=True)
        for name, value in arrays.items()
    }
    got, expected = dit_from_torch(tensors), dit_from_torch(arrays)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2), got, expected)


def test_everything_that_is_wrong_is_listed_at_once():
    tensors = original_state_dict(side=4)
    del tensors["blocks.0.attn.proj.bias"], tensors["t_embedder.mlp.0.weight"]
    tensors["blocks.1.attn.qkv.weight"] = tensors["blocks.1.attn.qkv.weight"][:, :-1]
    tensors["x_embedder.proj.bias"] = np.zeros(9, np.float32)
    tensors["y_embedder.embedding_table.weight"] = np.zeros((6, 3), np.float32)
    tensors["final_layer.linear.bias"] = np.zeros(7, np.float32)
    tensors["blocks.1.mlp.fc1.bias"] = np.zeros(64, np.int32)
    tensors["blocks.1.mlp.fc2.bias"] = np.full(16, np.nan, np.float32)
    tensors["head.weight"] = np.zeros(3, np.float32)
    tensors["pos_embed"] = tensors["pos_embed"] + 0.1
    with pytest.raises(ValueError) as error:
        dit_from_torch(tensors)
    headline, *lines = str(error.value).splitlines()
    assert headline == "these are not the weights of a DiT with original names (11 faults):"
    assert sorted(line.strip() for line in lines) == [
        "missing: blocks.0.attn.proj.bias",
        "missing: t_embedder.mlp.0.weight",
        "shape: blocks.1.attn.qkv.weight is (48, 15), must be (48, 16)",
        "shape: final_layer.linear.bias is (7), must be (16)",
        "shape: final_layer.linear.weight is (32, 16), must be (16, 16)",
        "shape: x_embedder.proj.bias is (9), must be (16)",
        "shape: y_embedder.embedding_table.weight is (6, 3), must be (classes + 1, 16)",
        "type: blocks.1.mlp.fc1.bias is int32, must be floating",
        "unknown: head.weight",
        "value: blocks.1.mlp.fc2.bias holds numbers that are not finite",
        "value: pos_embed is not the fixed sine-cosine table of 4 x 4 patches",
    ]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"x_embedder.proj.weight": None}, "missing: x_embedder.proj.weight"),
        (
            {"x_embedder.proj.weight": (16, 16)},
            r"x_embedder.proj.weight is \(16, 16\), must be \(16, channels, patch, patch\)",
        ),
        (
            {"x_embedder.proj.weight": (16, 4, 2, 3)},
            r"x_embedder.proj.weight is \(16, 4, 2, 3\), must be \(16, 4, 2, 2\)",
        ),
        ({"pos_embed": (1, 15, 16)}, r"pos_embed is \(1, 15, 16\), must be \(1, n \* n, 16\)"),
        ({"blocks.3.attn.qkv.bias": (48,)}, "missing: blocks.2.mlp.fc2.bias"),
        ({"blocks.5.gate": (16,)}, "missing: blocks.4.attn.qkv.weight"),
    ],
)
def test_what_hides_the_sizes_is_told_without_naming_what_is_right(change, fault):
    tensors = original_state_dict()
    for name, shape in change.items():
        tensors.pop(name, None)
        if shape:
            tensors[name] = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=fault) as error:
        dit_from_torch(tensors)
    assert "final_layer" not in str(error.value) or "(16, 4, 2, 3)" in fault


def test_foreign_names_are_refused_with_some_of_them():
    with pytest.raises(ValueError, match=r"the 2 names begin with \['conv1.weight', 'fc.bias'\]"):
        dit_from_torch({"fc.bias": np.zeros(2), "conv1.weight": np.zeros(2)})
    with pytest.raises(ValueError, match="the 0 names"):
        dit_from_torch({})


def test_embeddings_that_differ_between_blocks_are_an_error():
    tensors = dit_to_diffusers(dit_from_torch(original_state_dict()))
    copy = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    tensors[copy] = np.nextafter(tensors[copy], np.float32(9))  # By one bit.
    gone = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"
    del tensors[gone]
    with pytest.raises(ValueError, match=r"\(2 faults\)") as error:
        dit_from_torch(tensors)
    first = copy.replace("blocks.1", "blocks.0")
    assert f"copy: {copy} is not equal to {first}" in str(error.value)
    assert f"missing: {gone}" in str(error.value)


def test_parameters_that_are_not_a_whole_network_are_not_exported():
    params = dit_from_torch(original_state_dict())
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    del flat["blocks_0/attn/qkv/bias"]
    flat["extra"] = np.zeros(2)
    flat["final_adaLN_modulation/bias"] = np.zeros(3)
    with pytest.raises(ValueError) as error:
        dit_to_diffusers(flax.traverse_util.unflatten_dict(flat, sep="/"))
    assert [line.strip() for line in str(error.value).splitlines()] == [
        "these are not the parameters of a DiT (3 faults):",
        "missing: blocks_0/attn/qkv/bias",
        "unknown: extra",
        "shape: final_adaLN_modulation/bias is (3), must be (32)",
    ]


def test_padded_classes_are_null_classes():
    params = dit_from_torch(original_state_dict())
    table = params["y_embedder"]["embedding_table"]
    name = "transformer_blocks.{}.norm1.emb.class_embedder.embedding_table.weight"
    tensors = dit_to_diffusers(params, pad_classes=9)
    for index in range(DEPTH):
        padded = tensors[name.format(index)]
        np.testing.assert_array_equal(padded[: CLASSES + 1], table)
        assert padded.shape == (10, WIDTH) and (padded[CLASSES:] == table[-1]).all()
    unpadded = dit_to_diffusers(params, pad_classes=3)[name.format(0)]
    np.testing.assert_array_equal(unpadded, table)


def resnet50_state_dict(classifier=True, ibn=False):
    """Weights under torchvision's names, which are timm's too; statistics are those of no batch.

    With ibn, as IBN-Net names and splits the first normalisations of its ResNet-50-IBN-a.
    """
    random = np.random.default_rng(0)
    tensors = {}

    def convolution(name, outputs, inputs, side):
        spread = np.sqrt(2 / (inputs * side * side))
        tensors[f"{name}.weight"] = spread * random.normal(size=(outputs, inputs, side, side))

    def normalisation(name, channels):
        tensors[f"{name}.weight"] = random.uniform(0.3, 0.8, channels)
        tensors[f"{name}.bias"] = 0.3 * random.normal(size=channels)
        tensors[f"{name}.running_mean"] = 0.3 * random.normal(size=channels)
        tensors[f"{name}.running_var"] = random.uniform(0.5, 2.0, channels)
        tensors[f"{name}.num_batches_tracked"] = np.array(7)

    convolution("conv1", 64, 3, 7)
    normalisation("bn1", 64)
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 64 * 2**stage
        for index in range(blocks):
            block = f"layer{stage + 1}.{index}"
            for layer, (into, out, side) in enumerate(
                [(inputs, inner, 1), (inner, inner, 3), (inner, 4 * inner, 1)], 1
            ):
                convolution(f"{block}.conv{layer}", out, into, side)
                if ibn and layer == 1 and stage < 3:
                    tensors[f"{block}.bn1.IN.weight"] = random.uniform(0.3, 0.8, out // 2)
                    tensors[f"{block}.bn1.IN.bias"] = 0.3 * random.normal(size=out // 2)
                    normalisation(f"{block}.bn1.BN", out // 2)
                else:
                    normalisation(f"{block}.bn{layer}", out)
            if index == 0:
                convolution(f"{block}.downsample.0", 4 * inner, inputs, 1)
                normalisation(f"{block}.downsample.1", 4 * inner)
            inputs = 4 * inner
    if classifier:
        tensors["fc.weight"], tensors["fc.bias"] = np.zeros((10, 2048)), np.zeros(10)
    return {
        name: value if name.endswith("tracked") else np.float32(value)
        for name, value in tensors.items()
    }


def resnet50_forward(tensors, images, pool=lambda x: x.mean((2, 3))):
    """ResNet-50 up to its pooling, in plain PyTorch."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    t = {name: torch.tensor(value) for name, value in tensors.items()}

    def convolve(name, x, stride=1):
        weight = t[f"{name}.weight"]
        return functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def normalise(name, x):
        if f"{name}.IN.weight" in t:
            own, rest = x.chunk(2, dim=1)
            parts = {part: t[f"{name}.IN.{part}"] for part in ("weight", "bias")}
            own = functional.instance_norm(own, **parts, eps=1e-5)
            return torch.cat([own, normalise(f"{name}.BN", rest)], dim=1)
        parts = [t[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *parts, eps=1e-5)

    x = functional.relu(normalise("bn1", convolve("conv1", torch.tensor(images), 2)))
    x = functional.max_pool2d(x, 3, stride=2, padding=1)
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for index in range(blocks):
            block, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            y = functional.relu(normalise(f"{block}.bn1", convolve(f"{block}.conv1", x)))
            y = functional.relu(normalise(f"{block}.bn2", convolve(f"{block}.conv2", y, stride)))
            y = normalise(f"{block}.bn3", convolve(f"{block}.conv3", y))
            if index == 0:
                x = convolve(f"{block}.downsample.0", x, stride)
                x = normalise(f"{block}.downsample.1", x)
            x = functional.relu(x + y)
    return pool(x).numpy()


@functools.cache
def our_resnet50_features():
    images = np.random.default_rng(1).normal(size=(2, 3, 64, 32)).astype(np.float32)
    variables = resnet_from_torch(resnet50_state_dict())
    run = jax.jit(lambda *inputs: ResNet50().apply(*inputs, train=False))
    features, neck = run(variables, np.moveaxis(images, 1, -1))
    np.testing.assert_allclose(neck, features, rtol=1e-4)  # The last normalisation is fresh.
    return images, np.asarray(features)


def test_resnet50_gives_the_numbers_of_plain_torch():
    images, features = our_resnet50_features()
    expected = resnet50_forward(resnet50_state_dict(), images)
    assert expected.std() > 0.1 and np.abs(expected[0] - expected[1]).max() > 0.1
    assert relative_error(features, expected) < 1e-4


def test_ibn_nets_resnet50_with_gem_gives_the_numbers_of_plain_torch():
    tensors = resnet50_state_dict(ibn=True)
    variables = resnet_from_torch(tensors, pooling="gem")
    model = ResNet50IBN(pooling="gem")
    images = np.random.default_rng(1).normal(size=(2, 3, 64, 32)).astype(np.float32)
    run = jax.jit(functools.partial(model.apply, train=False))
    features, _ = run(variables, np.moveaxis(images, 1, -1))
    expected = resnet50_forward(
        tensors, images, lambda x: x.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
    )
    assert expected.std() > 0.1 and np.abs(expected[0] - expected[1]).max() > 0.1
    assert relative_error(features, expected) < 1e-4
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), np.moveaxis(images, 1, -1), train=False)
    )
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, shapes)
    del tensors["layer1.0.bn1.IN.bias"]
    with pytest.raises(ValueError, match=r"\(1 faults\):\n  missing: layer1.0.bn1.IN.bias"):
        resnet_from_torch(tensors)


def test_resnet50_gives_the_numbers_of_timm():
    torch = pytest.importorskip("torch")
    # A torchvision that was built for another torch fails with a RuntimeError.
    timm = pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
    model = timm.create_model("resnet50", num_classes=10).eval()
    tensors = {name: torch.tensor(value) for name, value in resnet50_state_dict().items()}
    model.load_state_dict(tensors)
    images, features = our_resnet50_features()
    with torch.no_grad():
        expected = model.forward_head(
            model.forward_features(torch.tensor(images)), pre_logits=True
        ).numpy()
    assert relative_error(features, expected) < 1e-4


def test_resnet50_has_exactly_the_variables_of_the_module():
    variables = resnet_from_torch(resnet50_state_dict(classifier=False))
    expected = jax.eval_shape(
        lambda: ResNet50().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    )
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, expected)


def test_faults_of_a_resnet50_are_listed_at_once():
    tensors = resnet50_state_dict()
    del tensors["layer3.5.bn2.running_var"]
    tensors["layer1.0.downsample.0.weight"] = np.zeros((256, 64, 3, 3), np.float32)
    tensors["layer5.0.conv1.weight"] = np.zeros(1)
    with pytest.raises(ValueError) as error:
        resnet_from_torch(tensors)
    headline, *lines = str(error.value).splitlines()
    assert headline == "these are not the weights of a ResNet-50 (3 faults):"
    assert sorted(line.strip() for line in lines) == [
        "missing: layer3.5.bn2.running_var",
        "shape: layer1.0.downsample.0.weight is (256, 64, 3, 3), must be (256, 64, 1, 1)",
        "unknown: layer5.0.conv1.weight",
    ]


# Files and the command.


class Trap:
    """What an attacker puts into a pickle: reading it makes a folder."""

    def __init__(self, path):
        self._path = str(path)

    def __reduce__(self):
        return os.mkdir, (self._path,)


def save_torch(path, content, **options):
    torch = pytest.importorskip("torch")
    torch.save(content, path, **options)
    return path


def torch_tensors(arrays):
    torch = pytest.importorskip("torch")
    return {name: torch.tensor(value) for name, value in arrays.items()}


def run_command(*arguments):
    import_weights.main([str(argument) for argument in arguments])


def refusal(*arguments):
    """Returns the message with which the command ends."""
    with pytest.raises(SystemExit) as end:
        run_command(*arguments)
    assert isinstance(end.value.code, str) and end.value.code.startswith("error: ")
    return end.value.code


def test_the_command_writes_a_checkpoint_that_the_program_reads(tmp_path, capsys):
    arrays = original_state_dict(side=4)
    source = save_torch(tmp_path / "DiT.pt", torch_tensors(arrays))
    destination = tmp_path / "new" / "prior"
    run_command(source, destination, "--licence", "CC-BY-NC 4.0", "--num-heads", HEADS)
    assert str(destination) in capsys.readouterr().out
    params = restore_params(destination)
    jax.tree.map(np.testing.assert_array_equal, params, dit_from_torch(arrays))
    record = restore_config(destination)
    assert record["imported"] == {
        "source": str(source),
        "sha256": {"DiT.pt": sha256(source)},
        "part": None,
        "licence": "CC-BY-NC 4.0",
    }
    assert record["network"] == "DiT" and record["num_classes"] == CLASSES
    assert record["image"] == {"size": 8, "channels": CHANNELS}
    assert record["generator"] == {
        "patch_size": 2,
        "width": WIDTH,
        "depth": DEPTH,
        "num_heads": HEADS,
        "learn_sigma": True,
        "timestep_frequency_shift": 0,
        "mlp_norm_epsilon": 1e-6,
    }
    assert [path.name for path in destination.parent.iterdir()] == ["prior"]


def test_an_imported_checkpoint_fits_the_generator_that_its_record_tells(tmp_path, program):
    save_file(original_state_dict(), tmp_path / "weights.safetensors")
    record = import_checkpoint(
        tmp_path / "weights.safetensors", tmp_path / "prior", num_heads=HEADS
    )
    image = {"size": 8, "channels": CHANNELS}
    config = program.config(generator=record["generator"], image=image)
    check_fits(config, restore_params(tmp_path / "prior"), "the imported checkpoint")
    check_record(config, restore_config(tmp_path / "prior"), "the imported checkpoint")
    for changed in ({"num_heads": 1}, {"timestep_frequency_shift": 1}):
        config = program.config(generator=record["generator"] | changed, image=image)
        (name,) = changed
        with pytest.raises(ConfigError, match=f"generator.{name} is .* was made with"):
            check_record(config, record, "the imported checkpoint")
    # All that differs is told, and before any data are read.
    config = program.config(
        generator=record["generator"] | {"num_heads": 1, "timestep_frequency_shift": 1},
        image=image,
        pretrain={"source": str(tmp_path / "prior")},
    )
    with pytest.raises(ConfigError, match="num_heads is 1, .*; .*_shift is 1, .*; set it so"):
        check_source(config)
    config = program.config(pretrain={"source": "shiped"})
    with pytest.raises(ConfigError, match="'shiped'; it must be 'train', 'shipped' or a folder"):
        pretrain.run(config, tmp_path / "run")


def test_a_training_checkpoint_gives_its_average(tmp_path):
    average, last = (torch_tensors(original_state_dict(seed=seed)) for seed in (1, 2))
    options = argparse.Namespace(model="DiT-XL/2", lr=1e-4)
    content = {"model": last, "ema": average, "opt": {"state": {}}, "args": options}
    weights = read_weights(save_torch(tmp_path / "0400000.pt", content))
    assert weights.part == "ema"
    name = "blocks.1.mlp.fc1.weight"
    np.testing.assert_array_equal(weights.tensors[name], average[name])
    del content["ema"]
    weights = read_weights(save_torch(tmp_path / "last.pt", content))
    assert weights.part == "model"
    np.testing.assert_array_equal(weights.tensors[name], last[name])


def test_torch_files_of_the_old_format_are_read(tmp_path):
    tensors = torch_tensors(original_state_dict())
    path = tmp_path / "old.pth"
    save_torch(path, tensors, _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(
        read_weights(path).tensors["x_embedder.proj.bias"], tensors["x_embedder.proj.bias"]
    )


def test_a_resnet50_is_imported_with_its_statistics(tmp_path):
    arrays = resnet50_state_dict()
    save_file(arrays, tmp_path / "resnet50.safetensors")
    run_command(tmp_path / "resnet50.safetensors", tmp_path / "judge")
    expected = resnet_from_torch(arrays)
    for collection in ("params", "batch_stats"):
        got = restore_params(tmp_path / "judge", collection=collection)
        jax.tree.map(np.testing.assert_array_equal, got, expected[collection])
    assert restore_config(tmp_path / "judge")["network"] == "ResNet50"


def test_diffusers_folders_of_every_form_are_read(tmp_path):
    diffusers = import_diffusers()
    model = diffusers_model(epsilon=0.3)
    model.save_pretrained(tmp_path / "plain")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    model.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    pipeline = diffusers.DiTPipeline(model, None, None)
    pipeline.save_pretrained(tmp_path / "pipeline")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    expected = dit_from_torch(model.state_dict())
    for form in ("plain", "shards", "pickled", "pipeline"):
        record = import_checkpoint(tmp_path / form, tmp_path / f"{form}_imported")
        params = restore_params(tmp_path / f"{form}_imported")
        jax.tree.map(np.testing.assert_array_equal, params, expected)
        assert record["generator"]["num_heads"] == HEADS
        assert record["generator"]["timestep_frequency_shift"] == 1
        assert record["generator"]["mlp_norm_epsilon"] == 0.3
        assert record["image"] == {"size": 8, "channels": CHANNELS}
        assert all(
            name.startswith("diffusion_pytorch_model") for name in record["imported"]["sha256"]
        )
    assert len(record["imported"]["sha256"]) == 1


@pytest.mark.parametrize("learn_sigma", [False, True])
def test_an_exported_network_gives_the_same_output_in_diffusers(tmp_path, learn_sigma, capsys):
    diffusers = import_diffusers()
    diffusers_model(learn_sigma=learn_sigma, epsilon=0.3).save_pretrained(tmp_path / "theirs")
    run_command(tmp_path / "theirs", tmp_path / "ours")
    run_command("--to-diffusers", tmp_path / "ours", tmp_path / "back", "--pad-classes", 1000)
    assert "note:" not in capsys.readouterr().out
    model = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "back").eval()
    with safe_open(
        tmp_path / "back" / "diffusion_pytorch_model.safetensors", framework="numpy"
    ) as file:
        assert file.metadata() == {"format": "pt"}  # Some readers refuse a file without it.
    assert model.config.num_embeds_ada_norm == 1000
    inputs = make_inputs(8, 8)
    got = diffusers_forward(model, *inputs)
    settings = {"timestep_frequency_shift": 1, "mlp_norm_epsilon": 0.3}
    expected = apply(restore_params(tmp_path / "ours"), *inputs, **settings)
    assert relative_error(got, expected) < 1e-5
    theirs = diffusers_forward(diffusers_model(learn_sigma=learn_sigma, epsilon=0.3), *inputs)
    np.testing.assert_allclose(got, theirs, rtol=1e-6, atol=1e-6)
    # Row 1000, which DiTPipeline takes for no class, is the null class.
    null = inputs[2].copy()
    null[2] = 1000
    np.testing.assert_array_equal(diffusers_forward(model, *inputs[:2], null), got)


def test_a_stage_checkpoint_is_exported_with_notes_on_what_differs(tmp_path, program):
    diffusers = import_diffusers()
    config = program.config(generator={"num_heads": HEADS})
    params = dit_from_torch(original_state_dict(learn_sigma=False))
    with CheckpointStore(tmp_path / "adapt" / "model") as store:
        state = {"params": params, "ema_params": jax.tree.map(lambda value: value + 1, params)}
        store.save(1, state, config=plain(config), iterator_state=None)
    notes = export_diffusers(tmp_path / "adapt", tmp_path / "exported")
    assert len(notes) == 2
    assert "timestep features" in notes[0] and f"row {CLASSES}" in notes[1]
    model = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "exported")
    assert model.config.sample_size == config.image.size == 16
    assert model.config.num_attention_heads == config.generator.num_heads
    assert model.config.in_channels == model.config.out_channels == CHANNELS
    np.testing.assert_array_equal(  # The average, which is what a stage hands on.
        model.proj_out_2.bias.detach(), params["final_linear"]["bias"] + 1
    )


def test_pickles_are_refused_and_nothing_in_them_runs(tmp_path):
    torch = pytest.importorskip("torch")
    trap = tmp_path / "sprung"
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(trap)))
    (tmp_path / "two.pt").write_bytes(pickle.dumps({"a": Trap(trap)}, protocol=2))
    save_torch(tmp_path / "wrapped.pt", {"model": {"a": Trap(trap)}})
    save_torch(tmp_path / "whole.pt", torch.nn.Linear(2, 2))
    reasons = {
        "plain": "could run any code",
        "two": "holds posix.mkdir; .* can run any code",
        "wrapped": "holds posix.mkdir",
        "whole": r"holds torch.nn.modules.linear.Linear; .* Save the state_dict\(\) alone",
    }
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=reason) as error:
            read_weights(tmp_path / f"{name}.pt")
        assert "weights_only" not in str(error.value)  # Nobody is advised to read it unchecked.
    assert not trap.exists()
    for ending in (".pkl", ".pickle", ".npz", ".ckpt", ""):
        path = tmp_path / f"file{ending}"
        path.write_bytes(pickle.dumps(Trap(trap)))
        assert "of no kind that is read here" in refusal(path, tmp_path / "out")
    assert not trap.exists() and not (tmp_path / "out").exists()


def test_damaged_and_mistaken_files_are_refused_with_the_reason(tmp_path):
    whole = tmp_path / "whole.safetensors"
    save_file(original_state_dict(), whole)
    content = whole.read_bytes()
    for name, damaged in {"cut": content[:-7], "head": content[:30], "empty": b""}.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(damaged)
        assert "is truncated or no safetensors file: " in refusal(path, tmp_path / "out")
    assert "is not there" in refusal(tmp_path / "absent.pt", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "config.json is not there" in refusal(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_torch_files_are_refused_with_the_reason(tmp_path):
    path = save_torch(tmp_path / "whole.pt", torch_tensors(original_state_dict()))
    content = path.read_bytes()
    for name, damaged in {"cut": content[:-40], "half": content[: len(content) // 2]}.items():
        (tmp_path / f"{name}.pt").write_bytes(damaged)
        message = refusal(tmp_path / f"{name}.pt", tmp_path / "out")
        assert f"{name}.pt is refused: it is truncated" in message
    (tmp_path / "empty.pt").write_bytes(b"")
    assert "empty.pt is refused: " in refusal(tmp_path / "empty.pt", tmp_path / "out")
    assert "holds a list" in refusal(save_torch(tmp_path / "list.pt", [1, 2]), tmp_path / "out")
    path = save_torch(tmp_path / "numbers.pt", {"a": 1, "b": 2.0})
    assert "no tensor is in a, b" in refusal(path, tmp_path / "out")


def test_a_folder_that_diffusers_did_not_write_whole_is_refused(tmp_path):
    params = dit_from_torch(original_state_dict())
    good = {"_class_name": "DiTTransformer2DModel", "num_attention_heads": HEADS}

    def folder(name, config, file="diffusion_pytorch_model.safetensors"):
        (tmp_path / name).mkdir()
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / name / "config.json").write_text(text)
        if file:
            save_file(dit_to_diffusers(params), tmp_path / name / file)
        return refusal(tmp_path / name, tmp_path / "out")

    assert "is damaged" in folder("cut", '{"_class')
    assert "not the config of a diffusers model" in folder("other", {"model_type": "vit"})
    assert "holds no diffusion_pytorch_model.safetensors" in folder("bare", good, file=None)
    other = {**good, "_class_name": "UNet2DModel"}
    assert "'UNet2DModel', not 'DiTTransformer2DModel'" in folder("unet", other)
    assert "norm_type 'ada_norm_single'" in folder(
        "pixart", {**good, "norm_type": "ada_norm_single"}
    )
    assert "not divisible by 3 heads" in folder("heads", {**good, "num_attention_heads": 3})
    assert "num_attention_heads '2'" in folder("text", {**good, "num_attention_heads": "2"})
    assert "sample_size [8, 8]" in folder("sides", {**good, "sample_size": [8, 8]})
    assert "norm_eps 0; it must be above 0" in folder("epsilon", {**good, "norm_eps": 0})
    index = tmp_path / "bare" / "diffusion_pytorch_model.safetensors.index.json"
    for content, message in {
        "{}": "has no weight_map",
        '{"weight_map": {"a": "part-1.safetensors"}}': "names part-1.safetensors, which is not",
        '{"weight_map": {"a": "../../secret.safetensors"}}': "outside of its folder",
    }.items():
        index.write_text(content)
        assert message in refusal(tmp_path / "bare", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_torch_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "DiT.pt").write_bytes(b"PK")
    assert "pip install -e '.[torch]'" in refusal(tmp_path / "DiT.pt", tmp_path / "out")
    save_file(original_state_dict(), tmp_path / "w.safetensors")
    run_command(tmp_path / "w.safetensors", tmp_path / "out", "--num-heads", HEADS)
    run_command("--to-diffusers", tmp_path / "out", tmp_path / "exported", "--sample-size", 8)
    assert {path.name for path in (tmp_path / "exported").iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }


def test_settings_that_are_missing_or_wrong_are_asked_for(tmp_path):
    source = tmp_path / "w.safetensors"
    save_file(original_state_dict(), source)
    assert "of no published size; give --num-heads" in refusal(source, tmp_path / "out")
    for heads in (3, -2):
        message = refusal(source, tmp_path / "out", "--num-heads", heads)
        assert f"not divisible by {heads} heads" in message
    run_command(source, tmp_path / "out", "--num-heads", HEADS)
    export = ("--to-diffusers", tmp_path / "out", tmp_path / "exported")
    assert "sample_size is 0; give one that is divisible by 2" in refusal(*export)
    for size in (7, -8):
        assert f"sample_size is {size}" in refusal(*export, "--sample-size", size)
    assert "num_heads is 5" in refusal(*export, "--sample-size", 8, "--num-heads", 5)
    assert "holds no checkpoint" in refusal("--to-diffusers", tmp_path, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_what_lies_in_the_destination_is_not_touched(tmp_path):
    source = tmp_path / "w.safetensors"
    save_file(original_state_dict(), source)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for arguments in ((source,), ("--to-diffusers", tmp_path)):
        message = refusal(*arguments, tmp_path / "full")
        assert "full is there already and not an empty folder" in message
        assert "is there already" in refusal(*arguments, source)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    run_command(source, tmp_path / "empty", "--num-heads", HEADS)
    assert restore_params(tmp_path / "empty")


def test_a_disk_without_room_is_told_and_nothing_half_written_stays(tmp_path, mounted):
    save_file(original_state_dict(), tmp_path / "w.safetensors")
    run_command(tmp_path / "w.safetensors", tmp_path / "out", "--num-heads", HEADS)
    export = ("--to-diffusers", "--sample-size", 8, tmp_path / "out")
    with mounted(tmp_path / "disk", "size=128k") as disk:
        assert "the disk is full" in refusal(*export, "--pad-classes", 4000, disk / "exported")
        source = tmp_path / "w.safetensors"
        assert "the disk is full" in refusal(source, disk / "in", "--num-heads", HEADS)
        assert list(disk.iterdir()) == []


def test_published_sizes_know_their_heads(tmp_path, monkeypatch):
    monkeypatch.setattr(
        import_weights, "DIT_SIZES", {"tiny": {"width": WIDTH, "depth": DEPTH, "num_heads": 4}}
    )
    save_file(original_state_dict(), tmp_path / "w.safetensors")
    record = import_checkpoint(tmp_path / "w.safetensors", tmp_path / "out")
    assert record["generator"]["num_heads"] == 4


@pytest.mark.slow
def test_a_run_starts_from_imported_weights(tmp_path, program):
    config = program.config()
    generator, image = config.generator, config.image
    params = jax.tree.map(np.asarray, init_params(config, 6, seed=3))
    (tmp_path / "theirs").mkdir()
    save_file(dit_to_diffusers(params), tmp_path / "theirs" / "diffusion_pytorch_model.safetensors")
    settings = {"_class_name": "DiTTransformer2DModel", "sample_size": image.size}
    settings["num_attention_heads"] = generator.num_heads
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(settings))
    command = ("-m", "rlsyn_jax.models.import_weights", tmp_path / "theirs", tmp_path / "prior")
    process = program.python(*map(str, command))
    log = program.log_of(process)
    assert process.returncode == 0, log
    # Frequencies of timesteps and a normalisation are diffusers' own, which a run must be told.
    fields = {"pretrain.source": str(tmp_path / "prior")}
    process = program.start(tmp_path / "run", "--stages=pretrain", fields=fields)
    assert "timestep_frequency_shift is 0, but" in program.log_of(process)
    assert process.returncode == 1
    fields["generator.timestep_frequency_shift"] = 1
    fields["generator.mlp_norm_epsilon"] = 1e-5
    program.run(tmp_path / "run", "--stages=pretrain", fields=fields)
    jax.tree.map(
        np.testing.assert_array_equal, restore_params(tmp_path / "run" / "pretrain"), params
    )
    fields["generator.width"] = 64
    process = program.start(tmp_path / "other", "--stages=pretrain", fields=fields)
    assert "set config.generator" in program.log_of(process) and process.returncode == 1
