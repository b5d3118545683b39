"""IResNet against a reading of InsightFace's published architecture in plain PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from rlsyn_jax.models.import_recognizers import iresnet_from_torch, recognizer_from_torch
from rlsyn_jax.models.import_weights import main
from rlsyn_jax.models.iresnet import IResNet, IResNet18, IResNet50, IResNet100
from rlsyn_jax.training.checkpoints import restore_config, restore_params

SMALL = IResNet(stage_sizes=(1, 2, 1, 1), width=4, embedding_dim=6)


def relative_error(got, expected):
    return np.max(np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1))


def state_dict(model=SMALL, seed=0):
    """Weights under InsightFace's names; statistics are those of no batch."""
    random = np.random.default_rng(seed)
    tensors = {}

    def convolution(name, outputs, inputs, side):
        spread = np.sqrt(1.5 / (inputs * side * side))
        tensors[f"{name}.weight"] = spread * random.normal(size=(outputs, inputs, side, side))

    def normalisation(name, channels):
        tensors[f"{name}.weight"] = random.uniform(0.5, 1.2, channels)
        tensors[f"{name}.bias"] = 0.3 * random.normal(size=channels)
        tensors[f"{name}.running_mean"] = 0.3 * random.normal(size=channels)
        tensors[f"{name}.running_var"] = random.uniform(0.5, 2.0, channels)
        tensors[f"{name}.num_batches_tracked"] = np.array(7)

    inputs = model.width
    convolution("conv1", inputs, 3, 3)
    normalisation("bn1", inputs)
    tensors["prelu.weight"] = random.uniform(0.1, 0.5, inputs)
    for stage, blocks in enumerate(model.stage_sizes):
        outputs = model.width * 2**stage
        for index in range(blocks):
            block = f"layer{stage + 1}.{index}"
            normalisation(f"{block}.bn1", inputs)
            convolution(f"{block}.conv1", outputs, inputs, 3)
            normalisation(f"{block}.bn2", outputs)
            tensors[f"{block}.prelu.weight"] = random.uniform(0.1, 0.5, outputs)
            convolution(f"{block}.conv2", outputs, outputs, 3)
            normalisation(f"{block}.bn3", outputs)
            if index == 0:
                convolution(f"{block}.downsample.0", outputs, inputs, 1)
                normalisation(f"{block}.downsample.1", outputs)
            inputs = outputs
    normalisation("bn2", inputs)
    places = 49 * inputs
    tensors["fc.weight"] = random.normal(size=(model.embedding_dim, places)) / np.sqrt(places)
    tensors["fc.bias"] = 0.3 * random.normal(size=model.embedding_dim)
    normalisation("features", model.embedding_dim)
    tensors["features.weight"] = np.ones(model.embedding_dim)
    return {
        name: value if name.endswith("tracked") else np.float32(value)
        for name, value in tensors.items()
    }


def plain_forward(tensors, images, stage_sizes):
    """The published network in plain PyTorch: before and after its last normalisation."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    t = {name: torch.tensor(value) for name, value in tensors.items()}

    def convolve(name, x, stride=1):
        weight = t[f"{name}.weight"]
        return functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def normalise(name, x):
        parts = [t[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *parts, eps=1e-5)

    def rectify(name, x):
        return functional.prelu(x, t[f"{name}.weight"])

    with torch.no_grad():
        x = rectify("prelu", normalise("bn1", convolve("conv1", torch.tensor(images))))
        for stage, blocks in enumerate(stage_sizes, 1):
            for index in range(blocks):
                block, stride = f"layer{stage}.{index}", 2 if index == 0 else 1
                y = convolve(f"{block}.conv1", normalise(f"{block}.bn1", x))
                y = rectify(f"{block}.prelu", normalise(f"{block}.bn2", y))
                y = normalise(f"{block}.bn3", convolve(f"{block}.conv2", y, stride))
                if index == 0:
                    x = convolve(f"{block}.downsample.0", x, stride)
                    x = normalise(f"{block}.downsample.1", x)
                x = x + y
        x = normalise("bn2", x).flatten(1)
        x = functional.linear(x, t["fc.weight"], t["fc.bias"])
        return x.numpy(), normalise("features", x).numpy()


def embed(model, variables, images):
    run = jax.jit(functools.partial(model.apply, train=False))
    return run(variables, np.moveaxis(images, 1, -1))


def random_images():
    random = np.random.default_rng(1)
    return random.uniform(-1, 1, size=(2, 3, 112, 112)).astype(np.float32)


def check_parity(model):
    tensors, images = state_dict(model), random_images()
    found, variables = recognizer_from_torch(tensors)
    assert found == model
    features, neck = embed(model, variables, images)
    expected = plain_forward(tensors, images, model.stage_sizes)
    assert np.abs(expected[0][0] - expected[0][1]).max() > 0.05
    assert features.shape == (2, model.embedding_dim)
    assert relative_error(features, expected[0]) < 1e-4
    assert relative_error(neck, expected[1]) < 1e-4


def test_small_network_gives_the_numbers_of_plain_torch():
    check_parity(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("network", [IResNet18, IResNet50, IResNet100])
def test_published_sizes_give_the_numbers_of_plain_torch(network):
    check_parity(network())


@pytest.mark.parametrize(
    ("network", "millions"),
    [
        (IResNet18, 24.0),
        (IResNet50, 43.6),
        pytest.param(IResNet100, 65.2, marks=pytest.mark.slow),
    ],
)
def test_published_sizes_have_the_published_number_of_parameters(network, millions):
    images = jnp.zeros((1, 112, 112, 3))
    shapes = jax.eval_shape(lambda: network().init(jax.random.key(0), images, train=False))
    parameters = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))
    assert round(parameters / 1e6, 1) == millions


def test_variables_are_exactly_those_of_the_module():
    variables = iresnet_from_torch(state_dict())
    images = jnp.zeros((1, 112, 112, 3))
    expected = jax.eval_shape(lambda: SMALL.init(jax.random.key(0), images, train=False))
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, expected)


def test_the_command_keeps_settings_and_variables(tmp_path):
    tensors, source = state_dict(), tmp_path / "iresnet.safetensors"
    save_file(tensors, source)
    main([str(source), str(tmp_path / "iresnet")])
    record = restore_config(tmp_path / "iresnet")
    assert record["network"] == "IResNet"
    assert record["image"] == {"size": [112, 112], "channels": 3}
    found = IResNet(**record["backbone"])
    assert found.clone(stage_sizes=tuple(found.stage_sizes)) == SMALL
    expected = iresnet_from_torch(tensors)
    for collection in ("params", "batch_stats"):
        got = restore_params(tmp_path / "iresnet", collection=collection)
        jax.tree.map(np.testing.assert_array_equal, got, expected[collection])


def test_everything_that_is_wrong_is_listed_at_once():
    tensors = state_dict()
    del tensors["layer2.1.bn3.running_var"], tensors["prelu.weight"]
    tensors["features.weight"][2] = 1.5
    tensors["fc.weight"] = np.zeros((6, 32 * 4 * 4), np.float32)
    tensors["layer3.0.se.fc1.weight"] = np.zeros(1, np.float32)
    with pytest.raises(ValueError) as error:
        iresnet_from_torch(tensors)
    headline, *lines = str(error.value).splitlines()
    assert headline == "these are not the weights of an IResNet for faces of 112 x 112 (5 faults):"
    assert sorted(line.strip() for line in lines) == [
        "missing: layer2.1.bn3.running_var",
        "missing: prelu.weight",
        "shape: fc.weight is (6, 512), must be (6, 1568)",
        "unknown: layer3.0.se.fc1.weight",
        "value: features.weight is not 1 throughout",
    ]
    del tensors["features.weight"]
    with pytest.raises(ValueError, match="missing: features.weight"):
        iresnet_from_torch(tensors)


def test_training_drops_by_key_and_updates_statistics():
    model = SMALL.clone(stage_sizes=(1,), dropout_rate=0.5, dtype=jnp.bfloat16)
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    init = jax.jit(functools.partial(model.init, train=False))
    variables = init(jax.random.key(1), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    run = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    run = jax.jit(run)
    (features, neck), updated = run(variables, images, rngs={"dropout": jax.random.key(2)})
    other, _ = run(variables, images, rngs={"dropout": jax.random.key(3)})[0]
    assert features.dtype == neck.dtype == jnp.float32
    np.testing.assert_allclose(neck.mean(axis=0), 0, atol=1e-5)
    assert np.abs(features - other).max() > 0.01
    changed = jax.tree.map(
        lambda a, b: bool((a != b).any()), updated["batch_stats"], variables["batch_stats"]
    )
    assert all(jax.tree.leaves(changed))
