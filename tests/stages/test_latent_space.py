"""The generator's latent space: an autoencoder's, for colour and grey images, or the pixels."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rlsyn_jax.config import ConfigError
from rlsyn_jax.data.latent_cache import LatentCache
from rlsyn_jax.models.autoencoder_kl import AutoencoderKL
from rlsyn_jax.models.tiled_decoding import decode_tiled
from rlsyn_jax.models.tiny_autoencoder import TinyAutoencoder
from rlsyn_jax.stages.latent_space import (
    decoding_flops,
    encoded_images,
    image_shape,
    open_latent_space,
    sample_shape,
    shared_by_devices,
)
from rlsyn_jax.training.checkpoints import CheckpointStore, restore_params
from rlsyn_jax.training.meshes import batch_sharding, make_mesh, replicated

TINY = {
    "latent_channels": 4,
    "width": 4,
    "encoder_blocks": [1, 1],
    "decoder_blocks": [1, 1],
    "image_channels": 3,
    "norm_num_groups": 0,
}
KL = {
    "block_out_channels": [4, 8],
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "latent_channels": 4,
    "in_channels": 3,
    "out_channels": 3,
    "scaling_factor": 0.5,
    "shift_factor": 0.25,
}
NETWORKS = {"TinyAutoencoder": (TinyAutoencoder, TINY), "AutoencoderKL": (AutoencoderKL, KL)}


def built(name):
    network, fields = NETWORKS[name]
    return network(**{key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()})


@functools.cache
def weights(name, seed=0):
    model = built(name)
    return jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 4, 4, 3)))["params"]


def write(folder, name, seed=0, **changed):
    record = {"network": name, "autoencoder": {**NETWORKS[name][1], **changed}, "imported": seed}
    with CheckpointStore(folder) as store:
        store.save(1, {"params": weights(name, seed)}, config=record, iterator_state=None)
    return str(folder)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoencoders")
    return {name: write(folder / name, name) for name in NETWORKS}


def test_more_guided_channels_than_latents_have_are_refused(program, checkpoints):
    config = make_config(program, checkpoints["AutoencoderKL"])
    config.reinforce.guidance_channels = 4
    assert sample_shape(config)[-1] == 4
    config.synthesize.guidance_channels = 5
    with pytest.raises(ConfigError, match="synthesize.guidance_channels is 5; .* at most 4, the c"):
        sample_shape(config)


def make_config(program, path, **autoencoder):
    config = program.config(
        image={"size": 8, "width": 4}, autoencoder={"path": path, **autoencoder}
    )
    config.generator.clip_denoised = False
    return config


def noise(shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape)


def test_without_an_autoencoder_samples_are_images(program):
    config = program.config(image={"size": 8, "width": 6})
    space = open_latent_space(config)
    assert space.shape == sample_shape(config) == image_shape(config) == (8, 6, 3)
    samples = noise((2, 8, 6, 3))
    assert space.decode(space.params, samples) is samples
    images = np.zeros((2, 8, 6, 3), np.uint8)
    assert encoded_images(config, None, "any", images, mirrored=True) is images


def test_samples_of_the_kl_autoencoder_are_scaled_latents(program, checkpoints):
    config = make_config(program, checkpoints["AutoencoderKL"])
    space, model = open_latent_space(config), built("AutoencoderKL")
    assert space.shape == sample_shape(config) == (4, 2, 4)
    run = functools.partial(model.apply, {"params": weights("AutoencoderKL")})
    samples, images = noise((3, 4, 2, 4)), noise((3, 8, 4, 3))
    np.testing.assert_allclose(
        space.decode(space.params, samples), run(samples / 0.5 + 0.25, method="decode"), atol=1e-5
    )
    mean, log_variance = space.encode(space.params, images)
    other_mean, other_log_variance = run(images, method="encode")
    np.testing.assert_allclose(mean, (other_mean - 0.25) * 0.5, atol=1e-5)
    # A factor on the samples is its square on their variance.
    np.testing.assert_allclose(jnp.exp(log_variance), jnp.exp(other_log_variance) * 0.25, rtol=1e-4)


def test_a_tiny_autoencoder_draws_nothing(program, checkpoints):
    config = make_config(program, checkpoints["TinyAutoencoder"])
    space, model = open_latent_space(config), built("TinyAutoencoder")
    run = functools.partial(model.apply, {"params": weights("TinyAutoencoder")})
    samples, images = noise((3, 4, 2, 4)), noise((3, 8, 4, 3))
    np.testing.assert_allclose(
        space.decode(space.params, samples), run(samples, method="decode"), atol=1e-5
    )
    mean, log_variance = space.encode(space.params, images)
    np.testing.assert_allclose(mean, run(images, method="encode"), atol=1e-5)
    assert jnp.exp(0.5 * log_variance).max() < 1e-6


def test_grey_images_are_three_equal_colours_to_it(program, checkpoints):
    config = make_config(program, checkpoints["TinyAutoencoder"])
    config.image.channels = 1
    space, model = open_latent_space(config), built("TinyAutoencoder")
    run = functools.partial(model.apply, {"params": weights("TinyAutoencoder")})
    images = noise((2, 8, 4, 1))
    mean, _ = space.encode(space.params, images)
    np.testing.assert_allclose(mean, run(images.repeat(3, -1), method="encode"), atol=1e-5)
    decoded = run(mean, method="decode").mean(-1, keepdims=True)
    np.testing.assert_allclose(space.decode(space.params, mean), decoded, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_parts_of_a_batch_give_what_the_whole_gives(program, checkpoints, batch_size):
    path = checkpoints["TinyAutoencoder"]
    whole = open_latent_space(make_config(program, path, batch_size=64))
    parts = open_latent_space(make_config(program, path, batch_size=batch_size))
    samples = noise((5, 4, 2, 4))
    np.testing.assert_allclose(
        parts.decode(parts.params, samples), whole.decode(whole.params, samples), atol=1e-5
    )


def test_tiles_are_those_of_the_tiled_decoder(program, checkpoints):
    config = make_config(program, checkpoints["AutoencoderKL"], tile_size=4)
    config.image.size = config.image.width = 16
    space, model = open_latent_space(config), built("AutoencoderKL")
    samples = noise((1, 8, 8, 4))

    def decode(latents):
        latents = latents / 0.5 + 0.25
        return model.apply({"params": weights("AutoencoderKL")}, latents, method="decode")

    expected = decode_tiled(decode, samples, tile_size=4, overlap=1)
    np.testing.assert_allclose(space.decode(space.params, samples), expected, atol=1e-5)
    assert np.abs(expected - decode(samples)).max() > 1e-3  # Tiles are seen in it.


def test_each_device_decodes_its_own_samples(program, checkpoints):
    mesh = make_mesh(2)
    space = open_latent_space(make_config(program, checkpoints["TinyAutoencoder"], batch_size=1))
    samples = noise((16, 4, 2, 4))
    params = jax.device_put(space.params, replicated(mesh))
    placed = jax.device_put(samples, batch_sharding(mesh))
    images = jax.jit(shared_by_devices(space, mesh))(params, placed)
    assert images.sharding.is_equivalent_to(batch_sharding(mesh), images.ndim)
    np.testing.assert_allclose(images, space.decode(space.params, samples), atol=1e-5)


def test_the_price_of_decoding_is_that_of_its_convolutions(program, checkpoints):
    space = open_latent_space(make_config(program, checkpoints["TinyAutoencoder"]))
    # Of [4, 2] places: 4 to 4 channels, a block, after doubling another convolution and block, and
    # the last to 3 colours; 3 x 3 taps, two operations each.
    products = 8 * (4 * 4 + 3 * 4 * 4) + 32 * (4 * 4 + 3 * 4 * 4 + 4 * 3)
    assert decoding_flops(space) == pytest.approx(2 * 9 * products, rel=0.35)


def test_rewards_may_be_decoded_by_another_network(program, checkpoints):
    config = make_config(
        program, checkpoints["AutoencoderKL"], reward_path=checkpoints["TinyAutoencoder"]
    )
    space = open_latent_space(config, for_rewards=True)
    samples = noise((2, 4, 2, 4))
    expected = built("TinyAutoencoder").apply(
        {"params": weights("TinyAutoencoder")}, samples, method="decode"
    )
    np.testing.assert_allclose(space.decode(space.params, samples), expected, atol=1e-5)
    assert open_latent_space(config).name != space.name


def test_what_does_not_fit_is_told(program, checkpoints, tmp_path):
    path = checkpoints["TinyAutoencoder"]
    with pytest.raises(ConfigError, match="not a folder"):
        sample_shape(make_config(program, str(tmp_path / "nothing")))
    with CheckpointStore(tmp_path / "run") as store:
        store.save(1, {"params": {"a": jnp.zeros(1)}}, config={}, iterator_state=None)
    with pytest.raises(ConfigError, match="not an autoencoder"):
        sample_shape(make_config(program, str(tmp_path / "run")))
    config = make_config(program, path)
    config.image.size = 9
    with pytest.raises(ConfigError, match="9 x 4 pixels; both must be divisible by .* factor 2"):
        sample_shape(config)
    config = make_config(program, path)
    config.image.channels = 4
    with pytest.raises(ConfigError, match=r"channels is 4; .* images of 3 channels"):
        sample_shape(config)
    other = write(tmp_path / "other", "TinyAutoencoder", latent_channels=5)
    with pytest.raises(ConfigError, match="must share one latent space"):
        open_latent_space(make_config(program, path, reward_path=other), for_rewards=True)


def test_latents_of_another_autoencoder_are_not_used_again(program, checkpoints, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 4, 3)).astype(np.uint8)
    path = checkpoints["TinyAutoencoder"]
    config = make_config(program, path, batch_size=2, shard_images=2)
    cache = encoded_images(config, tmp_path, "people", images, mirrored=True)
    space = open_latent_space(config)
    for view, variant in ((images, 0), (images[:, :, ::-1], 1)):
        mean, _ = space.encode(space.params, jnp.asarray(view / 127.5 - 1, jnp.float32))
        np.testing.assert_allclose(cache[:][:, variant, 0], mean, atol=2e-3)
    again = encoded_images(config, tmp_path, "people", images, mirrored=True)
    np.testing.assert_array_equal(again[:], cache[:])
    # Other images have a place of their own.
    encoded_images(config, tmp_path, "people", images[:3], mirrored=True)
    config.autoencoder.path = write(tmp_path / "other", "TinyAutoencoder", seed=1)
    with pytest.raises(ConfigError, match="autoencoder: .* there, .* now"):
        encoded_images(config, tmp_path, "people", images, mirrored=True)


@pytest.mark.slow
def test_the_whole_method_in_latents(program, tmp_path):
    fields = {
        "autoencoder.path": write(tmp_path / "autoencoder", "AutoencoderKL"),
        "autoencoder.reward_path": write(tmp_path / "tiny", "TinyAutoencoder"),
        "autoencoder.shard_images": 10,
        "generator.clip_denoised": False,
        "generator.patch_size": 2,
        "generator.scan_layers": True,
        "generator.depth": 2,
        **{f"{s}.{n}": 0.0 for s in ("pretrain", "adapt") for n in ("rotation", "scale")},
        **{f"{s}.translation": 0.0 for s in ("pretrain", "adapt")},
    }
    workdir = tmp_path / "run"
    log = program.run(workdir, fields=fields)
    assert "latents of general: 24 images" in log
    assert "reinforce: rewards decode each sample" in log
    (general,) = (workdir / "latents").glob("general-*")
    assert len(list(general.glob("*.array_record"))) == 3
    assert LatentCache(general).shape == (24, 2, 2, 8, 8, 4)
    # Kept block by block, for whoever loads it.
    params = restore_params(workdir / "reinforce")
    assert {"blocks_0", "blocks_1"} <= set(params) and "blocks" not in params
    assert params["x_embedder"]["kernel"].shape == (2, 2, 4, 32)
    (sample, *_) = sorted((workdir / "synthesize" / "reinforced").glob("*/*.png"))
    assert np.asarray(Image.open(sample)).shape == (16, 16, 3)
    assert len(json.loads((workdir / "evaluate" / "metrics.json").read_text())["arms"]) == 6
    assert "report: complete" in program.run(workdir, fields=fields)
