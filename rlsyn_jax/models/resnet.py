"""Residual networks that turn images into embeddings (He et al., arXiv 1512.03385).

`ResNet50` is the standard one for person images, and `ResNet50IBN` also normalises each
image by itself; `SmallResNet` serves images of 24 to 64 pixels on a CPU. Letters in comments:
b batch, h w height and width, c channels, d embedding.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

FRESH_POWER = 3.0  # Of generalised mean pooling, before any training.


class InstanceBatchNorm(nn.Module):
    """Instance normalisation of the first half of the channels, and `norm` of the second.

    IBN-a of Pan et al., arXiv 1807.09441: an image's own look is taken out of half of the channels,
    which carries over to other cameras.
    """

    norm: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to the same shape."""
        half = x.shape[-1] // 2
        instance_norm = nn.InstanceNorm(epsilon=1e-5, dtype=self.dtype, name="IN")
        return jnp.concatenate(
            [instance_norm(x[..., :half]), self.norm(name="BN")(x[..., half:])], axis=-1
        )


class GeneralizedMeanPooling(nn.Module):
    """Mean over places of x^p, to the power of 1 / p, with a learned p.

    Radenovic et al., arXiv 1711.02512: p = 1 is the average, a large p nears the maximum.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x):
        """Maps float32 [b, h, w, c] to [b, c]; what is below epsilon counts as epsilon."""
        p = self.param("p", nn.initializers.constant(FRESH_POWER), (1,))
        return (jnp.maximum(x, self.epsilon) ** p).mean(axis=(1, 2)) ** (1 / p)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    features: int
    stride: int
    norm: Any
    dtype: Any = jnp.float32
    first_norm: Any = None  # None: norm.

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to [b, h / stride, w / stride, features]."""
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
        y = conv(self.features, (3, 3), self.stride, padding=1)(x)
        y = nn.relu((self.first_norm or self.norm)()(y))
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
    first_norm: Any = None  # None: norm.

    @nn.compact
    def __call__(self, x):
        """Maps [b, h, w, c] to [b, h / stride, w / stride, 4 * features]."""
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
        y = conv(self.features, (1, 1))(x)
        y = nn.relu((self.first_norm or self.norm)()(y))
        y = nn.relu(self.norm()(conv(self.features, (3, 3), self.stride, padding=1)(y)))
        y = self.norm()(conv(4 * self.features, (1, 1))(y))
        if x.shape != y.shape:
            x = self.norm()(conv(4 * self.features, (1, 1), self.stride)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Residual network with global pooling, an optional embedding layer and a BN neck.

    Attributes:
        stage_sizes: blocks of each stage.
        block: BasicBlock or BottleneckBlock.
        width: channels of the first stage; each stage doubles them.
        stem: "large" (7 x 7 stride 2 and max pooling), "small" (3 x 3) or "strided" (3 x 3, stride
            2: a quarter of the work, for CPUs).
        last_stride: stride of the last stage; 1 keeps resolution, as re-identification likes.
        embedding_dim: width of a linear layer after pooling; 0 = none.
        instance_norm_stages: how many stages, from the first, have blocks whose first normalisation
            is half instance, half batch (IBN-a, which takes 3 of 4 stages); 0 = none.
        pooling: "mean", or "gem" for a generalised mean of a learned power.
        dtype: computation dtype; parameters and statistics stay float32.
    """

    stage_sizes: Sequence[int]
    block: Any
    width: int = 64
    stem: str = "large"
    last_stride: int = 2
    embedding_dim: int = 0
    instance_norm_stages: int = 0
    pooling: str = "mean"
    dtype: Any = jnp.float32

    def __post_init__(self):
        """Checks the fields.

        Raises:
            ValueError: an unknown pooling, or more stages with instance normalisation than stages.
        """
        super().__post_init__()
        if self.pooling not in ("mean", "gem"):
            raise ValueError(f"pooling must be 'mean' or 'gem', got {self.pooling!r}")
        if not 0 <= self.instance_norm_stages <= len(self.stage_sizes):
            raise ValueError(
                f"instance_norm_stages must be 0 to {len(self.stage_sizes)}, the number of stages, "
                f"got {self.instance_norm_stages}"
            )

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
        half_instance = functools.partial(InstanceBatchNorm, norm, self.dtype)
        for stage, size in enumerate(self.stage_sizes):
            first_norm = half_instance if stage < self.instance_norm_stages else norm
            last = stage == len(self.stage_sizes) - 1
            for index in range(size):
                stride = 2 if stage > 0 and index == 0 else 1
                if last and index == 0 and stage > 0:
                    stride = self.last_stride
                x = self.block(self.width * 2**stage, stride, norm, self.dtype, first_norm)(x)
        x = x.astype(jnp.float32)
        if self.pooling == "gem":
            features = GeneralizedMeanPooling(name="gem")(x)
        else:
            features = x.mean(axis=(1, 2))
        if self.embedding_dim:
            features = nn.Dense(self.embedding_dim, name="embedding")(features)
        neck = nn.BatchNorm(
            use_running_average=not train, momentum=0.9, use_bias=False, name="neck"
        )(features)
        return features, neck


ResNet50 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BottleneckBlock)
ResNet50IBN = functools.partial(ResNet50, instance_norm_stages=3)
SmallResNet = functools.partial(
    ResNet, stage_sizes=(1, 1, 1), block=BasicBlock, width=24, stem="strided", embedding_dim=128
)
