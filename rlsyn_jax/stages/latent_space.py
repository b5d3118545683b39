"""Where the run's generator works: the latents of config.autoencoder, or the pixels themselves."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from einops import repeat
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from rlsyn_jax.config import GUIDANCE_CHANNELS, ConfigError, field
from rlsyn_jax.data.identity_dataset import to_device_range
from rlsyn_jax.data.latent_cache import LatentCache, encode_dataset
from rlsyn_jax.data.stored_images import StoredImages
from rlsyn_jax.models.autoencoder_kl import LOG_VARIANCE_RANGE, AutoencoderKL
from rlsyn_jax.models.decoder_memory import FLOAT, decoding_bytes
from rlsyn_jax.models.import_autoencoder import build_autoencoder
from rlsyn_jax.models.tiled_decoding import decode_tiled
from rlsyn_jax.stages.stage_record import fingerprint, plain
from rlsyn_jax.training.checkpoints import restore_config, restore_params
from rlsyn_jax.training.meshes import batch_sharding, make_mesh, place, replicated
from rlsyn_jax.training.metrics import Progress
from rlsyn_jax.training.processes import barrier

# What of config.autoencoder changes numbers.
LATENT_FIELDS = ("autoencoder.path", "autoencoder.tile_size", "autoencoder.dtype")
# Parts of an autoencoder that decoding does not use.
_ENCODING = ("encoder", "quant_conv")


@dataclasses.dataclass(frozen=True)
class LatentSpace:
    """How the generator's samples and images become each other.

    Attributes:
        shape: (height, width, channels) of one sample.
        decode: (params, samples [b, h, w, c]) -> images [b, height, width, channels], about in
            [-1, 1]; a pure function.
        encode: (params, images in [-1, 1]) -> (mean, log_variance) of samples.
        params: the autoencoder's, or its decoder's alone; {} for pixels.
        name: hash of the autoencoder; "" for pixels.
    """

    shape: tuple[int, int, int]
    decode: Callable[[dict, jax.Array], jax.Array]
    encode: Callable[[dict, jax.Array], tuple[jax.Array, jax.Array]] | None = None
    params: dict = dataclasses.field(default_factory=dict)
    name: str = ""


def image_shape(config: ConfigDict) -> tuple[int, int, int]:
    """Returns (height, width, channels) of the run's images."""
    return config.image.size, config.image.width or config.image.size, config.image.channels


def sample_shape(config: ConfigDict) -> tuple[int, int, int]:
    """Returns (height, width, channels) of what the generator makes, without loading weights.

    Raises:
        ConfigError: config.autoencoder.path holds no autoencoder, or its images are others.
    """
    if not config.autoencoder.path:
        return image_shape(config)
    return _shape_of(config, _module(config, config.autoencoder.path)[0])


def latent_space_name(config: ConfigDict) -> str:
    """Returns the hash of the autoencoder that makes the samples; "" for pixels."""
    path = config.autoencoder.path
    return fingerprint(_module(config, path)[1]) if path else ""


def open_latent_space(config: ConfigDict, *, for_rewards: bool = False) -> LatentSpace:
    """Loads config.autoencoder, or gives the pixels where there is none.

    Args:
        config: complete configuration.
        for_rewards: to decode alone, by config.autoencoder.reward_path where it is set.

    Raises:
        ConfigError: a checkpoint is not an autoencoder's, or does not fit the run's images.
    """
    settings = config.autoencoder
    if not settings.path:
        return LatentSpace(image_shape(config), lambda params, samples: samples)
    shape = sample_shape(config)
    path = _reward_path(config) if for_rewards else settings.path
    module, record = _module(config, path)
    if _shape_of(config, module) != shape:
        raise ConfigError(
            f"config.autoencoder.reward_path decodes latents of {_shape_of(config, module)}, and "
            f"config.autoencoder.path makes them {shape}; both must share one latent space"
        )
    channels = config.image.channels
    apply = functools.partial(_apply, module)

    # Where rewards are differentiated, parts of a batch are computed again and keep nothing.
    again = for_rewards and config.reinforce.algorithm == "pathwise"

    def decode(params, samples):
        def decode_part(part):
            return _decode_tiles(apply, params, part, settings.tile_size)

        if again:
            decode_part = jax.checkpoint(decode_part)
        images = _in_parts(decode_part, samples, settings.batch_size)
        # Grey images are three equal channels to an autoencoder of colours.
        return images if images.shape[-1] == channels else images.mean(-1, keepdims=True)

    def encode(params, images):
        colours = _image_channels(module)
        if images.shape[-1] != colours:
            images = repeat(images, "b h w 1 -> b h w c", c=colours)
        return apply(params, images, "encode")

    params = restore_params(path)
    if for_rewards:
        params = {name: part for name, part in params.items() if name not in _ENCODING}
    return LatentSpace(shape, decode, encode, params, fingerprint(record))


def reward_decoder_memory(config: ConfigDict, samples: int, *, on_cpu: bool) -> tuple[int, int]:
    """Returns what rewards need of a device to look at samples, without loading weights.

    Args:
        config: complete configuration.
        samples: that a device decodes.
        on_cpu: compiled by XLA's CPU compiler; else an estimate.

    Returns:
        Bytes of the decoder's parameters, and of what decoding holds at its peak with the images of
        all samples; (0, 0) for pixels.

    Raises:
        ConfigError: config.autoencoder cannot be used.
    """
    settings = config.autoencoder
    if not settings.path:
        return 0, 0
    module, _ = _module(config, _reward_path(config))
    latent_height, latent_width, _ = sample_shape(config)
    side, colours = module.factor, _image_channels(module)
    images = jax.ShapeDtypeStruct((1, side, side, colours), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    decoder = [part for name, part in shapes.items() if name not in _ENCODING]
    params = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(decoder))
    tile = settings.tile_size or max(latent_height, latent_width)
    tile_height, tile_width = min(tile, latent_height), min(tile, latent_width)
    at_once = min(samples, settings.batch_size)
    # A last, smaller part is no turn of the loop over parts, and the compiler lays it out beside.
    at_once += samples % at_once
    peak = at_once * decoding_bytes(module, tile_height, tile_width, on_cpu=on_cpu)
    image = FLOAT * latent_height * latent_width * side**2 * colours
    if (tile_height, tile_width) != (latent_height, latent_width):
        peak += at_once * image  # Tiles are added up.
    return params, peak + samples * image


def shared_by_devices(space: LatentSpace, mesh: Mesh) -> Callable[[dict, jax.Array], jax.Array]:
    """Returns space.decode for samples that are split over a mesh: each device decodes its own."""
    if not space.name:
        return space.decode
    rows = PartitionSpec(("data", "fsdp"))
    return jax.shard_map(
        space.decode, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows, check_vma=False
    )


def decoding_flops(space: LatentSpace) -> float:
    """Returns the floating-point operations of decoding one sample, as XLA counts them."""
    sample = jax.ShapeDtypeStruct((1, *space.shape), jnp.float32)
    return jax.jit(space.decode).lower(space.params, sample).cost_analysis()["flops"]


def encoded_images(
    config: ConfigDict,
    workdir: Path,
    name: str,
    images: np.ndarray | StoredImages,
    *,
    mirrored: bool,
) -> np.ndarray | StoredImages | LatentCache:
    """Returns what the denoising training reads: images as they are, or their latents on disk.

    Args:
        config: complete configuration.
        workdir: of the run; the latents are kept in it, or in config.autoencoder.cache.
        name: of the data set, for the folder's.
        images: uint8 [n, h, w, c].
        mirrored: whether training mirrors half of the images.

    Raises:
        ConfigError: the folder holds latents of another autoencoder, size or data set.
    """
    if not config.autoencoder.path:
        return images
    settings, space = config.autoencoder, open_latent_space(config)
    if isinstance(images, StoredImages):
        digest = images.digest()[:16]
    else:
        digest = hashlib.sha256(np.ascontiguousarray(images)).hexdigest()[:16]
    made_from = {
        "autoencoder": space.name,
        "dtype": settings.dtype,
        "image": plain(config.image),
        "images": digest,
    }
    root = Path(settings.cache) if settings.cache else Path(workdir) / "latents"
    folder = root / f"{name}-{digest[:8]}"
    mesh = make_mesh(devices=jax.local_devices())
    params = place(space.params, replicated(mesh))
    rows = batch_sharding(mesh)
    encode = jax.jit(
        lambda params, batch: space.encode(params, to_device_range(batch)),
        in_shardings=(replicated(mesh), rows),
        out_shardings=(rows, rows),
    )
    progress = Progress(f"latents of {name}", len(images), every_seconds=config.log_every_seconds)
    try:
        encode_dataset(
            images,
            folder,
            encode=lambda batch: encode(params, batch),
            latent_shape=space.shape,
            made_from=made_from,
            mirrored=mirrored,
            batch_size=settings.batch_size * mesh.size,
            shard_images=settings.shard_images,
            progress=progress.update,
            process=(jax.process_index(), jax.process_count()),
        )
    except ValueError as error:
        raise ConfigError(f"config.autoencoder.cache: {error}") from error
    barrier(f"latents of {name}: every process has written its shards")
    cache = LatentCache(folder)
    logging.info("latents of %s: %d images in %s", name, len(cache), folder)
    return cache


def _reward_path(config: ConfigDict) -> str:
    return config.autoencoder.reward_path or config.autoencoder.path


def _module(config: ConfigDict, path: str) -> tuple[Any, dict]:
    """Returns the autoencoder of a checkpoint without its weights, and the checkpoint's record."""
    try:
        record = restore_config(path)
        return build_autoencoder(record, dtype=jnp.dtype(config.autoencoder.dtype)), record
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"config.autoencoder: {path}: {error}") from error


def _image_channels(module) -> int:
    return module.in_channels if isinstance(module, AutoencoderKL) else module.image_channels


def _shape_of(config: ConfigDict, module) -> tuple[int, int, int]:
    """Returns the shape of the latents of the run's images."""
    height, width, channels = image_shape(config)
    if height % module.factor or width % module.factor:
        raise ConfigError(
            f"config.image is {height} x {width} pixels; both must be divisible by the "
            f"autoencoder's factor {module.factor}"
        )
    if channels not in (1, _image_channels(module)):
        raise ConfigError(
            f"config.image.channels is {channels}; the autoencoder of config.autoencoder.path has "
            f"images of {_image_channels(module)} channels"
        )
    for path in GUIDANCE_CHANNELS:
        if field(config, path) > module.latent_channels:
            raise ConfigError(
                f"config.{path} is {field(config, path)}; it must be at most "
                f"{module.latent_channels}, the channels of the latents"
            )
    return height // module.factor, width // module.factor, module.latent_channels


def _apply(module, params, values, method):
    """Encodes to, or decodes from, latents of about unit variance."""
    run = functools.partial(module.apply, {"params": params}, method=method)
    if not isinstance(module, AutoencoderKL):
        if method == "decode":
            return run(values)
        # Nothing is drawn where there is no distribution.
        mean = run(values)
        return mean, jnp.full_like(mean, LOG_VARIANCE_RANGE[0])
    if method == "decode":
        return run(module.unscale_latents(values))
    mean, log_variance = run(values)
    return module.scale_latents(mean), log_variance + 2 * jnp.log(module.scaling_factor)


def _decode_tiles(apply, params, samples, tile_size: int):
    decode = functools.partial(apply, params, method="decode")
    if not tile_size:
        return decode(samples)
    return decode_tiled(decode, samples, tile_size=tile_size, overlap=tile_size // 4)


def _in_parts(function, values, size: int):
    """Maps a batch part by part, so that no more than `size` are in work at once."""
    if len(values) <= size:
        return function(values)
    whole = len(values) // size * size
    parts = values[:whole].reshape(-1, size, *values.shape[1:])
    done = jax.lax.map(function, parts)
    done = done.reshape(whole, *done.shape[2:])
    if whole == len(values):
        return done
    return jnp.concatenate([done, function(values[whole:])])
