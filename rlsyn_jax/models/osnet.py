"""Omni-scale networks, light ones for person images (Zhou et al., arXiv 1905.00953).

Each block looks at four ranges at once, by one to four light convolutions in a row, and a gate that
all four share weighs their channels. OSNet x0.25 has 0.2 million parameters. Letters in comments:
b batch, h w height and width, c channels, d embedding. Submodules have torchreid's names, with an
underscore for a dot.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_CHANNELS = (64, 256, 384, 512)  # Of OSNet x1.0: stem, then stages.
_BLOCKS = 2  # In each stage.


class ConvNorm(nn.Module):
    """Convolution without bias and batch normalisation, rectified or not."""

    features: int
    norm: Any
    kernel_size: int = 1
    stride: int = 1
    rectified: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to [b, h / stride, w / stride, features]."""
        x = nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            self.stride,
            padding=self.kernel_size // 2,
            use_bias=False,
            dtype=self.dtype,
            name="conv",
        )(x)
        x = self.norm(name="bn")(x)
        return nn.relu(x) if self.rectified else x


class LightConv(nn.Module):
    """1 x 1 convolution over channels, then a 3 x 3 convolution of each channel by itself."""

    norm: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to the same shape."""
        channels = x.shape[-1]
        conv = functools.partial(nn.Conv, channels, use_bias=False, dtype=self.dtype)
        x = conv((1, 1), name="conv1")(x)
        x = conv((3, 3), padding=1, feature_group_count=channels, name="conv2")(x)
        return nn.relu(self.norm(name="bn")(x))


class ChannelGate(nn.Module):
    """Weighs channels by what they are on average over the image."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to the same shape."""
        channels = x.shape[-1]
        gate = x.mean(axis=(1, 2))  # [b, c]
        # At least one, which only networks narrower than any published one come to.
        gate = nn.relu(nn.Dense(max(1, channels // 16), dtype=self.dtype, name="fc1")(gate))
        gate = nn.sigmoid(nn.Dense(channels, dtype=self.dtype, name="fc2")(gate))
        return x * gate[:, None, None]


class OmniScaleBlock(nn.Module):
    """Four streams of one to four light convolutions, summed under one gate, and a shortcut."""

    features: int
    norm: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to [b, h, w, features]."""
        convolution = functools.partial(ConvNorm, norm=self.norm, dtype=self.dtype)
        y = convolution(self.features // 4, name="conv1")(x)
        gate = ChannelGate(self.dtype, name="gate")  # One for all streams.
        streams = []
        for depth, letter in enumerate("abcd", 1):
            stream = y
            for index in range(depth):
                name = f"conv2{letter}" if depth == 1 else f"conv2{letter}_{index}"
                stream = LightConv(self.norm, self.dtype, name=name)(stream)
            streams.append(gate(stream))
        y = convolution(self.features, rectified=False, name="conv3")(sum(streams))
        if x.shape[-1] != self.features:
            x = convolution(self.features, rectified=False, name="downsample")(x)
        return nn.relu(x + y)


class OSNet(nn.Module):
    """Omni-scale network with global average pooling, a linear layer and a BN neck.

    Attributes:
        width_multiplier: channels relative to OSNet x1.0's 64, 256, 384 and 512; 1.0, 0.75, 0.5 and
            0.25 are published.
        embedding_dim: width of the embedding, 512 in all published sizes.
        dtype: computation dtype; parameters, statistics and results stay float32.
    """

    width_multiplier: float = 1.0
    embedding_dim: int = 512
    dtype: Any = jnp.float32

    def __post_init__(self):
        """Checks the fields.

        Raises:
            ValueError: a width that cannot be built.
        """
        super().__post_init__()
        if any(channels * self.width_multiplier % 4 for channels in _CHANNELS):
            raise ValueError(
                f"width_multiplier must make each of {_CHANNELS} divisible by 4, got "
                f"{self.width_multiplier}"
            )

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Embeds images.

        Args:
            images: float [b, h, w, c] in [-1, 1]; 256 x 128 as published.
            train: use and update the batch's statistics instead of the running ones.

        Returns:
            (features, neck): float32 [b, d] before and after the last batch normalisation; features
            is torchreid's descriptor, and the neck, which torchreid lacks, is as in ResNet.
        """
        batch_norm = functools.partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5
        )
        norm = functools.partial(batch_norm, dtype=self.dtype)
        convolution = functools.partial(ConvNorm, norm=norm, dtype=self.dtype)
        stem, *stages = (int(channels * self.width_multiplier) for channels in _CHANNELS)
        x = images.astype(self.dtype)
        x = convolution(stem, kernel_size=7, stride=2, name="conv1")(x)
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for stage, channels in enumerate(stages, 2):
            for index in range(_BLOCKS):
                x = OmniScaleBlock(channels, norm, self.dtype, name=f"conv{stage}_{index}")(x)
            if stage <= len(stages):  # The last stage keeps its resolution.
                x = convolution(channels, name=f"conv{stage}_{_BLOCKS}_0")(x)
                x = nn.avg_pool(x, (2, 2), (2, 2))
        x = convolution(stages[-1], name="conv5")(x)
        x = x.astype(jnp.float32).mean(axis=(1, 2))
        x = nn.Dense(self.embedding_dim, name="fc_0")(x)
        features = nn.relu(batch_norm(name="fc_1")(x))
        return features, batch_norm(use_bias=False, name="neck")(features)


OSNetX025 = functools.partial(OSNet, width_multiplier=0.25)
