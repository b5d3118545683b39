"""KL-regularised image autoencoder: the latent space of Stable Diffusion (arXiv 2112.10752).

Letters in comments: b batch, h w height and width, c channels, n tokens. Submodule names follow
diffusers' AutoencoderKL, so that weights map one to one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from rlsyn_jax.models.torch_conversion import params_from_torch

# The posterior's log-variance is kept where its exponential and its inverse are finite.
LOG_VARIANCE_RANGE = (-30.0, 20.0)


def _group_norm(groups: int, dtype: Any, name: str) -> nn.GroupNorm:
    # Activations reach hundreds with a mean far from zero: E[x^2] - E[x]^2 would lose digits.
    return nn.GroupNorm(groups, epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)


def check_channels(what: str, array: jax.Array, channels: int) -> None:
    """Raises ValueError unless the array, named by `what`, is [b, h, w, channels]."""
    if array.ndim != 4 or array.shape[-1] != channels or 0 in array.shape:
        raise ValueError(f"{what} must be [b, h, w, {channels}], got {list(array.shape)}")


def check_images(images: jax.Array, channels: int, factor: int) -> None:
    """Raises ValueError unless images are [b, h, w, channels], with h and w divisible by factor."""
    check_channels("images", images, channels)
    _, height, width, _ = images.shape
    if height % factor or width % factor:
        raise ValueError(
            f"images of {height} x {width} do not divide by the autoencoder's factor {factor}; "
            "resize or pad them"
        )


class ResnetBlock(nn.Module):
    """Two normalised 3 x 3 convolutions and a shortcut."""

    features: int
    norm_num_groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to [b, h, w, features]."""
        y = nn.silu(_group_norm(self.norm_num_groups, self.dtype, "norm1")(x))
        y = nn.Conv(self.features, (3, 3), padding=1, dtype=self.dtype, name="conv1")(y)
        y = nn.silu(_group_norm(self.norm_num_groups, self.dtype, "norm2")(y))
        y = nn.Conv(self.features, (3, 3), padding=1, dtype=self.dtype, name="conv2")(y)
        if x.shape[-1] != self.features:
            x = nn.Conv(self.features, (1, 1), dtype=self.dtype, name="conv_shortcut")(x)
        return x + y


class SpatialAttention(nn.Module):
    """Self-attention between all places of a feature map, with one head and a shortcut."""

    norm_num_groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to the same shape."""
        _, height, width, channels = x.shape
        tokens = _group_norm(self.norm_num_groups, self.dtype, "group_norm")(x)
        tokens = rearrange(tokens, "b h w c -> b (h w) c")
        query, key, value = (
            nn.Dense(channels, dtype=self.dtype, name=name)(tokens)[:, :, None]  # One head.
            for name in ("to_q", "to_k", "to_v")
        )
        tokens = jax.nn.dot_product_attention(query, key, value)[:, :, 0]
        tokens = nn.Dense(channels, dtype=self.dtype, name="to_out_0")(tokens)
        return x + rearrange(tokens, "b (h w) c -> b h w c", h=height, w=width)


class MiddleBlock(nn.Module):
    """A residual block, attention if wanted, and another residual block."""

    norm_num_groups: int
    attention: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to the same shape."""
        features = x.shape[-1]
        x = ResnetBlock(features, self.norm_num_groups, self.dtype, name="resnets_0")(x)
        if self.attention:
            x = SpatialAttention(self.norm_num_groups, self.dtype, name="attentions_0")(x)
        return ResnetBlock(features, self.norm_num_groups, self.dtype, name="resnets_1")(x)


class Downsample(nn.Module):
    """Halves height and width by a 3 x 3 convolution that pads below and to the right only."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to [b, h / 2, w / 2, c]."""
        padding = ((0, 1), (0, 1))
        return nn.Conv(x.shape[-1], (3, 3), 2, padding=padding, dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
    """Doubles height and width by repetition, followed by a 3 x 3 convolution."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to [b, 2 h, 2 w, c]."""
        x = repeat(x, "b h w c -> b (h rows) (w columns) c", rows=2, columns=2)
        return nn.Conv(x.shape[-1], (3, 3), padding=1, dtype=self.dtype, name="conv")(x)


class DownBlock(nn.Module):
    """Residual blocks of one resolution, and the step to the next if there is one."""

    features: int
    layers: int
    downsample: bool
    norm_num_groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to [b, h / 2, w / 2, features], or [b, h, w, features]."""
        for index in range(self.layers):
            x = ResnetBlock(
                self.features, self.norm_num_groups, self.dtype, name=f"resnets_{index}"
            )(x)
        return Downsample(self.dtype, name="downsamplers_0")(x) if self.downsample else x


class UpBlock(nn.Module):
    """Residual blocks of one resolution, and the step to the next if there is one."""

    features: int
    layers: int
    upsample: bool
    norm_num_groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to [b, 2 h, 2 w, features], or [b, h, w, features]."""
        for index in range(self.layers):
            x = ResnetBlock(
                self.features, self.norm_num_groups, self.dtype, name=f"resnets_{index}"
            )(x)
        return Upsample(self.dtype, name="upsamplers_0")(x) if self.upsample else x


class Encoder(nn.Module):
    """Images to out_channels maps of the latent's height and width."""

    out_channels: int
    block_out_channels: Sequence[int]
    layers_per_block: int
    norm_num_groups: int
    mid_block_attention: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to [b, h / factor, w / factor, out_channels]."""
        groups, dtype = self.norm_num_groups, self.dtype
        last = len(self.block_out_channels) - 1
        x = nn.Conv(self.block_out_channels[0], (3, 3), padding=1, dtype=dtype, name="conv_in")(x)
        for index, features in enumerate(self.block_out_channels):
            x = DownBlock(
                features,
                self.layers_per_block,
                index < last,
                groups,
                dtype,
                name=f"down_blocks_{index}",
            )(x)
        x = MiddleBlock(groups, self.mid_block_attention, dtype, name="mid_block")(x)
        x = nn.silu(_group_norm(groups, dtype, "conv_norm_out")(x))
        return nn.Conv(self.out_channels, (3, 3), padding=1, dtype=dtype, name="conv_out")(x)


class Decoder(nn.Module):
    """Latents to images of out_channels; one residual block more a resolution than the encoder."""

    out_channels: int
    block_out_channels: Sequence[int]
    layers_per_block: int
    norm_num_groups: int
    mid_block_attention: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to [b, factor h, factor w, out_channels]."""
        groups, dtype = self.norm_num_groups, self.dtype
        last = len(self.block_out_channels) - 1
        x = nn.Conv(self.block_out_channels[-1], (3, 3), padding=1, dtype=dtype, name="conv_in")(x)
        x = MiddleBlock(groups, self.mid_block_attention, dtype, name="mid_block")(x)
        for index, features in enumerate(reversed(self.block_out_channels)):
            x = UpBlock(
                features,
                self.layers_per_block + 1,
                index < last,
                groups,
                dtype,
                name=f"up_blocks_{index}",
            )(x)
        x = nn.silu(_group_norm(groups, dtype, "conv_norm_out")(x))
        return nn.Conv(self.out_channels, (3, 3), padding=1, dtype=dtype, name="conv_out")(x)


class AutoencoderKL(nn.Module):
    """Encoder to a normal distribution over latents, and decoder; channels last.

    The defaults are Stable Diffusion's: 8 x 8 pixels a latent place, four channels. Call the
    methods by `model.apply({"params": params}, images, method="encode")`.

    Attributes:
        block_out_channels: channels of each resolution, finest first; each but the last halves
            height and width.
        layers_per_block: residual blocks of each resolution of the encoder.
        norm_num_groups: groups of every normalisation; must divide all of block_out_channels.
        latent_channels, in_channels, out_channels: channels of latents and of images.
        scaling_factor, shift_factor: what `scale_latents` brings latents to unit variance with.
        mid_block_attention: attention between all places at the coarsest resolution.
        use_quant_conv, use_post_quant_conv: 1 x 1 convolution after the encoder, before the
            decoder.
        dtype: computation dtype; parameters and results stay float32.
    """

    block_out_channels: Sequence[int] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    latent_channels: int = 4
    in_channels: int = 3
    out_channels: int = 3
    scaling_factor: float = 0.18215
    shift_factor: float = 0.0
    mid_block_attention: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    dtype: Any = jnp.float32

    def __post_init__(self):
        """Checks the fields.

        Raises:
            ValueError: a size that cannot be built.
        """
        super().__post_init__()
        for field in (
            "layers_per_block",
            "norm_num_groups",
            "latent_channels",
            "in_channels",
            "out_channels",
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        channels = tuple(self.block_out_channels)
        if not channels or any(c < 1 or c % self.norm_num_groups for c in channels):
            raise ValueError(
                f"block_out_channels must be multiples of norm_num_groups "
                f"{self.norm_num_groups}, got {channels}"
            )
        if not self.scaling_factor > 0:
            raise ValueError(f"scaling_factor must be above 0, got {self.scaling_factor}")

    def setup(self):
        """Builds the parts."""
        parts = {
            "block_out_channels": tuple(self.block_out_channels),
            "layers_per_block": self.layers_per_block,
            "norm_num_groups": self.norm_num_groups,
            "mid_block_attention": self.mid_block_attention,
            "dtype": self.dtype,
        }
        self.encoder = Encoder(2 * self.latent_channels, **parts)
        self.decoder = Decoder(self.out_channels, **parts)
        if self.use_quant_conv:
            self.quant_conv = nn.Conv(2 * self.latent_channels, (1, 1), dtype=self.dtype)
        if self.use_post_quant_conv:
            self.post_quant_conv = nn.Conv(self.latent_channels, (1, 1), dtype=self.dtype)

    @property
    def factor(self) -> int:
        """Pixels a side of what one latent place stands for."""
        return 2 ** (len(self.block_out_channels) - 1)

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the distribution of each image's latents.

        Args:
            images: float [b, h, w, in_channels] in [-1, 1]; h and w divisible by `factor`.

        Returns:
            (mean, log_variance): float32 [b, h / factor, w / factor, latent_channels];
            log_variance in [-30, 20]. Not scaled: see `scale_latents`.

        Raises:
            ValueError: a shape that does not fit.
        """
        check_images(images, self.in_channels, self.factor)
        moments = self.encoder(images.astype(self.dtype))
        if self.use_quant_conv:
            moments = self.quant_conv(moments)
        mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Returns the images of latents.

        Args:
            latents: float [b, h, w, latent_channels], not scaled: see `unscale_latents`.

        Returns:
            float32 [b, factor h, factor w, out_channels], about in [-1, 1] but not clipped.

        Raises:
            ValueError: a shape that does not fit.
        """
        check_channels("latents", latents, self.latent_channels)
        latents = latents.astype(self.dtype)
        if self.use_post_quant_conv:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents).astype(jnp.float32)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Reconstructs images [b, h, w, in_channels] in [-1, 1] from their mean latents."""
        mean, _ = self.encode(images)
        return self.decode(mean)

    @nn.nowrap
    def scale_latents(self, latents: jax.Array) -> jax.Array:
        """Returns an encoder's latents of any shape as a diffusion model wants them."""
        return (latents - self.shift_factor) * self.scaling_factor

    @nn.nowrap
    def unscale_latents(self, latents: jax.Array) -> jax.Array:
        """Returns a diffusion model's latents of any shape as the decoder wants them."""
        return latents / self.scaling_factor + self.shift_factor


def sample_latents(key: jax.Array, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Draws latents from an encoder's distribution.

    Args:
        key: typed random key.
        mean: float [...].
        log_variance: float of mean's shape.

    Returns:
        mean + exp(log_variance / 2) * noise, float32 of mean's shape; not scaled.

    Raises:
        ValueError: the shapes differ.
    """
    if mean.shape != log_variance.shape:
        raise ValueError(f"mean is {mean.shape} but log_variance is {log_variance.shape}")
    noise = jax.random.normal(key, mean.shape, jnp.float32)
    return mean + jnp.exp(0.5 * log_variance) * noise


# The same module under the names of the original latent diffusion code, and of early diffusers.
_RENAMED_MODULES = (
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"(\.attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(\.attentions\.\d+)\.(?:q|query)\.", r"\1.to_q."),
    (r"(\.attentions\.\d+)\.(?:k|key)\.", r"\1.to_k."),
    (r"(\.attentions\.\d+)\.(?:v|value)\.", r"\1.to_v."),
    (r"(\.attentions\.\d+)\.(?:proj_attn|proj_out)\.", r"\1.to_out.0."),
)
_WHOLE_MODEL_PREFIX = "first_stage_model."
# What the original code saves beside the autoencoder: its discriminator, and running averages.
_TRAINING_ONLY = ("loss.", "model_ema.")


def autoencoder_kl_from_torch(
    state_dict: Mapping[str, Any], model: AutoencoderKL | None = None
) -> dict:
    """Turns published weights into parameters.

    Three namings are read: diffusers'; its early one, whose attention is query, key, value and
    proj_attn; and the original latent diffusion code's (encoder.down.0.block.0 and so on), from an
    autoencoder's or a whole model's checkpoint. Attention weights may be 1 x 1 convolutions.

    Args:
        state_dict: tensors by name, NumPy arrays or PyTorch tensors.
        model: says which tensors there must be; without it, Stable Diffusion's autoencoder.

    Returns:
        The parameters of `model`, nested dict of float32 NumPy arrays.

    Raises:
        ValueError: lists all tensors that are missing, extra, given twice or of a wrong shape.
    """
    model = AutoencoderKL() if model is None else model
    images = jax.ShapeDtypeStruct((1, model.factor, model.factor, model.in_channels), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    last_block = len(model.block_out_channels) - 1

    def rename(name: str) -> str | None:
        if name.startswith(_TRAINING_ONLY):
            return None
        # The original code counts the decoder's resolutions from the finest.
        name = re.sub(
            r"^decoder\.up\.(\d+)\.",
            lambda match: f"decoder.up.{last_block - int(match[1])}.",
            name,
        )
        for pattern, replacement in _RENAMED_MODULES:
            name = re.sub(pattern, replacement, name)
        return name

    return params_from_torch(state_dict, shapes, rename=rename, prefix=_WHOLE_MODEL_PREFIX)
