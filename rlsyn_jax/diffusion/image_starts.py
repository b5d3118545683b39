"""Sampling that begins with real images, noised part of the way, in place of noise alone.

SDEdit (Meng et al., 2108.01073): the process is entered at the timestep `strength` of the way to
noise with x_t = sqrt(alpha_bar_t) image + sqrt(1 - alpha_bar_t) noise, and from there on sampling
is what it always is. DA-Fusion (Trabucco et al., 2302.07944) varies the few images of a class so:
what is drawn keeps the class, and the less of its image the higher the strength.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from rlsyn_jax.diffusion.samplers import initial_noise


@flax.struct.dataclass
class ImageStarts:
    """The images of each class that sampling may begin with.

    Attributes:
        images: float32 [classes, r, h, w, c], clean samples; a class with fewer than r has zeros
            behind them.
        counts: int32 [classes], images of each class.
    """

    images: jax.Array | np.ndarray
    counts: jax.Array | np.ndarray

    def padded_to(self, multiple: int) -> ImageStarts:
        """Returns the starts with empty classes behind, on the host, to divide over devices."""
        empty = -len(self.counts) % multiple
        return ImageStarts(
            images=np.pad(self.images, ((0, empty), (0, 0), (0, 0), (0, 0), (0, 0))),
            counts=np.pad(self.counts, (0, empty), constant_values=1),
        )


def noised_images(starts: ImageStarts, alpha_bar: jax.Array) -> Callable:
    """Returns the start of a sampler: (key, sample_ids [b], class_labels [b]) -> x_t [b, h, w, c].

    Sample i begins with image i of its class, counted around: numbers that follow each other use
    all alike. Its noise is that of the sampler's ordinary start.

    Args:
        starts: of all classes.
        alpha_bar: scalar, signal power of the first step's x_t.
    """
    all_images, counts = jnp.asarray(starts.images), jnp.asarray(starts.counts)
    shape = all_images.shape[2:]

    def start(key, sample_ids, class_labels):
        images = all_images[class_labels, sample_ids % counts[class_labels]]
        noise = initial_noise(key, sample_ids, shape)
        return jnp.sqrt(alpha_bar) * images + jnp.sqrt(1 - alpha_bar) * noise

    return start
