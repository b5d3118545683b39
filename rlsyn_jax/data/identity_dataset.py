"""What an identity data set is: images of one size, who is in them, which camera took them."""

from __future__ import annotations

import dataclasses
import enum

import jax
import jax.numpy as jnp
import numpy as np

from rlsyn_jax.data.stored_images import StoredImages


class Subset(enum.IntEnum):
    """What an image is for in a data set whose split is published."""

    TRAIN = 0
    QUERY = 1
    GALLERY = 2
    DISTRACTOR = 3  # In the gallery, and of none of the people searched for.


@dataclasses.dataclass(frozen=True)
class IdentityDataset:
    """Images with identity labels and cameras, checked when made.

    Attributes:
        name: what to call the data set in logs and reports.
        images: uint8 [n, height, width, channels], channels 1 or 3; read from disk where they do
            not fit into memory.
        identities: int32 [n], 0..num_identities - 1.
        cameras: int32 [n], 0 or more; all 0 where cameras are not known.
        identity_names: one name an identity.
        file_names: one name an image.
        has_cameras: whether cameras are known.
        subsets: int8 [n], a `Subset` an image, where the data set comes with a published split;
            else None. Distractors carry a label of their own, which is nobody's.
    """

    name: str
    images: np.ndarray | StoredImages
    identities: np.ndarray
    cameras: np.ndarray
    identity_names: tuple[str, ...]
    file_names: tuple[str, ...]
    has_cameras: bool = True
    subsets: np.ndarray | None = None

    def __post_init__(self):
        """Checks that the parts fit together.

        Raises:
            ValueError: names the data set, the part and what would be right.
        """
        images = self.images
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise ValueError(
                f"{self.name}: images must be uint8 [n, height, width, 1 or 3], got "
                f"{images.dtype} {images.shape}"
            )
        if len(images) == 0:
            raise ValueError(f"{self.name}: there is no image; at least one is needed")
        for part in ("identities", "cameras"):
            labels = getattr(self, part)
            if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
                raise ValueError(
                    f"{self.name}: {part} must be integers [{len(images)}], one an image, got "
                    f"{labels.dtype} {labels.shape}"
                )
            if labels.min() < 0:
                raise ValueError(f"{self.name}: {part} must be 0 or more, got {labels.min()}")
            object.__setattr__(self, part, labels.astype(np.int32))
        if self.identities.max() >= len(self.identity_names):
            raise ValueError(
                f"{self.name}: identity {self.identities.max()} has no name; there are "
                f"{len(self.identity_names)} names"
            )
        if len(self.file_names) != len(images):
            raise ValueError(
                f"{self.name}: {len(self.file_names)} file names for {len(images)} images"
            )
        if self.subsets is not None:
            known = np.isin(self.subsets, list(Subset))
            if self.subsets.shape != (len(images),) or not known.all():
                raise ValueError(
                    f"{self.name}: subsets must be [{len(images)}], each 0 to {max(Subset)}, got "
                    f"{self.subsets.shape} with {np.unique(self.subsets)}"
                )
            object.__setattr__(self, "subsets", self.subsets.astype(np.int8))

    @property
    def num_identities(self) -> int:
        """Number of identities, also of those without an image in a subset."""
        return len(self.identity_names)

    def subset(self, indices: np.ndarray, *, relabel: bool = False) -> IdentityDataset:
        """Returns the images at indices [m]; relabel numbers the identities left from 0 on."""
        indices = np.asarray(indices)
        stored = isinstance(self.images, StoredImages)
        images = self.images.take(indices) if stored else self.images[indices]
        identities, names = self.identities[indices], self.identity_names
        if relabel:
            kept, identities = np.unique(identities, return_inverse=True)
            names = tuple(names[i] for i in kept)
        return dataclasses.replace(
            self,
            images=images,
            identities=identities.astype(np.int32),
            cameras=self.cameras[indices],
            identity_names=names,
            file_names=tuple(self.file_names[i] for i in indices),
            subsets=None if self.subsets is None else self.subsets[indices],
        )


def to_device_range(images: jax.Array) -> jax.Array:
    """Maps uint8 images to float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: jax.Array) -> jax.Array:
    """Maps float images in [-1, 1] (clipped) to uint8, rounding to the nearest."""
    return jnp.round((jnp.clip(images, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
