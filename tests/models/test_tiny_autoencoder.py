"""The tiny autoencoder against diffusers' own, and published weights on real faces."""

import functools
import os
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rlsyn_jax.models.tiled_decoding import decode_tiled
from rlsyn_jax.models.tiny_autoencoder import (
    TAEF2,
    TinyAutoencoder,
    tiny_autoencoder_from_torch,
)
from rlsyn_jax.models.torch_conversion import torch_name, torch_shape

CONFIGS = {
    "taesd": TinyAutoencoder(width=8),
    "small": TinyAutoencoder(
        latent_channels=5,
        width=4,
        encoder_blocks=(2, 1),
        decoder_blocks=(1, 3),
        image_channels=1,
    ),
    "normalised": TinyAutoencoder(
        width=8, encoder_blocks=(1, 2), decoder_blocks=(2, 1), norm_num_groups=4
    ),
}


def parameter_shapes(model):
    images = jnp.zeros((1, model.factor, model.factor, model.image_channels))
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


@functools.cache
def random_state_dict(name):
    """Tensors under diffusers' names, none of them zero or one."""
    random = np.random.default_rng(1)
    flat = flax.traverse_util.flatten_dict(parameter_shapes(CONFIGS[name]), sep="/")
    return {
        torch_name(path): np.float32(
            random.normal(size=torch_shape(path, leaf.shape))
            * (1 / np.sqrt(leaf.size / leaf.shape[-1]) if path.endswith("/kernel") else 0.3)
            + path.endswith("/scale")
        )
        for path, leaf in flat.items()
    }


@functools.cache
def converted(name):
    return tiny_autoencoder_from_torch(random_state_dict(name), CONFIGS[name])


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(model, params, x, method):
    return model.apply({"params": params}, x, method=method)


def make_images(model, height=16, width=24):
    random = np.random.default_rng(2)
    return np.float32(random.uniform(-1, 1, size=(2, height, width, model.image_channels)))


def make_latents(model, height=5, width=4):
    random = np.random.default_rng(3)
    # Some are beyond the bound of 3.
    return np.float32(2.5 * random.normal(size=(2, height, width, model.latent_channels)))


@functools.cache
def reference(name):
    """diffusers' autoencoder with the same tensors; it has none of the normalised kind."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    model = CONFIGS[name]
    widths = (model.width,) * len(model.encoder_blocks)
    published = diffusers.AutoencoderTiny(
        in_channels=model.image_channels,
        out_channels=model.image_channels,
        latent_channels=model.latent_channels,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=model.encoder_blocks,
        num_decoder_blocks=model.decoder_blocks,
    ).eval()
    tensors = {key: torch.from_numpy(value) for key, value in random_state_dict(name).items()}
    published.load_state_dict(tensors, strict=True)
    return published


def channels_first(array):
    torch = pytest.importorskip("torch")
    return torch.from_numpy(np.array(array).transpose(0, 3, 1, 2).copy())


def channels_last(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("name", ["taesd", "small"])
def test_encoding_equals_diffusers(name):
    model = CONFIGS[name]
    images = make_images(model)
    latents = run(model, converted(name), images, "encode")
    assert latents.shape == (2, 16 // model.factor, 24 // model.factor, model.latent_channels)
    expected = channels_last(reference(name).encode(channels_first(images)).latents)
    assert expected.std() > 0.1
    np.testing.assert_allclose(latents, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["taesd", "small"])
def test_decoding_equals_diffusers(name):
    model = CONFIGS[name]
    latents = make_latents(model)
    images = run(model, converted(name), latents, "decode")
    assert images.shape == (2, 5 * model.factor, 4 * model.factor, model.image_channels)
    expected = channels_last(reference(name).decode(channels_first(latents)).sample)
    assert expected.std() > 0.1
    np.testing.assert_allclose(images, expected, atol=1e-4)


def test_the_defaults_are_those_of_diffusers():
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        published = diffusers.AutoencoderTiny()
    flat = flax.traverse_util.flatten_dict(parameter_shapes(TinyAutoencoder()), sep="/")
    assert {torch_name(path): torch_shape(path, leaf.shape) for path, leaf in flat.items()} == {
        name: tuple(tensor.shape) for name, tensor in published.state_dict().items()
    }


def original_names(state_dict):
    """The names of the original code, whose decoder begins with a layer that has no tensors."""
    renamed = {}
    for name, value in state_dict.items():
        half, _, number, *rest = name.split(".")
        number = int(number) + (half == "decoder")
        renamed[".".join([half, str(number), *rest])] = value
    return renamed


@pytest.mark.parametrize("name", ["taesd", "normalised"])
def test_the_original_names_give_the_same_parameters(name):
    renamed = original_names(random_state_dict(name))
    assert not set(renamed) & set(random_state_dict(name))
    params = tiny_autoencoder_from_torch(renamed, CONFIGS[name])
    jax.tree.map(np.testing.assert_array_equal, params, converted(name))


def published_forward(half, state_dict, x):
    """Runs a half of the original code in PyTorch, layer by layer as its tensors are numbered.

    Args:
        half: "encoder", images [b, c, h, w] in [0, 1] to latents; or "decoder", the other way.
        state_dict: the half's tensors; a number without tensors is a layer without parameters.
        x: PyTorch tensor.
    """
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    layers = sorted({int(name.split(".")[0]) for name in state_dict})
    numbers = range(layers[-1] + 1)

    def conv(name, x, stride=1):
        weight = state_dict[f"{name}.weight"]
        bias = state_dict.get(f"{name}.bias")
        return functional.conv2d(x, weight, bias, stride=stride, padding=weight.shape[-1] // 2)

    for number in numbers:
        if f"{number}.conv.0.weight" in state_dict:
            if f"{number}.pool.0.weight" in state_dict:
                y = conv(f"{number}.pool.0", x)
                weight, bias = (
                    state_dict[f"{number}.pool.1.{leaf}"] for leaf in ("weight", "bias")
                )
                y = functional.group_norm(y, 4, weight, bias)
                x = x + conv(f"{number}.pool.3", torch.relu(y))
            y = torch.relu(conv(f"{number}.conv.0", x))
            y = torch.relu(conv(f"{number}.conv.2", y))
            x = torch.relu(x + conv(f"{number}.conv.4", y))
        elif number in layers:
            # Of the encoder, the layers between resolutions are those without bias.
            coarser = half == "encoder" and f"{number}.bias" not in state_dict
            x = conv(str(number), x, stride=2 if coarser else 1)
        elif number == 0:
            x = torch.tanh(x / 3) * 3
        elif number == 2:
            x = torch.relu(x)
        else:
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
    return x


def halves_of(state_dict):
    """Splits a state dict of the original names into float32 tensors of encoder and decoder."""
    torch = pytest.importorskip("torch")
    return {
        half: {
            name.removeprefix(f"{half}."): torch.as_tensor(value).float()
            for name, value in state_dict.items()
            if name.startswith(half)
        }
        for half in ("encoder", "decoder")
    }


def check_against_published_forward(model, params, state_dict, images, latents):
    halves = halves_of(state_dict)
    expected = channels_last(
        published_forward("encoder", halves["encoder"], channels_first((images + 1) / 2))
    )
    assert expected.std() > 0.1
    np.testing.assert_allclose(run(model, params, images, "encode"), expected, atol=1e-4)
    expected = channels_last(
        published_forward("decoder", halves["decoder"], channels_first(latents))
    )
    expected = 2 * expected - 1
    assert expected.std() > 0.1
    np.testing.assert_allclose(run(model, params, latents, "decode"), expected, atol=1e-4)


def test_the_normalised_branch_equals_the_published_network():
    model, params = CONFIGS["normalised"], converted("normalised")
    state_dict = original_names(random_state_dict("normalised"))
    images, latents = make_images(model), make_latents(model)
    check_against_published_forward(model, params, state_dict, images, latents)


def data_folder():
    """Returns the folder of real data, or skips the test."""
    root = os.environ.get("RLSYN_DATA") or Path(__file__).parents[3] / "shared" / "data"
    if not (Path(root) / "taef2").is_dir():
        pytest.skip(f"{root} holds no taef2/; RLSYN_DATA may name the folder that does")
    return Path(root)


@functools.cache
def taef2_state_dict():
    torch = pytest.importorskip("torch")
    folder = data_folder() / "taef2"
    return {
        f"{half}.{name}": tensor
        for half in ("encoder", "decoder")
        for name, tensor in torch.load(folder / f"taef2_{half}.pth", weights_only=True).items()
    }


@functools.cache
def taef2_params():
    return tiny_autoencoder_from_torch(taef2_state_dict(), TAEF2())


@functools.cache
def faces():
    files = sorted((data_folder() / "lfw_target").glob("*/*_0001.jpg"))[:2]
    return np.stack(
        [np.float32(Image.open(file).convert("L").convert("RGB")) / 127.5 - 1 for file in files]
    )


def test_published_weights_equal_the_published_network_on_real_faces():
    latents = run(TAEF2(), taef2_params(), faces(), "encode")
    check_against_published_forward(
        TAEF2(), taef2_params(), taef2_state_dict(), faces(), 1.5 * np.asarray(latents)
    )


def test_real_faces_come_back_through_published_weights():
    latents = run(TAEF2(), taef2_params(), faces(), "encode")
    assert latents.shape == (2, 12, 12, 32)
    assert 0.7 < latents.std() < 1.2 and abs(latents.mean()) < 0.2
    images = np.clip(run(TAEF2(), taef2_params(), latents, "decode"), -1, 1)
    errors = ((images - faces()) ** 2).mean(axis=(1, 2, 3))
    assert (10 * np.log10(4 / errors) > 30).all()


def test_tiles_of_a_real_face_show_no_seams():
    params = taef2_params()
    latents = run(TAEF2(), params, faces(), "encode")

    def decode(latents):
        return TAEF2().apply({"params": params}, latents, method="decode")

    whole = np.asarray(run(TAEF2(), params, latents, "decode"))
    tiled = np.asarray(jax.jit(lambda z: decode_tiled(decode, z, tile_size=8, overlap=4))(latents))
    assert tiled.shape == whole.shape == (2, 96, 96, 3)
    # Neighbouring pixels differ no more at the tiles' borders than the whole image's do.
    for axis in (1, 2):
        steps, expected = (np.abs(np.diff(i, axis=axis)) for i in (tiled, whole))
        steps, expected = (
            np.moveaxis(s, axis, 0).reshape(95, -1).mean(1) for s in (steps, expected)
        )
        assert (steps < 1.3 * expected + 0.01).all()
    assert 10 * np.log10(4 / ((tiled - whole) ** 2).mean()) > 25


def test_tensors_that_do_not_fit_are_all_listed():
    state = dict(random_state_dict("normalised"))
    pool = state.pop("encoder.layers.3.pool.0.weight")
    state["decoder.layers.0.bias"] = np.zeros(3)
    state["encoder.layers.1.pool.0.weight"] = pool
    with pytest.raises(ValueError) as error:
        tiny_autoencoder_from_torch(state, CONFIGS["normalised"])
    assert sorted(str(error.value).splitlines()[1:]) == [
        "  missing: encoder.layers.3.pool.0.weight",
        "  shape: decoder.layers.0.bias is (3), must be (8)",
        "  unknown: encoder.layers.1.pool.0.weight",
    ]


@pytest.mark.parametrize(
    ("shape", "method", "message"),
    [
        ((1, 12, 16, 3), "encode", "12 x 16 do not divide by the autoencoder's factor 8"),
        ((1, 16, 16, 1), "encode", r"images must be \[b, h, w, 3\], got \[1, 16, 16, 1\]"),
        ((16, 16, 3), "encode", r"got \[16, 16, 3\]"),
        ((1, 4, 4, 32), "decode", r"latents must be \[b, h, w, 4\], got \[1, 4, 4, 32\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_their_numbers(shape, method, message):
    with pytest.raises(ValueError, match=message):
        run(CONFIGS["taesd"], converted("taesd"), jnp.zeros(shape), method)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder_blocks": ()}, r"got \(\) and \(3, 3, 3, 1\)"),
        ({"encoder_blocks": (1, 1)}, r"got \(1, 1\) and \(3, 3, 3, 1\)"),
        ({"norm_num_groups": 3}, "four times the width 64, got 3"),
        ({"norm_num_groups": -4}, "four times the width 64, got -4"),
        ({"latent_channels": 0}, "latent_channels must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
    ],
)
def test_fields_that_cannot_be_built_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TinyAutoencoder(**fields)


def test_bfloat16_keeps_float32_parameters_and_results_and_comes_near_float32():
    model = CONFIGS["normalised"].clone(dtype=jnp.bfloat16)
    leaves = jax.tree.leaves(parameter_shapes(model))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    images = make_images(model)
    got = run(model, converted("normalised"), images, "encode")
    exact = np.asarray(run(CONFIGS["normalised"], converted("normalised"), images, "encode"))
    assert got.dtype == jnp.float32
    error = np.abs(got - exact)
    assert 0 < error.max() and error.mean() < 0.05 * exact.std()
