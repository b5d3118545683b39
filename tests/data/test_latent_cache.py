"""Latents on disk: what was encoded comes back, and what was begun is gone on with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.data.batches import BatchIterator
from rlsyn_jax.data.latent_cache import LatentCache, draw_latents, encode_dataset
from rlsyn_jax.training.meshes import make_mesh

SHAPE = (2, 3, 5)
MADE_FROM = {"autoencoder": "first", "size": 8}


def images(number=11):
    return np.random.default_rng(0).integers(0, 256, (number, 4, 6, 1)).astype(np.uint8)


def encode(batch):
    """Means tell the image and where its left is; log-variances are other numbers."""
    values = jnp.asarray(batch, jnp.float32)[:, ::2, ::2] / 64  # [b, 2, 3, 1]
    mean = values * jnp.arange(1, 6)
    return mean, -mean - 1


class Encoder:
    """Counts the batches that are encoded, and fails at one of them."""

    def __init__(self, fails_at=None):
        self.batches, self._fails_at = 0, fails_at

    def __call__(self, batch):
        if self.batches == self._fails_at:
            raise KeyboardInterrupt
        self.batches += 1
        return encode(batch)


def write(folder, encoder=encode, **changed):
    options = {
        "encode": encoder,
        "latent_shape": SHAPE,
        "made_from": MADE_FROM,
        "mirrored": True,
        "batch_size": 2,
        "shard_images": 4,
    }
    encode_dataset(images(), folder, **{**options, **changed})


def expected():
    views = [np.stack(encode(view), 1) for view in (images(), images()[:, :, ::-1])]
    return np.stack(views, 1).astype(np.float16)  # [n, v, 2, h, w, c]


def test_latents_of_both_views_come_back_in_any_order(tmp_path):
    write(tmp_path / "a")
    cache = LatentCache(tmp_path / "a")
    assert cache.shape == expected().shape and cache.dtype == np.float16
    order = np.array([10, 3, 3, 0])
    np.testing.assert_array_equal(cache[order], expected()[order])
    np.testing.assert_array_equal(cache[7], expected()[7])
    np.testing.assert_array_equal(cache[2:5], expected()[2:5])
    assert cache[np.array([], int)].shape == (0, *cache.shape[1:])
    with pytest.raises(IndexError, match="there are 11"):
        cache[np.array([0, 11])]


def test_without_mirror_images_there_is_one_view(tmp_path):
    write(tmp_path / "a", mirrored=False)
    np.testing.assert_array_equal(LatentCache(tmp_path / "a")[:], expected()[:, :1])


def test_encoding_goes_on_at_the_shard_that_was_not_whole(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", Encoder(fails_at=5))  # Two views a batch, two batches a shard.
    with pytest.raises(ValueError, match="not a complete cache"):
        LatentCache(tmp_path / "a")
    assert len(list((tmp_path / "a").glob("*.array_record"))) == 1
    assert not list((tmp_path / "a").glob("*.partial"))
    rest, told = Encoder(), []
    write(tmp_path / "a", rest, progress=told.append)
    assert rest.batches == 8 and told == [4, 6, 8, 10, 11]
    np.testing.assert_array_equal(LatentCache(tmp_path / "a")[:], expected())
    nothing = Encoder()
    write(tmp_path / "a", nothing)
    assert nothing.batches == 0


def test_two_runs_that_encode_the_same_do_not_share_an_unfinished_file(tmp_path):
    """As of two containers, in which both processes have one number."""

    def meanwhile(batch):
        if not other.batches:
            write(tmp_path / "a", other)
        return encode(batch)

    other = Encoder()
    write(tmp_path / "a", meanwhile)
    np.testing.assert_array_equal(LatentCache(tmp_path / "a")[:], expected())
    assert not list((tmp_path / "a").glob("*.partial"))


def test_processes_share_the_shards(tmp_path):
    first, second = Encoder(), Encoder()
    write(tmp_path / "a", first, process=(0, 2))
    write(tmp_path / "a", second, process=(1, 2))
    assert (first.batches, second.batches) == (8, 4)
    np.testing.assert_array_equal(LatentCache(tmp_path / "a")[:], expected())


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"made_from": {**MADE_FROM, "autoencoder": "second"}}, "autoencoder: 'first' there, 'sec"),
        ({"made_from": {**MADE_FROM, "size": 16}}, "size: 8 there, 16 now"),
        ({"mirrored": False}, "record_shape"),
        ({"shard_images": 3}, "shard_images: 4 there, 3 now"),
    ],
)
def test_latents_of_something_else_are_refused(tmp_path, changed, told):
    write(tmp_path / "a")
    with pytest.raises(ValueError, match=told):
        write(tmp_path / "a", **changed)
    np.testing.assert_array_equal(LatentCache(tmp_path / "a")[:], expected())


def test_latents_that_are_not_finite_are_told_with_the_image(tmp_path):
    def broken(batch):
        mean, log_variance = encode(batch)
        return mean.at[1, 0, 0, 0].set(jnp.nan), log_variance

    with pytest.raises(FloatingPointError, match="latents of image 1 "):
        write(tmp_path / "a", broken)


def test_a_disk_without_room_is_told(tmp_path, mounted):
    with mounted(tmp_path / "small", "size=64k") as folder, pytest.raises(OSError, match="latents"):
        write(folder / "a")


def test_drawn_latents_have_the_mean_and_variance_of_each_view():
    mean = np.stack([np.zeros((2, 3)), np.ones((2, 3))])[:, :, :, None]  # [v, h, w, c]
    log_variance = np.log([0.25, 0.01])[:, None, None, None] * np.ones_like(mean)
    records = np.stack([mean, log_variance], 1)[None].repeat(4000, 0)
    drawn = np.asarray(draw_latents(jax.random.key(0), jnp.asarray(records, jnp.float16)))
    assert drawn.shape == (4000, 2, 3, 1) and drawn.dtype == np.float32
    # All places of an image are of one view.
    second = np.median(drawn.reshape(4000, -1), axis=1) > 0.8
    near_half = second.mean()
    assert 0.45 < near_half < 0.6
    np.testing.assert_allclose(drawn[second].std(), 0.1, rtol=0.6)
    np.testing.assert_allclose(drawn[~second].std(), 0.5, rtol=0.1)
    assert abs(drawn[~second].mean()) < 0.05


def test_batches_read_latents_from_disk_as_from_memory(tmp_path):
    write(tmp_path / "a")
    labels = np.arange(11)
    options = {"batch_size": 4, "seed": 3, "mesh": make_mesh(devices=jax.devices()[:2])}
    on_disk = BatchIterator(LatentCache(tmp_path / "a"), labels, **options)
    in_memory = BatchIterator(expected(), labels, **options)
    for _ in range(4):
        one, other = next(on_disk), next(in_memory)
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["identity"], other["identity"])
