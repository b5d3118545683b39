"""OSNet against torchreid, against a reading of it in plain PyTorch, and the paper's sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from rlsyn_jax.models.import_recognizers import osnet_from_torch, recognizer_from_torch
from rlsyn_jax.models.import_weights import main
from rlsyn_jax.models.osnet import OSNet, OSNetX025
from rlsyn_jax.training.checkpoints import restore_config, restore_params

SMALL = OSNet(width_multiplier=0.25, embedding_dim=12)


def relative_error(got, expected):
    return np.max(np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1))


def state_dict(model=SMALL, classes=5):
    """Weights under torchreid's names; statistics are those of no batch."""
    random = np.random.default_rng(0)
    tensors = {}
    stem, *stages = (int(model.width_multiplier * channels) for channels in (64, 256, 384, 512))

    def convolution(name, outputs, inputs, side, bias=False):
        spread = np.sqrt(2 / (inputs * side * side))
        tensors[f"{name}.weight"] = spread * random.normal(size=(outputs, inputs, side, side))
        if bias:
            tensors[f"{name}.bias"] = random.normal(size=outputs)

    def normalisation(name, channels):
        tensors[f"{name}.weight"] = random.uniform(0.5, 1.2, channels)
        tensors[f"{name}.bias"] = 0.3 * random.normal(size=channels)
        tensors[f"{name}.running_mean"] = 0.3 * random.normal(size=channels)
        tensors[f"{name}.running_var"] = random.uniform(0.5, 2.0, channels)
        tensors[f"{name}.num_batches_tracked"] = np.array(7)

    def layer(name, outputs, inputs, side=1):
        convolution(f"{name}.conv", outputs, inputs, side)
        normalisation(f"{name}.bn", outputs)

    layer("conv1", stem, 3, 7)
    inputs = stem
    for stage, outputs in enumerate(stages, 2):
        for index in range(2):
            block, middle = f"conv{stage}.{index}", outputs // 4
            layer(f"{block}.conv1", middle, inputs)
            for depth, letter in enumerate("abcd", 1):
                for number in range(depth):
                    light = f"{block}.conv2{letter}" + (f".{number}" if depth > 1 else "")
                    convolution(f"{light}.conv1", middle, middle, 1)
                    convolution(f"{light}.conv2", middle, 1, 3)
                    normalisation(f"{light}.bn", middle)
            convolution(f"{block}.gate.fc1", middle // 16, middle, 1, bias=True)
            convolution(f"{block}.gate.fc2", middle, middle // 16, 1, bias=True)
            layer(f"{block}.conv3", outputs, middle)
            if inputs != outputs:
                layer(f"{block}.downsample", outputs, inputs)
            inputs = outputs
        if stage < 4:
            layer(f"conv{stage}.2.0", outputs, outputs)
    layer("conv5", inputs, inputs)
    dim = model.embedding_dim
    tensors["fc.0.weight"] = random.normal(size=(dim, inputs)) / np.sqrt(inputs)
    tensors["fc.0.bias"] = random.normal(size=dim)
    normalisation("fc.1", dim)
    tensors["classifier.weight"] = np.zeros((classes, dim))
    tensors["classifier.bias"] = np.zeros(classes)
    return {
        name: value if name.endswith("tracked") else np.float32(value)
        for name, value in tensors.items()
    }


def plain_forward(tensors, images):
    """The published network's descriptor in plain PyTorch."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    t = {name: torch.tensor(value) for name, value in tensors.items()}

    def normalise(name, x):
        parts = [t[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *parts, eps=1e-5)

    def layer(name, x, stride=1):
        weight = t[f"{name}.conv.weight"]
        x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        return normalise(f"{name}.bn", x)

    def light(name, x):
        x = functional.conv2d(x, t[f"{name}.conv1.weight"])
        weight = t[f"{name}.conv2.weight"]
        x = functional.conv2d(x, weight, padding=1, groups=len(weight))
        return normalise(f"{name}.bn", x).relu()

    def gate(name, x):
        g = x.mean((2, 3), keepdim=True)
        g = functional.conv2d(g, t[f"{name}.fc1.weight"], t[f"{name}.fc1.bias"]).relu()
        g = functional.conv2d(g, t[f"{name}.fc2.weight"], t[f"{name}.fc2.bias"])
        return x * g.sigmoid()

    with torch.no_grad():
        x = layer("conv1", torch.tensor(images), 2).relu()
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for stage in (2, 3, 4):
            for index in range(2):
                block = f"conv{stage}.{index}"
                y = layer(f"{block}.conv1", x).relu()
                total = gate(f"{block}.gate", light(f"{block}.conv2a", y))
                for depth, letter in ((2, "b"), (3, "c"), (4, "d")):
                    z = y
                    for number in range(depth):
                        z = light(f"{block}.conv2{letter}.{number}", z)
                    total = total + gate(f"{block}.gate", z)
                y = layer(f"{block}.conv3", total)
                if f"{block}.downsample.conv.weight" in t:
                    x = layer(f"{block}.downsample", x)
                x = (x + y).relu()
            if stage < 4:
                x = functional.avg_pool2d(layer(f"conv{stage}.2.0", x).relu(), 2, stride=2)
        x = layer("conv5", x).relu().mean((2, 3))
        x = functional.linear(x, t["fc.0.weight"], t["fc.0.bias"])
        return normalise("fc.1", x).relu().numpy()


def embed(model, variables, images):
    run = jax.jit(functools.partial(model.apply, train=False))
    return run(variables, np.moveaxis(images, 1, -1))


def random_images(height=64, width=32):
    random = np.random.default_rng(1)
    return random.normal(size=(2, 3, height, width)).astype(np.float32)


def shapes(model):
    images = jnp.zeros((1, 64, 32, 3))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))


def test_the_network_gives_the_numbers_of_plain_torch():
    tensors, images = state_dict(), random_images()
    model, variables = recognizer_from_torch(tensors)
    assert model == SMALL
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, dict(shapes(SMALL)))
    features, neck = embed(SMALL, variables, images)
    expected = plain_forward(tensors, images)
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    assert relative_error(features, expected) < 1e-4
    np.testing.assert_allclose(neck, features, rtol=1e-4)  # The last normalisation is fresh.


@pytest.mark.parametrize("width", [1.0, 0.25])
def test_the_network_gives_the_numbers_of_torchreid(width):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchreid", reason="torchreid is not installed")
    osnet = pytest.importorskip("torchreid.reid.models.osnet")
    make = {1.0: osnet.osnet_x1_0, 0.25: osnet.osnet_x0_25}[width]
    network = make(num_classes=5, pretrained=False).eval()
    model = OSNet(width_multiplier=width)
    arrays = state_dict(model)
    network.load_state_dict({name: torch.tensor(value) for name, value in arrays.items()})
    images = random_images()
    with torch.no_grad():
        expected = network(torch.tensor(images)).numpy()
    features, _ = embed(model, osnet_from_torch(network.state_dict()), images)
    assert relative_error(features, expected) < 1e-4


@pytest.mark.parametrize(
    ("width", "millions"),
    [
        (1.0, 2.2),
        pytest.param(0.75, 1.3, marks=pytest.mark.slow),
        pytest.param(0.5, 0.6, marks=pytest.mark.slow),
        (0.25, 0.2),
    ],
)
def test_published_widths_have_the_published_number_of_parameters(width, millions):
    params = dict(shapes(OSNet(width_multiplier=width))["params"])
    del params["neck"]  # Theirs has none.
    parameters = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert round(parameters / 1e6, 1) == millions


def test_the_command_keeps_settings_and_variables(tmp_path):
    tensors, source = state_dict(), tmp_path / "osnet.safetensors"
    save_file(tensors, source)
    main([str(source), str(tmp_path / "osnet")])
    record = restore_config(tmp_path / "osnet")
    assert record["network"] == "OSNet"
    assert record["image"] == {"size": None, "channels": 3}
    assert OSNet(**record["backbone"]) == SMALL
    expected = osnet_from_torch(tensors)
    for collection in ("params", "batch_stats"):
        got = restore_params(tmp_path / "osnet", collection=collection)
        jax.tree.map(np.testing.assert_array_equal, got, expected[collection])


def test_everything_that_is_wrong_is_listed_at_once():
    tensors = state_dict()
    del tensors["conv3.1.conv2c.1.bn.running_mean"], tensors["conv2.0.gate.fc1.bias"]
    tensors["conv4.0.conv2d.3.conv2.weight"] = np.zeros((32, 2, 3, 3), np.float32)
    tensors["conv2.0.IN.weight"] = np.ones(64, np.float32)
    with pytest.raises(ValueError) as error:
        osnet_from_torch({f"module.{name}": value for name, value in tensors.items()})
    headline, *lines = str(error.value).splitlines()
    assert headline == "these are not the weights of an OSNet (4 faults):"
    assert sorted(line.strip() for line in lines) == [
        "missing: conv2.0.gate.fc1.bias",
        "missing: conv3.1.conv2c.1.bn.running_mean",
        "shape: module.conv4.0.conv2d.3.conv2.weight is (32, 2, 3, 3), must be (32, 1, 3, 3)",
        "unknown: module.conv2.0.IN.weight",
    ]


def test_shapes_dtypes_and_a_width_that_cannot_be_built():
    model = OSNetX025(dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((3, 256, 128, 3), jnp.float32)
    run = functools.partial(model.init_with_output, train=True)
    (features, neck), variables = jax.eval_shape(run, jax.random.key(0), images)
    assert features.shape == neck.shape == (3, 512)
    assert features.dtype == neck.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    with pytest.raises(ValueError, match="width_multiplier must make each .* got 0.3"):
        OSNet(width_multiplier=0.3)
