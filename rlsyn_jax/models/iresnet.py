"""Improved residual networks that turn aligned faces into embeddings (IR, of arXiv 1801.07698).

As InsightFace trains and publishes them: blocks that begin with a normalisation, parametric
rectifiers, no pooling, and a linear layer over all places of the last stage. Letters in comments:
b batch, h w height and width, c channels, d embedding. Submodules have InsightFace's names, with an
underscore for a dot.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange


class ChannelPReLU(nn.Module):
    """Rectifier that keeps a learned share of what is below zero, one for each channel."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [..., c] to the same shape."""
        slope = self.param("negative_slope", nn.initializers.constant(0.25), (x.shape[-1],))
        return jnp.where(x >= 0, x, slope.astype(self.dtype) * x)


class IResNetBlock(nn.Module):
    """Normalisation, two 3 x 3 convolutions (the second with the stride), and a shortcut."""

    features: int
    stride: int
    norm: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to [b, h / stride, w / stride, features]."""
        conv = _convolution(self.dtype)
        y = self.norm(name="bn1")(x)
        y = conv(self.features, (3, 3), padding=1, name="conv1")(y)
        y = ChannelPReLU(self.dtype, name="prelu")(self.norm(name="bn2")(y))
        y = conv(self.features, (3, 3), self.stride, padding=1, name="conv2")(y)
        y = self.norm(name="bn3")(y)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = conv(self.features, (1, 1), self.stride, name="downsample_0")(x)
            x = self.norm(name="downsample_1")(x)
        return x + y


class IResNet(nn.Module):
    """IResNet with dropout, a linear layer and a last batch normalisation; IResNet-50 by default.

    Attributes:
        stage_sizes: blocks of each stage; every stage halves height and width.
        width: channels of the first stage; each stage doubles them.
        embedding_dim: width of the embedding.
        dropout_rate: share of the last stage's activations dropped in training.
        dtype: computation dtype; parameters, statistics and results stay float32.
    """

    stage_sizes: Sequence[int] = (3, 4, 14, 3)
    width: int = 64
    embedding_dim: int = 512
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Embeds images.

        Args:
            images: float [b, h, w, c] in [-1, 1], RGB; 112 x 112 as published, and always of the
                size that the parameters were made for.
            train: drop by the rngs' "dropout" key where the rate is above 0, and use and update the
                batch's statistics instead of the running ones.

        Returns:
            (features, neck): float32 [b, d] before and after the last batch normalisation; neck is
            the published embedding. The normalisation has a bias and a fixed scale of 1.
        """
        batch_norm = functools.partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5
        )
        norm = functools.partial(batch_norm, dtype=self.dtype)
        x = images.astype(self.dtype)
        x = _convolution(self.dtype)(self.width, (3, 3), padding=1, name="conv1")(x)
        x = ChannelPReLU(self.dtype, name="prelu")(norm(name="bn1")(x))
        for stage, size in enumerate(self.stage_sizes):
            for index in range(size):
                block = functools.partial(IResNetBlock, name=f"layer{stage + 1}_{index}")
                stride = 2 if index == 0 else 1
                x = block(self.width * 2**stage, stride, norm, self.dtype)(x)
        x = norm(name="bn2")(x)
        # The linear layer's inputs are in the published order: channels, rows, columns.
        x = rearrange(x, "b h w c -> b (c h w)").astype(jnp.float32)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        features = nn.Dense(self.embedding_dim, name="fc")(x)
        return features, batch_norm(use_scale=False, name="features")(features)


def _convolution(dtype: Any) -> Any:
    """Returns nn.Conv as published: no bias, and initial weights of deviation 0.1."""
    return functools.partial(
        nn.Conv, use_bias=False, kernel_init=nn.initializers.normal(0.1), dtype=dtype
    )


IResNet18 = functools.partial(IResNet, stage_sizes=(2, 2, 2, 2))
IResNet50 = functools.partial(IResNet, stage_sizes=(3, 4, 14, 3))
IResNet100 = functools.partial(IResNet, stage_sizes=(3, 13, 30, 3))
