"""The KL autoencoder against diffusers' own, and its weights under each of their names."""

import functools
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.models.autoencoder_kl import (
    AutoencoderKL,
    autoencoder_kl_from_torch,
    sample_latents,
)
from rlsyn_jax.models.torch_conversion import torch_name, torch_shape

CONFIGS = {
    "attention": {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "plain": {
        "block_out_channels": (4, 4, 8),
        "layers_per_block": 2,
        "norm_num_groups": 2,
        "latent_channels": 6,
        "in_channels": 1,
        "out_channels": 2,
        "mid_block_attention": False,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
}


def make_model(name):
    return AutoencoderKL(**CONFIGS[name])


def parameter_shapes(model):
    images = jnp.zeros((1, model.factor, model.factor, model.in_channels))
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


@functools.cache
def random_state_dict(name):
    """All tensors random: a norm's weight of 1 or a bias of 0 would hide what is done with it."""
    random = np.random.default_rng(1)
    flat = flax.traverse_util.flatten_dict(parameter_shapes(make_model(name)), sep="/")
    return {
        torch_name(path): np.float32(
            random.normal(size=torch_shape(path, leaf.shape))
            * (1 / np.sqrt(leaf.size / leaf.shape[-1]) if path.endswith("/kernel") else 0.4)
            + path.endswith("/scale")
        )
        for path, leaf in flat.items()
    }


def make_images(model, height=16, width=24):
    random = np.random.default_rng(2)
    return np.float32(random.uniform(-1, 1, size=(2, height, width, model.in_channels)))


@functools.cache
def reference(name):
    """diffusers' autoencoder with the same tensors."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    fields = dict(CONFIGS[name])
    blocks = len(fields["block_out_channels"])
    fields["mid_block_add_attention"] = fields.pop("mid_block_attention", True)
    model = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        **fields,
    ).eval()
    tensors = {key: torch.from_numpy(value) for key, value in random_state_dict(name).items()}
    model.load_state_dict(tensors, strict=True)
    return model


def channels_first(array):
    torch = pytest.importorskip("torch")
    return torch.from_numpy(np.array(array).transpose(0, 3, 1, 2).copy())


def channels_last(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(model, params, x, method):
    return model.apply({"params": params}, x, method=method)


@functools.cache
def converted(name):
    return autoencoder_kl_from_torch(random_state_dict(name), make_model(name))


@pytest.mark.parametrize("name", CONFIGS)
def test_encoding_equals_diffusers(name):
    model = make_model(name)
    images = make_images(model)
    mean, log_variance = run(model, converted(name), images, "encode")
    assert mean.shape == log_variance.shape
    assert mean.shape == (2, 16 // model.factor, 24 // model.factor, model.latent_channels)
    expected = reference(name).encode(channels_first(images)).latent_dist
    assert expected.mean.std() > 0.1 and expected.logvar.std() > 0.1
    np.testing.assert_allclose(mean, channels_last(expected.mean), atol=1e-4)
    np.testing.assert_allclose(log_variance, channels_last(expected.logvar), atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_decoding_equals_diffusers(name):
    model = make_model(name)
    random = np.random.default_rng(3)
    height, width = 16 // model.factor, 24 // model.factor
    latents = np.float32(random.normal(size=(2, height, width, model.latent_channels)))
    images = run(model, converted(name), latents, "decode")
    assert images.shape == (2, 16, 24, model.out_channels)
    expected = channels_last(reference(name).decode(channels_first(latents)).sample)
    assert expected.std() > 0.1
    np.testing.assert_allclose(images, expected, atol=1e-4)


def test_calling_the_model_decodes_the_mean():
    model, params = make_model("attention"), converted("attention")
    images = make_images(model)
    mean, _ = run(model, params, images, "encode")
    np.testing.assert_allclose(
        run(model, params, images, None), run(model, params, mean, "decode"), atol=1e-5
    )


def test_the_defaults_are_stable_diffusions_autoencoder():
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        published = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    flat = flax.traverse_util.flatten_dict(parameter_shapes(AutoencoderKL()), sep="/")
    assert {torch_name(path): torch_shape(path, leaf.shape) for path, leaf in flat.items()} == {
        name: tuple(tensor.shape) for name, tensor in published.state_dict().items()
    }
    assert AutoencoderKL().scaling_factor == published.config.scaling_factor
    assert AutoencoderKL().factor == 8


def test_log_variance_is_bounded_as_diffusers_bounds_it():
    model, params = make_model("attention"), converted("attention")
    shift = np.repeat(np.float32([0, 60, -60]), [4, 2, 2])  # Four means come first.
    bias = params["quant_conv"]["bias"] + shift
    params = {**params, "quant_conv": {**params["quant_conv"], "bias": bias}}
    mean, log_variance = run(model, params, make_images(model), "encode")
    np.testing.assert_array_equal(log_variance[..., :2], 20)
    np.testing.assert_array_equal(log_variance[..., 2:], -30)
    np.testing.assert_allclose(
        mean, run(model, converted("attention"), make_images(model), "encode")[0], atol=1e-5
    )


def test_samples_have_the_mean_and_the_variance():
    mean = jnp.broadcast_to(jnp.float32([1.0, -2.0]), (20_000, 2))
    log_variance = jnp.broadcast_to(jnp.log(jnp.float32([0.25, 9.0])), mean.shape)
    samples = np.asarray(sample_latents(jax.random.key(0), mean, log_variance))
    np.testing.assert_allclose(samples.mean(0), [1, -2], atol=0.08)
    np.testing.assert_allclose(samples.std(0), [0.5, 3], rtol=0.02)
    other = sample_latents(jax.random.key(1), mean, log_variance)
    assert not np.allclose(samples, other)
    certain = sample_latents(jax.random.key(0), mean, jnp.full(mean.shape, -30.0))
    np.testing.assert_allclose(certain, mean, atol=1e-5)
    with pytest.raises(ValueError, match=r"mean is \(2,\) but log_variance is \(3,\)"):
        sample_latents(jax.random.key(0), jnp.zeros(2), jnp.zeros(3))


def test_scaling_multiplies_what_is_above_the_shift_and_is_undone():
    model = AutoencoderKL(scaling_factor=0.5, shift_factor=2.0)
    np.testing.assert_allclose(model.scale_latents(jnp.array([2.0, 6.0])), [0, 2])
    np.testing.assert_allclose(model.unscale_latents(jnp.array([0.0, 2.0])), [2, 6])
    np.testing.assert_allclose(AutoencoderKL().scale_latents(jnp.ones(1)), [0.18215])


def early_names(state_dict):
    """The names before diffusers 0.14, whose attention layers could be 1 x 1 convolutions."""
    renamed = {}
    for name, value in state_dict.items():
        for new, old in (
            (".to_q.", ".query."),
            (".to_k.", ".key."),
            (".to_v.", ".value."),
            (".to_out.0.", ".proj_attn."),
        ):
            if new in name and value.ndim == 2:
                value = value[:, :, None, None]
            name = name.replace(new, old)
        renamed[name] = value
    return renamed


def original_names(state_dict):
    """The names of the original latent diffusion code, from its modules' attributes."""
    parts = {
        "norm1": "norm1",
        "norm2": "norm2",
        "conv1": "conv1",
        "conv2": "conv2",
        "conv_shortcut": "nin_shortcut",
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out.0": "proj_out",
    }
    last = len(CONFIGS["attention"]["block_out_channels"]) - 1
    renamed = {}
    for name, value in state_dict.items():
        match = re.fullmatch(
            r"(encoder|decoder)\.(down|up|mid)_blocks?\.(?:(\d+)\.)?(\w+)\.(\d+)\.(.+)\.(\w+)", name
        )
        if match is None:
            name = name.replace("conv_norm_out", "norm_out")
        else:
            half, place, level, kind, index, part, leaf = match.groups()
            if place == "up":
                level = last - int(level)
            if place == "mid":
                kind = "attn_1" if kind == "attentions" else f"block_{int(index) + 1}"
                name = f"{half}.mid.{kind}.{parts[part]}.{leaf}"
                if kind == "attn_1" and value.ndim == 2:
                    value = value[:, :, None, None]
            elif kind == "resnets":
                name = f"{half}.{place}.{level}.block.{index}.{parts[part]}.{leaf}"
            else:
                name = f"{half}.{place}.{level}.{kind.removesuffix('rs')}.conv.{leaf}"
        renamed[name] = value
    return renamed


def whole_model_names(state_dict):
    renamed = {f"first_stage_model.{k}": v for k, v in original_names(state_dict).items()}
    return renamed | {"model.diffusion_model.time_embed.0.weight": np.zeros((4, 4))}


def with_training_leftovers(state_dict):
    leftovers = {"loss.logvar": np.zeros(()), "model_ema.decay": np.zeros(())}
    return original_names(state_dict) | leftovers


def test_the_original_names_are_those_that_diffusers_reads():
    pytest.importorskip("torch")
    loaders = pytest.importorskip("diffusers.loaders.single_file_utils")
    state = random_state_dict("attention")
    blocks = len(CONFIGS["attention"]["block_out_channels"])
    config = {"down_block_types": [""] * blocks, "up_block_types": [""] * blocks}
    read = loaders.convert_ldm_vae_checkpoint(original_names(state), config)
    assert read.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(np.asarray(read[name]).reshape(value.shape), value)


@pytest.mark.parametrize(
    "names", [early_names, original_names, whole_model_names, with_training_leftovers]
)
def test_older_names_give_the_same_parameters(names):
    state = random_state_dict("attention")
    renamed = names(state)
    assert set(renamed) != set(state)
    params = autoencoder_kl_from_torch(renamed, make_model("attention"))
    jax.tree.map(np.testing.assert_array_equal, params, converted("attention"))


def test_tensors_that_do_not_fit_are_all_listed():
    state = dict(random_state_dict("attention"))
    query = state.pop("encoder.mid_block.attentions.0.to_q.weight")
    state["quant_conv.weight"] = state["quant_conv.weight"][:4]
    state["encoder.mid_block.attentions.0.key.weight"] = query
    state["decoder.up_blocks.7.resnets.0.conv1.bias"] = query
    with pytest.raises(ValueError) as error:
        autoencoder_kl_from_torch(state, make_model("attention"))
    assert sorted(str(error.value).splitlines()[1:]) == [
        "  given twice: encoder.mid_block.attentions.0.to_k.weight, as "
        "encoder.mid_block.attentions.0.to_k.weight and as "
        "encoder.mid_block.attentions.0.key.weight",
        "  missing: encoder.mid_block.attentions.0.to_q.weight",
        "  shape: quant_conv.weight is (4, 8, 1, 1), must be (8, 8, 1, 1)",
        "  unknown: decoder.up_blocks.7.resnets.0.conv1.bias",
    ]


def test_weights_of_another_size_are_refused():
    with pytest.raises(ValueError, match="these are not the .* tensors of the model"):
        autoencoder_kl_from_torch(random_state_dict("plain"))


@pytest.mark.parametrize(
    ("shape", "method", "message"),
    [
        ((1, 17, 24, 3), "encode", "17 x 24 do not divide by the autoencoder's factor 2"),
        ((1, 16, 25, 3), "encode", "16 x 25 do not divide"),
        ((1, 16, 24, 1), "encode", r"images must be \[b, h, w, 3\], got \[1, 16, 24, 1\]"),
        ((16, 24, 3), "encode", r"got \[16, 24, 3\]"),
        ((0, 16, 24, 3), "encode", r"got \[0, 16, 24, 3\]"),
        ((1, 4, 4, 3), "decode", r"latents must be \[b, h, w, 4\], got \[1, 4, 4, 3\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_their_numbers(shape, method, message):
    model, params = make_model("attention"), converted("attention")
    with pytest.raises(ValueError, match=message):
        run(model, params, jnp.zeros(shape), method)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block_out_channels": ()}, r"multiples of norm_num_groups 32, got \(\)"),
        ({"block_out_channels": (32, 48)}, r"got \(32, 48\)"),
        ({"layers_per_block": 0}, "layers_per_block must be at least 1, got 0"),
        ({"norm_num_groups": 0}, "norm_num_groups must be at least 1, got 0"),
        ({"latent_channels": 0}, "latent_channels must be at least 1, got 0"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"scaling_factor": 0.0}, "scaling_factor must be above 0, got 0.0"),
    ],
)
def test_fields_that_cannot_be_built_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        AutoencoderKL(**fields)


def test_bfloat16_keeps_float32_parameters_and_results_and_comes_near_float32():
    model = make_model("attention").clone(dtype=jnp.bfloat16)
    leaves = jax.tree.leaves(parameter_shapes(model))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    images = make_images(model)
    got, _ = run(model, converted("attention"), images, "encode")
    exact = np.asarray(run(make_model("attention"), converted("attention"), images, "encode")[0])
    assert got.dtype == jnp.float32
    error = np.abs(got - exact)
    assert 0 < error.max() and error.mean() < 0.05 * exact.std()
