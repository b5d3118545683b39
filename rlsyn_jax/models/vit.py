"""Vision transformers that turn images into embeddings (Dosovitskiy et al., arXiv 2010.11929).

As the baseline of TransReID (He et al., arXiv 2102.04378) without camera embeddings, the class
token's feature goes through a BN neck. Letters in comments: b batch, h w height and width,
c channels, n patches, d width. Submodules have timm's names, with an underscore for a dot.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from rlsyn_jax.models.dit import Attention, TokenDense

# The published sizes, without the patch that a name ends in: ViT-B/16 has patches of 16 x 16.
VIT_SIZES = {
    "ViT-Ti": {"width": 192, "depth": 12, "num_heads": 3},
    "ViT-S": {"width": 384, "depth": 12, "num_heads": 6},
    "ViT-B": {"width": 768, "depth": 12, "num_heads": 12},
    "ViT-L": {"width": 1024, "depth": 24, "num_heads": 16},
    "ViT-H": {"width": 1280, "depth": 32, "num_heads": 16},
}
_EPSILON = 1e-6  # Of the layer normalisations; the published code's, not PyTorch's default.


def patch_grid(
    image_size: tuple[int, int], patch_size: int, patch_stride: int = 0
) -> tuple[int, int]:
    """Returns the rows and columns of patches that an image has.

    Args:
        image_size: height and width in pixels.
        patch_size: side of a square patch in pixels.
        patch_stride: pixels from one patch to the next; 0 = patch_size, no overlap.

    Returns:
        (rows, columns). With a patch_stride of its own, pixels that are left over at the lower and
        right edges are not seen, as in TransReID.

    Raises:
        ValueError: no patch fits, or patches without overlap do not fill the image.
    """
    height, width = image_size
    if min(height, width) < patch_size:
        raise ValueError(f"image of {height} x {width} holds no patch of {patch_size} pixels")
    if not patch_stride and (height % patch_size or width % patch_size):
        raise ValueError(
            f"image of {height} x {width} does not divide into patches of {patch_size} pixels"
        )
    stride = patch_stride or patch_size
    return (height - patch_size) // stride + 1, (width - patch_size) // stride + 1


class ViTBlock(nn.Module):
    """Self-attention and a two-layer network, each after a normalisation and beside a shortcut."""

    num_heads: int
    mlp_ratio: float
    dropout_rate: float
    drop_path_rate: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train):
        """Updates tokens x [b, n, d]."""
        width = x.shape[-1]
        norm = functools.partial(nn.LayerNorm, epsilon=_EPSILON, dtype=self.dtype)
        drop = functools.partial(nn.Dropout, deterministic=not train)
        dropout = functools.partial(drop, self.dropout_rate)
        # A whole branch of an image goes or stays (stochastic depth, arXiv 1603.09382).
        drop_path = functools.partial(drop, self.drop_path_rate, broadcast_dims=(1, 2))
        y = Attention(self.num_heads, self.dtype, name="attn")(norm(name="norm1")(x))
        x = x + drop_path()(dropout()(y))
        y = norm(name="norm2")(x)
        y = TokenDense(int(width * self.mlp_ratio), dtype=self.dtype, name="mlp_fc1")(y)
        y = dropout()(nn.gelu(y, approximate=False))
        y = TokenDense(width, dtype=self.dtype, name="mlp_fc2")(y)
        return x + drop_path()(dropout()(y))


class ViT(nn.Module):
    """Vision transformer with learned positions, a class token and a BN neck; ViT-B/16 by default.

    Attributes:
        patch_size: side of a square patch in pixels.
        patch_stride: pixels from one patch to the next; 0 = patch_size, no overlap.
        width, depth, num_heads, mlp_ratio: transformer sizes; VIT_SIZES has the published ones.
        dropout_rate: share of activations dropped in training.
        drop_path_rate: share of branches dropped in training in the last block; it grows linearly
            from 0 in the first.
        dtype: computation dtype; parameters, statistics and results stay float32.
    """

    patch_size: int = 16
    patch_stride: int = 0
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Embeds images.

        Args:
            images: float [b, h, w, c] in [-1, 1]; of the size that the parameters were made for.
            train: drop by the rngs' "dropout" key where a rate is above 0, and use and update the
                batch's statistics instead of the running ones.

        Returns:
            (features, neck): float32 [b, d] before and after the last batch normalisation; the
            triplet loss works on features, classification and retrieval on neck.

        Raises:
            ValueError: the images are not divisible into patches, or width into heads.
        """
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not divisible by num_heads {self.num_heads}")
        patches = np.prod(patch_grid(images.shape[1:3], self.patch_size, self.patch_stride))
        x = nn.Conv(
            self.width,
            (self.patch_size, self.patch_size),
            self.patch_stride or self.patch_size,
            padding="VALID",
            dtype=self.dtype,
            name="patch_embed",
        )(images.astype(self.dtype))
        x = rearrange(x, "b rows columns d -> b (rows columns) d")
        normal = nn.initializers.truncated_normal(0.02)
        class_token = self.param("cls_token", normal, (1, 1, self.width))
        positions = self.param("pos_embed", normal, (1, 1 + patches, self.width))
        class_token = jnp.broadcast_to(class_token, (len(x), 1, self.width))
        x = jnp.concatenate([class_token.astype(self.dtype), x], axis=1)
        x = x + positions.astype(self.dtype)  # [b, 1 + n, d]
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        for index, rate in enumerate(np.linspace(0, self.drop_path_rate, self.depth)):
            x = ViTBlock(
                self.num_heads,
                self.mlp_ratio,
                self.dropout_rate,
                float(rate),
                self.dtype,
                name=f"blocks_{index}",
            )(x, train)
        features = nn.LayerNorm(epsilon=_EPSILON, name="norm")(x[:, 0].astype(jnp.float32))
        neck = nn.BatchNorm(
            use_running_average=not train, momentum=0.9, use_bias=False, name="neck"
        )(features)
        return features, neck
