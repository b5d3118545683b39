"""How much memory an autoencoder's decoder holds while it works, told without compiling it.

The figures are those of XLA's CPU compiler at widths 8 to 256; elsewhere convolutions may want room
of their own, and these are estimates.
"""

from __future__ import annotations

import jax.numpy as jnp

from rlsyn_jax.models.autoencoder_kl import AutoencoderKL
from rlsyn_jax.models.tiny_autoencoder import TinyAutoencoder

FLOAT = 4  # Bytes.
# At once: what enters a residual block, what a convolution is given, and what it makes; of
# attention, the scores, their softmax and what lies between.
_COPIES, _ATTENTION_MAPS = 3, 3


def decoding_bytes(
    model: AutoencoderKL | TinyAutoencoder, height: int, width: int, *, on_cpu: bool
) -> int:
    """Returns the bytes that decoding one sample holds at its peak, without parameters and result.

    The largest of all resolutions counts: its activations, or the attention at the coarsest.

    Args:
        model: the autoencoder.
        height, width: of the latents.
        on_cpu: compiled by XLA's CPU compiler, which computes in float32 whatever the dtype.
    """
    size = FLOAT if on_cpu else jnp.dtype(model.dtype).itemsize
    if isinstance(model, TinyAutoencoder):
        pixels = height * width * model.factor**2
        return size * _COPIES * model.width * pixels
    places, before = height * width, model.block_out_channels[-1]
    peak = 0
    if model.mid_block_attention:
        peak = FLOAT * _ATTENTION_MAPS * places**2 + size * 2 * places * before
    for channels in reversed(model.block_out_channels):
        # A block that changes the number of channels has a shortcut beside it.
        values = max(_COPIES * before + (channels if channels != before else 0), _COPIES * channels)
        peak = max(peak, size * values * places)
        places, before = 4 * places, channels
    return peak
