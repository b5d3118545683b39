"""Tiles against decoding the whole: the same where a decoder looks at few places, and no seams."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsyn_jax.models.tiled_decoding import blend_weights, decode_tiled, tile_starts

FACTOR = 2


def decode_pointwise(latents):
    """Each latent place decides on its own pixels, unequal ones."""
    channels = [1 + k for k in range(FACTOR * FACTOR)]
    pixels = latents.sum(-1)[..., None] * jnp.asarray(channels, latents.dtype)
    batch, height, width, _ = pixels.shape
    pixels = pixels.reshape(batch, height, width, FACTOR, FACTOR).swapaxes(2, 3)
    return pixels.reshape(batch, FACTOR * height, FACTOR * width, 1)


def make_latents(height, width, batch=2, channels=3):
    random = np.random.default_rng(height * 100 + width)
    return jnp.asarray(random.normal(size=(batch, height, width, channels)), jnp.float32)


def draw_axis(length, tile, overlap):
    tile = min(tile, length)
    return tile, tile_starts(length, tile, min(overlap, tile // 2))


@settings(max_examples=100, deadline=None)
@given(length=st.integers(1, 90), tile=st.integers(1, 40), overlap=st.integers(0, 20))
def test_tiles_cover_the_axis_share_enough_and_are_as_few_as_can_be(length, tile, overlap):
    tile, starts = draw_axis(length, tile, overlap)
    overlap = min(overlap, tile // 2)
    assert starts[0] == 0 and starts[-1] == length - tile
    steps = np.diff(starts)
    assert (steps > 0).all() and (steps <= tile - overlap).all()
    assert len(starts) == 1 or (len(starts) - 2) * (tile - overlap) + tile < length


@settings(max_examples=100, deadline=None)
@given(length=st.integers(1, 90), tile=st.integers(1, 40), overlap=st.integers(0, 20))
def test_weights_are_positive_and_sum_to_one_at_every_place(length, tile, overlap):
    tile, starts = draw_axis(length, tile, overlap)
    weights = blend_weights(starts, tile)
    total = np.zeros(length)
    for start, weight in zip(starts, weights):
        total[start : start + tile] += weight
    assert (weights > 0).all()
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_two_tiles_blend_linearly():
    weights = blend_weights(np.array([0, 4]), 8)
    rise = np.array([1, 3, 5, 7]) / 8
    np.testing.assert_allclose(weights[0], [1, 1, 1, 1, *(1 - rise)])
    np.testing.assert_allclose(weights[1], [*rise, 1, 1, 1, 1])


@pytest.mark.parametrize(
    ("height", "width", "tile", "overlap"),
    [(9, 14, 5, 2), (5, 23, 5, 1), (16, 16, 8, 4), (17, 3, 6, 3), (12, 12, 4, 0), (15, 8, 8, 2)],
)
def test_a_pointwise_decoder_gives_the_same_in_tiles(height, width, tile, overlap):
    latents = make_latents(height, width)
    images = jax.jit(
        functools.partial(decode_tiled, decode_pointwise, tile_size=tile, overlap=overlap)
    )(latents)
    assert images.shape == (2, FACTOR * height, FACTOR * width, 1)
    np.testing.assert_allclose(images, decode_pointwise(latents), rtol=1e-5, atol=1e-5)


def test_one_tile_is_plain_decoding():
    latents = make_latents(4, 7)
    for tile_size in (7, 50):
        images = decode_tiled(decode_pointwise, latents, tile_size=tile_size, overlap=3)
        np.testing.assert_array_equal(images, decode_pointwise(latents))


def test_the_decoder_is_traced_for_one_tile_shape_only():
    seen = []

    def decode(latents):
        seen.append(latents.shape)
        return decode_pointwise(latents)

    jax.eval_shape(lambda z: decode_tiled(decode, z, tile_size=8, overlap=2), make_latents(30, 5))
    assert set(seen) == {(2, 8, 5, 3)}


def test_the_result_has_the_decoders_dtype():
    latents = make_latents(9, 9).astype(jnp.bfloat16)
    images = decode_tiled(decode_pointwise, latents, tile_size=4, overlap=2)
    assert images.dtype == jnp.bfloat16


REACH = 2  # Latent places to each side that a pixel of this decoder depends on.


def decode_with_neighbours(latents):
    kernel = np.random.default_rng(5).normal(size=(2 * REACH + 1, 2 * REACH + 1, 3, 3))
    return decode_pointwise(
        jax.lax.conv_general_dilated(
            latents,
            jnp.asarray(kernel, latents.dtype),
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    )


def test_what_a_tile_cannot_see_counts_little_and_only_at_its_borders():
    latents = make_latents(20, 12)
    whole = np.asarray(decode_with_neighbours(latents))

    def errors(overlap):
        decode = functools.partial(decode_tiled, decode_with_neighbours, tile_size=12)
        return np.abs(decode(latents, overlap=overlap) - whole).max(axis=(0, 2, 3))

    # Two tiles of 12 places share places 8 to 11, which are pixels 16 to 23.
    soft, width = errors(4), 4 * FACTOR
    assert len(soft) == 20 * FACTOR and whole.std() > 1
    blind = np.zeros(len(soft), bool)
    blind[16 : 16 + REACH * FACTOR] = blind[24 - REACH * FACTOR : 24] = True
    np.testing.assert_allclose(soft[~blind], 0, atol=1e-4)
    first, _ = (
        np.abs(decode_with_neighbours(part) - whole[:, rows])
        for part, rows in ((latents[:, :12], slice(0, 24)), (latents[:, 8:], slice(16, 40)))
    )
    hard = first.max(axis=(0, 2, 3))[24 - REACH * FACTOR :]
    weights = (np.arange(REACH * FACTOR)[::-1] + 0.5) / width
    np.testing.assert_allclose(soft[24 - REACH * FACTOR : 24], weights * hard, rtol=1e-3)
    assert hard.min() > 10 and (weights <= 0.5).all()


@pytest.mark.parametrize(
    ("latents", "options", "message"),
    [
        (np.zeros((4, 4, 3)), {}, r"latents must be \[b, h, w, c\], got \[4, 4, 3\]"),
        (np.zeros((1, 0, 4, 3)), {}, r"got \[1, 0, 4, 3\]"),
        (np.zeros((1, 4, 4, 3)), {"tile_size": 0}, "tile_size 0 and overlap 1"),
        (np.zeros((1, 4, 4, 3)), {"overlap": -1}, "tile_size 3 and overlap -1"),
        (np.zeros((1, 4, 4, 3)), {"overlap": 2}, "tile_size 3 and overlap 2"),
    ],
)
def test_what_cannot_be_tiled_is_refused(latents, options, message):
    with pytest.raises(ValueError, match=message):
        decode_tiled(decode_pointwise, latents, **{"tile_size": 3, "overlap": 1} | options)


def test_a_decoder_without_one_whole_factor_is_refused():
    for decode in (lambda z: z[:, 1:], lambda z: z[:, :, ::2], lambda z: z[:, ::2, ::2]):
        with pytest.raises(ValueError, match="multiply height and width by one whole factor"):
            decode_tiled(decode, make_latents(6, 6), tile_size=3, overlap=1)
