"""Autoencoders by the command: their sizes are found out, and what is kept builds them again."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from rlsyn_jax.models.autoencoder_kl import AutoencoderKL
from rlsyn_jax.models.import_autoencoder import build_autoencoder
from rlsyn_jax.models.import_weights import import_checkpoint
from rlsyn_jax.models.tiny_autoencoder import TinyAutoencoder
from rlsyn_jax.models.torch_conversion import to_torch_axes, torch_name
from rlsyn_jax.training.atomic_files import write_json
from rlsyn_jax.training.checkpoints import restore_config, restore_params

TINY = TinyAutoencoder(
    latent_channels=5,
    width=8,
    encoder_blocks=(1, 2),
    decoder_blocks=(3, 1),
    norm_num_groups=4,
    image_channels=1,
)
KL = AutoencoderKL(
    block_out_channels=(4, 8),
    layers_per_block=1,
    norm_num_groups=2,
    latent_channels=3,
    scaling_factor=0.7,
    use_quant_conv=False,
)


@functools.cache
def params_of(model):
    channels = model.in_channels if isinstance(model, AutoencoderKL) else model.image_channels
    images = jnp.zeros((1, 4, 4, channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)


def tensors_of(model):
    """The parameters by their published names."""
    flat = jax.tree_util.tree_flatten_with_path(params_of(model))[0]
    tensors = {}
    for path, value in flat:
        name = "/".join(key.key for key in path)
        order = to_torch_axes(name, value.ndim)
        tensors[torch_name(name)] = np.ascontiguousarray(np.asarray(value).transpose(order))
    return tensors


def check_checkpoint(folder, model):
    record = restore_config(folder)
    assert build_autoencoder(record) == model
    restored = restore_params(folder)
    jax.tree.map(np.testing.assert_array_equal, restored, params_of(model))
    return record


def original_names(tensors, half):
    """As the original code numbers the layers of one half, in a file of its own."""
    shift = 1 if half == "decoder" else 0
    renamed = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".layers.")
        number, _, rest = rest.partition(".")
        if part == half:
            renamed[f"{int(number) + shift}.{rest}"] = value
    return renamed


def test_two_files_of_a_tiny_autoencoder_tell_its_sizes(tmp_path):
    source = tmp_path / "files"
    source.mkdir()
    for half in ("encoder", "decoder"):
        save_file(original_names(tensors_of(TINY), half), source / f"taexx_{half}.safetensors")
    import_checkpoint(source, tmp_path / "out", licence="MIT")
    record = check_checkpoint(tmp_path / "out", TINY)
    assert record["network"] == "TinyAutoencoder" and record["imported"]["licence"] == "MIT"
    assert len(record["imported"]["sha256"]) == 2


def write_diffusers(folder, model, **config):
    folder.mkdir()
    save_file(tensors_of(model), folder / "diffusion_pytorch_model.safetensors")
    write_json(folder / "config.json", config)


KL_CONFIG = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [4, 8],
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "latent_channels": 3,
    "scaling_factor": 0.7,
    "use_quant_conv": False,
    "shift_factor": None,
}


def test_a_diffusers_folder_tells_the_sizes(tmp_path):
    write_diffusers(tmp_path / "vae", KL, **KL_CONFIG)
    import_checkpoint(tmp_path / "vae", tmp_path / "out")
    check_checkpoint(tmp_path / "out", KL)


def test_a_diffusers_tiny_autoencoder_is_read(tmp_path):
    model = TinyAutoencoder(width=8, encoder_blocks=(1, 1), decoder_blocks=(2, 1))
    config = {
        "_class_name": "AutoencoderTiny",
        "encoder_block_out_channels": [8, 8],
        "decoder_block_out_channels": [8, 8],
        "num_encoder_blocks": [1, 1],
        "num_decoder_blocks": [2, 1],
        "latent_channels": 4,
        "in_channels": 3,
    }
    write_diffusers(tmp_path / "vae", model, **config)
    import_checkpoint(tmp_path / "vae", tmp_path / "out")
    check_checkpoint(tmp_path / "out", model)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"_class_name": "AutoencoderDC"}, "AutoencoderKL and AutoencoderTiny are read"),
        ({"latents_mean": [0.0, 1.0, 2.0]}, "latents_mean"),
        ({"norm_num_groups": 3}, "multiples of norm_num_groups 3"),
        ({"latent_channels": 4}, "shape: "),
    ],
)
def test_settings_that_do_not_fit_are_told(tmp_path, changed, told):
    write_diffusers(tmp_path / "vae", KL, **(KL_CONFIG | changed))
    with pytest.raises(ValueError, match=told):
        import_checkpoint(tmp_path / "vae", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_record_of_something_else_builds_nothing():
    with pytest.raises(ValueError, match="it holds a ResNet50, not an autoencoder"):
        build_autoencoder({"network": "ResNet50"})
