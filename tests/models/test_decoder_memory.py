"""The memory of decoding that is told beforehand, against the compiler's own figure."""

import jax
import jax.numpy as jnp
import pytest

from rlsyn_jax.models.autoencoder_kl import AutoencoderKL
from rlsyn_jax.models.decoder_memory import decoding_bytes
from rlsyn_jax.models.tiny_autoencoder import TinyAutoencoder


def predicted_over_compiled(model, height, width, batch):
    images = jax.ShapeDtypeStruct((1, model.factor, model.factor, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    latents = jax.ShapeDtypeStruct((batch, height, width, model.latent_channels), jnp.float32)
    decode = jax.jit(lambda p, z: model.apply({"params": p}, z, method="decode"))
    analysis = decode.lower(params, latents).compile().memory_analysis()
    predicted = batch * decoding_bytes(model, height, width, on_cpu=True)
    return predicted / analysis.temp_size_in_bytes


def kl(*channels, layers=1, **fields):
    return AutoencoderKL(channels, layers, norm_num_groups=8, **fields)


@pytest.mark.parametrize(
    ("model", "height", "width", "batch"),
    [
        (kl(16, 32), 16, 8, 4),  # Attention is the largest.
        (kl(16, 32, 64, layers=2), 8, 8, 2),  # The finest resolution, which changes its width.
        (kl(16, 16, 128, mid_block_attention=False), 8, 8, 4),  # A resolution between.
        (kl(64, 16), 8, 8, 4),
        (TinyAutoencoder(width=32), 4, 6, 8),
    ],
)
def test_decoding_is_predicted(model, height, width, batch):
    assert predicted_over_compiled(model, height, width, batch) == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_decoding_by_stable_diffusion_s_autoencoder_is_predicted():
    assert predicted_over_compiled(AutoencoderKL(), 32, 32, 2) == pytest.approx(1, abs=0.15)


def test_half_of_the_bits_take_half_of_the_memory_on_accelerators_alone():
    whole, half = (kl(16, 32, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    on_cpu = [decoding_bytes(model, 4, 4, on_cpu=True) for model in (whole, half)]
    elsewhere = [decoding_bytes(model, 4, 4, on_cpu=False) for model in (whole, half)]
    assert on_cpu[0] == on_cpu[1] == elsewhere[0] == 2 * elsewhere[1]
