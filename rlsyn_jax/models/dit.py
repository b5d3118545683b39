"""Diffusion transformer with adaLN-Zero conditioning (DiT; Peebles & Xie, arXiv 2212.09748).

Letters in comments: b batch, h w height and width of image or latent, c channels, n tokens,
d width. Submodule names follow the published PyTorch code, so that weights map one to one.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

# The published sizes, without the patch that a name ends in: DiT-XL/2 has patches of 2 x 2.
DIT_SIZES = {
    "DiT-S": {"width": 384, "depth": 12, "num_heads": 6},
    "DiT-B": {"width": 768, "depth": 12, "num_heads": 12},
    "DiT-L": {"width": 1024, "depth": 24, "num_heads": 16},
    "DiT-XL": {"width": 1152, "depth": 28, "num_heads": 16},
}
PATCH_SIZES = (2, 4, 8)
# What the backward pass finds kept of a block; see DiT.
REMAT_POLICIES = {
    "none": None,
    "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "blocks": None,
}


def dit_config(name: str) -> dict[str, int]:
    """Returns the settings of a published size, to be given to `DiT` as keywords.

    Args:
        name: "DiT-S/2" to "DiT-XL/8": one of S, B, L and XL, and a patch of 2, 4 or 8.

    Returns:
        {"width", "depth", "num_heads", "patch_size"}.

    Raises:
        ValueError: there is no such size.
    """
    size, _, patch = name.partition("/")
    if size not in DIT_SIZES or patch not in map(str, PATCH_SIZES):
        raise ValueError(
            f"{name!r} is no published size; sizes are {', '.join(DIT_SIZES)}, and patches "
            f"{', '.join(map(str, PATCH_SIZES))}, as in 'DiT-XL/2'"
        )
    return {**DIT_SIZES[size], "patch_size": int(patch)}


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def layer_norm(x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """Normalises the last axis to zero mean and unit variance, without scale or bias.

    The derivative is written out: differentiating through the mean and the variance makes XLA
    recompute long chains on a CPU, and the closed form is exact.

    Args:
        x: activations [..., d].
        epsilon: added to the variance.

    Returns:
        An array of x's shape and dtype; statistics are taken in float32.
    """
    return _layer_norm_forward(x, epsilon)[0]


def _layer_norm_forward(x, epsilon):
    centred = x.astype(jnp.float32)
    centred = centred - centred.mean(-1, keepdims=True)
    inverse_deviation = jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + epsilon)
    y = (centred * inverse_deviation).astype(x.dtype)
    return y, (y, inverse_deviation)


def _layer_norm_backward(epsilon, residuals, gradient):
    del epsilon  # Already inside the saved deviation.
    y, inverse_deviation = residuals
    dtype = gradient.dtype
    gradient, y = gradient.astype(jnp.float32), y.astype(jnp.float32)
    along_mean = gradient.mean(-1, keepdims=True)
    along_y = y * (gradient * y).mean(-1, keepdims=True)
    return ((inverse_deviation * (gradient - along_mean - along_y)).astype(dtype),)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def position_embedding(height: int, width: int, dim: int) -> np.ndarray:
    """Returns the fixed sine-cosine embedding of a token grid, [height * width, dim].

    Half of the channels code the column and half the row, as in the published DiT (which follows
    MAE). dim must be divisible by four.
    """
    if dim % 4:
        raise ValueError(f"the width must be divisible by 4 for position embeddings, got {dim}")
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")

    def one_axis(positions):
        frequencies = 1.0 / 10000 ** (np.arange(dim // 4, dtype=np.float64) / (dim // 4))
        angles = positions.reshape(-1, 1) * frequencies  # [n, d / 4]
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    return np.concatenate([one_axis(columns), one_axis(rows)], axis=1).astype(np.float32)


def timestep_features(
    timesteps: jax.Array, dim: int, max_period: float = 10000.0, *, frequency_shift: int = 0
) -> jax.Array:
    """Returns the sinusoidal features of timesteps, cosines first as in DiT.

    Args:
        timesteps: int or float [b].
        dim: number of features, even.
        max_period: the frequencies fall from 1 towards 1 / max_period.
        frequency_shift: 0 stops one step before 1 / max_period, as DiT does; 1 reaches it, as
            diffusers does.

    Returns:
        float32 [b, dim].
    """
    half = dim // 2
    steps = half - frequency_shift
    frequencies = jnp.exp(-np.log(max_period) * jnp.arange(half, dtype=jnp.float32) / steps)
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies[None]  # [b, half]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def _modulate(x, shift, scale):
    return x * (1 + scale[:, None]) + shift[:, None]


class TokenDense(nn.Module):
    """Affine map of the last axis, computed as one matrix product over all tokens.

    Gradients of three-dimensional products take XLA's slow path on CPUs; the flattened form has
    the same parameters and numbers as flax.linen.Dense.
    """

    features: int
    kernel_init: Any = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [b, n, d] to [b, n, features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        flat = rearrange(x, "b n d -> (b n) d").astype(self.dtype)
        # The barrier keeps XLA from recomputing the product inside what follows it.
        flat = jax.lax.optimization_barrier(flat @ kernel.astype(self.dtype))
        return (flat + bias.astype(self.dtype)).reshape(*x.shape[:-1], self.features)


class TimestepEmbedder(nn.Module):
    """Two-layer network on sinusoidal timestep features: [b] -> [b, d]."""

    width: int
    frequency_dim: int = 256
    frequency_shift: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, timesteps):
        """Embeds timesteps [b]."""
        normal = nn.initializers.normal(0.02)
        x = timestep_features(
            timesteps, self.frequency_dim, frequency_shift=self.frequency_shift
        ).astype(self.dtype)
        x = nn.Dense(self.width, kernel_init=normal, dtype=self.dtype, name="mlp_0")(x)
        return nn.Dense(self.width, kernel_init=normal, dtype=self.dtype, name="mlp_2")(nn.silu(x))


class LabelEmbedder(nn.Module):
    """Table of class rows: labels [b] -> [b, d]. The last row stands for "no class"."""

    num_classes: int
    width: int

    @nn.compact
    def __call__(self, class_labels):
        """Looks labels [b] up."""
        table = self.param(
            "embedding_table", nn.initializers.normal(0.02), (self.num_classes + 1, self.width)
        )
        return table[class_labels]


class Attention(nn.Module):
    """Multi-head self-attention, [b, n, d] -> [b, n, d]."""

    num_heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Mixes the tokens of x."""
        width = x.shape[-1]
        qkv = TokenDense(3 * width, dtype=self.dtype, name="qkv")(x)
        query, key, value = rearrange(
            qkv, "b n (three heads d) -> three b n heads d", three=3, heads=self.num_heads
        )
        x = rearrange(
            jax.nn.dot_product_attention(query, key, value), "b n heads d -> b n (heads d)"
        )
        return TokenDense(width, dtype=self.dtype, name="proj")(x)


class Block(nn.Module):
    """Transformer block whose normalisations are shifted, scaled and gated by the condition."""

    num_heads: int
    mlp_ratio: float = 4.0
    dtype: Any = jnp.float32
    mlp_norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x, condition):
        """Updates tokens x [b, n, d] under condition [b, d]."""
        width = x.shape[-1]
        zeros = nn.initializers.zeros
        modulation = nn.Dense(
            6 * width, kernel_init=zeros, dtype=self.dtype, name="adaLN_modulation"
        )(nn.silu(condition))
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = jnp.split(modulation, 6, axis=-1)
        h = _modulate(layer_norm(x), shift_1, scale_1)
        x = x + gate_1[:, None] * Attention(self.num_heads, self.dtype, name="attn")(h)
        h = _modulate(layer_norm(x, self.mlp_norm_epsilon), shift_2, scale_2)
        hidden = int(width * self.mlp_ratio)
        h = TokenDense(hidden, dtype=self.dtype, name="mlp_fc1")(h)
        h = TokenDense(width, dtype=self.dtype, name="mlp_fc2")(nn.gelu(h, approximate=True))
        return x + gate_2[:, None] * h


class DiT(nn.Module):
    """Class-conditional diffusion transformer on channels-last images or latents.

    Attributes:
        num_classes: class rows; label num_classes is the null class of classifier-free guidance.
        patch_size: side of a square patch in pixels of the input.
        width, depth, num_heads, mlp_ratio: transformer sizes.
        learn_sigma: also predict the variance's interpolation, which doubles the output channels.
        dtype: computation dtype; parameters stay float32.
        remat: what the backward pass computes again instead of keeping it: "none"; "products", all
            of a block but the results of its products with weights; "blocks", all but its input.
        scan_layers: compile one block and run it depth times, so that compiling takes the same time
            at any depth. The parameters of all blocks are then one tree, blocks, whose arrays have
            a leading axis of layers; `stack_blocks` and `unstack_blocks` convert.
        timestep_frequency_shift: 0 as published; 1 computes the timestep's features as diffusers'
            DiTTransformer2DModel does, which weights trained there are used to.
        mlp_norm_epsilon: of the normalisation before each block's network: 1e-6 as published;
            diffusers names it norm_eps, 1e-5 by default.
    """

    num_classes: int
    patch_size: int = 4
    width: int = 128
    depth: int = 5
    num_heads: int = 4
    mlp_ratio: float = 4.0
    learn_sigma: bool = False
    dtype: Any = jnp.float32
    remat: str = "none"
    scan_layers: bool = False
    timestep_frequency_shift: int = 0
    mlp_norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array, timesteps: jax.Array, class_labels: jax.Array) -> jax.Array:
        """Predicts the denoising target.

        Args:
            x: noisy images, float [b, h, w, c]; h and w divisible by patch_size.
            timesteps: int or float [b], 0 (least noise) to the schedule's length - 1.
            class_labels: int [b] in 0..num_classes; num_classes means "no class".

        Returns:
            float32 [b, h, w, c], or [b, h, w, 2 c] with learn_sigma (prediction first).

        Raises:
            ValueError: the input is not divisible into patches.
        """
        _, height, width, channels = x.shape
        p = self.patch_size
        if height % p or width % p:
            raise ValueError(
                f"image of {height} x {width} does not divide into patches of {p} x {p}"
            )
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not divisible by num_heads {self.num_heads}")
        rows, columns = height // p, width // p
        x = nn.Conv(
            self.width,
            (p, p),
            strides=(p, p),
            padding="VALID",
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            name="x_embedder",
        )(x.astype(self.dtype))
        x = rearrange(x, "b rows columns d -> b (rows columns) d")
        x = x + position_embedding(rows, columns, self.width).astype(self.dtype)
        condition = TimestepEmbedder(
            self.width,
            frequency_shift=self.timestep_frequency_shift,
            dtype=self.dtype,
            name="t_embedder",
        )(timesteps)
        condition = condition + LabelEmbedder(self.num_classes, self.width, name="y_embedder")(
            class_labels
        ).astype(self.dtype)
        x = self._run_blocks(x, condition)
        zeros = nn.initializers.zeros
        modulation = nn.Dense(
            2 * self.width, kernel_init=zeros, dtype=self.dtype, name="final_adaLN_modulation"
        )(nn.silu(condition))
        shift, scale = jnp.split(modulation, 2, axis=-1)
        x = _modulate(layer_norm(x), shift, scale)
        out_channels = 2 * channels if self.learn_sigma else channels
        x = TokenDense(
            p * p * out_channels, kernel_init=zeros, dtype=self.dtype, name="final_linear"
        )(x)
        x = rearrange(
            x,
            "b (rows columns) (p1 p2 c) -> b (rows p1) (columns p2) c",
            rows=rows,
            columns=columns,
            p1=p,
            p2=p,
        )
        return x.astype(jnp.float32)

    def _run_blocks(self, x, condition):
        block = Block
        if self.remat != "none":
            # A scan keeps the compiler from sharing the two passes, as a guard does outside of one.
            policy = REMAT_POLICIES[self.remat]
            block = nn.remat(Block, prevent_cse=not self.scan_layers, policy=policy)
        make = functools.partial(
            block, self.num_heads, self.mlp_ratio, self.dtype, self.mlp_norm_epsilon
        )
        if not self.scan_layers:
            for index in range(self.depth):
                x = make(name=f"blocks_{index}")(x, condition)
            return x
        scan = nn.scan(
            lambda block, x, condition: (block(x, condition), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
        )
        return scan(make(name="blocks"), x, condition)[0]


def stack_blocks(params: dict) -> dict:
    """Turns the parameters of a DiT into those of one with scan_layers.

    Args:
        params: nested dict with blocks_0, blocks_1, ...; arrays [...].

    Returns:
        The same dict with one tree, blocks, in place of them; arrays [depth, ...].

    Raises:
        ValueError: a block is missing, or there is none.
    """
    rest = {name: value for name, value in params.items() if not _is_block(name)}
    depth = len(params) - len(rest)
    missing = [i for i in range(depth) if f"blocks_{i}" not in params]
    if depth == 0 or missing:
        raise ValueError(
            "want blocks_0, blocks_1, ... without a gap, got "
            f"{sorted(name for name in params if name.startswith('blocks'))}"
        )
    blocks = [params[f"blocks_{index}"] for index in range(depth)]
    return {**rest, "blocks": jax.tree.map(lambda *values: jnp.stack(values), *blocks)}


def unstack_blocks(params: dict) -> dict:
    """Turns the parameters of a DiT with scan_layers into those of one without.

    Args:
        params: nested dict with blocks; arrays [depth, ...].

    Returns:
        The same dict with blocks_0, blocks_1, ... in place of it; arrays [...].

    Raises:
        ValueError: there is no blocks, or its arrays do not agree about the depth.
    """
    if "blocks" not in params:
        raise ValueError(f"want stacked blocks, got {sorted(params)}")
    rest = {name: value for name, value in params.items() if name != "blocks"}
    depths = {value.shape[0] for value in jax.tree.leaves(params["blocks"])}
    if len(depths) != 1:
        raise ValueError(f"the arrays of blocks have different leading axes: {sorted(depths)}")
    blocks = {
        f"blocks_{index}": jax.tree.map(lambda value, i=index: value[i], params["blocks"])
        for index in range(depths.pop())
    }
    return {**rest, **blocks}


def _is_block(name: str) -> bool:
    return name.removeprefix("blocks_").isdecimal() and name.startswith("blocks_")
