"""Tiny autoencoder of the TAESD family: a cheap stand-in for a large latent space's autoencoder.

Letters in comments: b batch, h w height and width, c channels. Submodule names follow diffusers'
AutoencoderTiny (`layers.N`), so that weights map one to one; latents are those that a diffusion
model works on, with no scaling left to do.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import repeat

from rlsyn_jax.models.autoencoder_kl import check_channels, check_images
from rlsyn_jax.models.torch_conversion import params_from_torch


class TinyBlock(nn.Module):
    """Three 3 x 3 convolutions and a shortcut, after a normalised branch where groups are given."""

    norm_num_groups: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to the same shape."""
        channels = x.shape[-1]
        if self.norm_num_groups:
            conv = functools.partial(nn.Conv, kernel_size=(1, 1), use_bias=False, dtype=self.dtype)
            y = conv(4 * channels, name="pool_0")(x)
            y = nn.GroupNorm(
                self.norm_num_groups,
                epsilon=1e-5,
                use_fast_variance=False,
                dtype=self.dtype,
                name="pool_1",
            )(y)
            x = x + conv(channels, name="pool_3")(nn.relu(y))
        conv = functools.partial(nn.Conv, channels, (3, 3), padding=1, dtype=self.dtype)
        y = nn.relu(conv(name="conv_0")(x))
        y = nn.relu(conv(name="conv_2")(y))
        return nn.relu(x + conv(name="conv_4")(y))


class TinyEncoder(nn.Module):
    """Images to latents; fields as in TinyAutoencoder, blocks from fine to coarse."""

    latent_channels: int
    width: int
    blocks: Sequence[int]
    norm_num_groups: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images):
        """Maps images [b, h, w, c] in [-1, 1] to [b, h / factor, w / factor, latent_channels]."""
        conv = functools.partial(nn.Conv, kernel_size=(3, 3), padding=1, dtype=self.dtype)
        x = ((images + 1) / 2).astype(self.dtype)  # The published weights see 0 to 1.
        layer = 0
        for stage, count in enumerate(self.blocks):
            first = stage == 0
            x = conv(self.width, strides=1 if first else 2, use_bias=first, name=f"layers_{layer}")(
                x
            )
            coarsest = stage == len(self.blocks) - 1
            for index in range(layer + 1, layer + 1 + count):
                groups = self.norm_num_groups if coarsest else 0
                x = TinyBlock(groups, self.dtype, name=f"layers_{index}")(x)
            layer += count + 1
        return conv(self.latent_channels, name=f"layers_{layer}")(x).astype(jnp.float32)


class TinyDecoder(nn.Module):
    """Latents to images; fields as in TinyAutoencoder, blocks from coarse to fine."""

    out_channels: int
    width: int
    blocks: Sequence[int]
    norm_num_groups: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents):
        """Maps latents [b, h, w, c] to images [b, factor h, factor w, out_channels]."""
        conv = functools.partial(nn.Conv, kernel_size=(3, 3), padding=1, dtype=self.dtype)
        # Latents beyond 3 are rare and were never seen in training.
        x = (3 * jnp.tanh(latents / 3)).astype(self.dtype)
        x = nn.relu(conv(self.width, name="layers_0")(x))
        layer = 2  # Layer 1 is the published numbering's activation.
        for stage, count in enumerate(self.blocks):
            for index in range(layer, layer + count):
                groups = self.norm_num_groups if stage == 0 else 0
                x = TinyBlock(groups, self.dtype, name=f"layers_{index}")(x)
            layer += count
            if stage < len(self.blocks) - 1:
                x = repeat(x, "b h w c -> b (h rows) (w columns) c", rows=2, columns=2)
                # The repetition has a number of its own too.
                x = conv(self.width, use_bias=False, name=f"layers_{layer + 1}")(x)
                layer += 2
        x = conv(self.out_channels, name=f"layers_{layer}")(x)
        return 2 * x.astype(jnp.float32) - 1


class TinyAutoencoder(nn.Module):
    """Encoder and decoder without a distribution in between; channels last.

    The defaults are those of TAESD, for Stable Diffusion's latents; `TAEF2` is the one for
    FLUX.2's. Call the methods by `model.apply({"params": params}, images, method="encode")`.

    Attributes:
        latent_channels: channels of the latents.
        width: channels of every layer between.
        encoder_blocks: blocks of each resolution, finest first; each but the first is half as
            high and wide as the one before.
        decoder_blocks: blocks of each resolution, coarsest first; as many as encoder_blocks.
        norm_num_groups: groups of the normalised branch in the coarsest resolution's blocks; 0 is
            no such branch.
        image_channels: channels of the images.
        dtype: computation dtype; parameters and results stay float32.
    """

    latent_channels: int = 4
    width: int = 64
    encoder_blocks: Sequence[int] = (1, 3, 3, 3)
    decoder_blocks: Sequence[int] = (3, 3, 3, 1)
    norm_num_groups: int = 0
    image_channels: int = 3
    dtype: Any = jnp.float32

    def __post_init__(self):
        """Checks the fields.

        Raises:
            ValueError: a size that cannot be built.
        """
        super().__post_init__()
        for field in ("latent_channels", "width", "image_channels"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        if not 1 <= len(self.encoder_blocks) == len(self.decoder_blocks):
            raise ValueError(
                "encoder_blocks and decoder_blocks must have one number for each resolution, got "
                f"{tuple(self.encoder_blocks)} and {tuple(self.decoder_blocks)}"
            )
        if self.norm_num_groups < 0 or (
            self.norm_num_groups and 4 * self.width % self.norm_num_groups
        ):
            raise ValueError(
                f"norm_num_groups must be 0 or divide four times the width {self.width}, got "
                f"{self.norm_num_groups}"
            )

    def setup(self):
        """Builds the parts."""
        common = {"norm_num_groups": self.norm_num_groups, "dtype": self.dtype}
        self.encoder = TinyEncoder(self.latent_channels, self.width, self.encoder_blocks, **common)
        self.decoder = TinyDecoder(self.image_channels, self.width, self.decoder_blocks, **common)

    @property
    def factor(self) -> int:
        """Pixels a side of what one latent place stands for."""
        return 2 ** (len(self.encoder_blocks) - 1)

    def encode(self, images: jax.Array) -> jax.Array:
        """Returns the latents of images.

        Args:
            images: float [b, h, w, image_channels] in [-1, 1]; h and w divisible by `factor`.

        Returns:
            float32 [b, h / factor, w / factor, latent_channels], of about unit variance.

        Raises:
            ValueError: a shape that does not fit.
        """
        check_images(images, self.image_channels, self.factor)
        return self.encoder(images)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Returns the images of latents.

        Args:
            latents: float [b, h, w, latent_channels], of about unit variance.

        Returns:
            float32 [b, factor h, factor w, image_channels], about in [-1, 1] but not clipped.

        Raises:
            ValueError: a shape that does not fit.
        """
        check_channels("latents", latents, self.latent_channels)
        return self.decoder(latents)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Reconstructs images [b, h, w, image_channels] in [-1, 1]."""
        return self.decode(self.encode(images))


TAEF2 = functools.partial(TinyAutoencoder, latent_channels=32, norm_num_groups=4)


def tiny_autoencoder_from_torch(
    state_dict: Mapping[str, Any], model: TinyAutoencoder | None = None
) -> dict:
    """Turns published weights into parameters.

    Two namings are read: diffusers' (encoder.layers.0, decoder.layers.0), and the original code's
    (encoder.0, decoder.1), whose two files are joined by putting "encoder." and "decoder." before
    the names of each.

    Args:
        state_dict: tensors by name, NumPy arrays or PyTorch tensors.
        model: says which tensors there must be; without it, TAESD.

    Returns:
        The parameters of `model`, nested dict of float32 NumPy arrays.

    Raises:
        ValueError: lists all tensors that are missing, extra, given twice or of a wrong shape.
    """
    model = TinyAutoencoder() if model is None else model
    images = jax.ShapeDtypeStruct(
        (1, model.factor, model.factor, model.image_channels), jnp.float32
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]

    def rename(name: str) -> str:
        name = re.sub(r"^encoder\.(\d+)\.", r"encoder.layers.\1.", name)
        # The original code counts the bound on the latents as the decoder's first layer.
        return re.sub(
            r"^decoder\.(\d+)\.", lambda match: f"decoder.layers.{int(match[1]) - 1}.", name
        )

    return params_from_torch(state_dict, shapes, rename=rename)
