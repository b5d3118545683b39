"""Residual networks that turn images into embeddings (He et al., arXiv 1512.03385).

`ResNet50` is the standard one for person images; `SmallResNet` serves images of 24 to 64 pixels on
a CPU. Letters in comments: b batch, h w height and width, c channels, d embedding.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    features: int
    stride: int
    norm: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to [b, h / stride, w / stride, features]."""
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
        y = conv(self.features, (3, 3), self.stride, padding=1)(x)
        y = nn.relu(self.norm()(y))
        y = conv(self.features, (3, 3), padding=1)(y)
        y = self.norm()(y)
        if x.shape != y.shape:
            x = self.norm()(conv(self.features, (1, 1), self.stride)(x))
        return nn.relu(x + y)


class BottleneckBlock(nn.Module):
    """1 x 1, 3 x 3 (with the stride) and 1 x 1 convolutions to 4 * features, and a shortcut."""

    features: int
    stride: int
    norm: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to [b, h / stride, w / stride, 4 * features]."""
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
        y = nn.relu(self.norm()(conv(self.features, (1, 1))(x)))
        y = nn.relu(self.norm()(conv(self.features, (3, 3), self.stride, padding=1)(y)))
        y = self.norm()(conv(4 * self.features, (1, 1))(y))
        if x.shape != y.shape:
            x = self.norm()(conv(4 * self.features, (1, 1), self.stride)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Residual network with global average pooling, an optional embedding layer and a BN neck.

    Attributes:
        stage_sizes: blocks of each stage.
        block: BasicBlock or BottleneckBlock.
        width: channels of the first stage; each stage doubles them.
        stem: "large" (7 x 7 stride 2 and max pooling), "small" (3 x 3) or "strided" (3 x 3, stride
            2: a quarter of the work, for CPUs).
        last_stride: stride of the last stage; 1 keeps resolution, as re-identification likes.
        embedding_dim: width of a linear layer after pooling; 0 = none.
        dtype: computation dtype; parameters and statistics stay float32.
    """

    stage_sizes: Sequence[int]
    block: Any
    width: int = 64
    stem: str = "large"
    last_stride: int = 2
    embedding_dim: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Embeds images.

        Args:
            images: float [b, h, w, c] in [-1, 1].
            train: use and update the batch's statistics instead of the running ones.

        Returns:
            (features, neck): float32 [b, d] before and after the last batch normalisation; the
            triplet loss works on features, classification and retrieval on neck.
        """
        norm = functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
        )
        x = images.astype(self.dtype)
        if self.stem == "large":
            x = nn.Conv(self.width, (7, 7), 2, padding=3, use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(norm()(x))
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        else:
            stride = 2 if self.stem == "strided" else 1
            x = nn.Conv(self.width, (3, 3), stride, padding=1, use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(norm()(x))
        for stage, size in enumerate(self.stage_sizes):
            last = stage == len(self.stage_sizes) - 1
            for index in range(size):
                stride = 2 if stage > 0 and index == 0 else 1
                if last and index == 0 and stage > 0:
                    stride = self.last_stride
                x = self.block(self.width * 2**stage, stride, norm, self.dtype)(x)
        features = x.astype(jnp.float32).mean(axis=(1, 2))
        if self.embedding_dim:
            features = nn.Dense(self.embedding_dim, name="embedding")(features)
        neck = nn.BatchNorm(
            use_running_average=not train, momentum=0.9, use_bias=False, name="neck"
        )(features)
        return features, neck


ResNet50 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BottleneckBlock)
SmallResNet = functools.partial(
    ResNet, stage_sizes=(1, 1, 1), block=BasicBlock, width=24, stem="strided", embedding_dim=128
)
