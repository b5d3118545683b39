"""Unit reference features of real images, one padded row of them for each identity."""

from __future__ import annotations

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from rlsyn_jax.data.padded_groups import padded_groups


@flax.struct.dataclass
class ReferenceBank:
    """The real features that rewards compare samples with, on the host until they are placed.

    Attributes:
        features: float32 [identities, max_references, dim]; rows have unit norm, padding is zero.
        mask: bool [identities, max_references]; True where a feature is real. The references of
            an identity come first, padding follows.
        identities: int32 [identities], the label of each row; -1 for a row of `padded_to`.
        total_variance: float32 [identities], trace of the covariance of an identity's features; of
            one with a single feature the mean over those of the whole bank, of which this may be a
            part, that have more, or NaN where none has.
    """

    features: jax.Array
    mask: jax.Array
    identities: jax.Array
    total_variance: jax.Array

    def take(self, identities: jax.Array) -> ReferenceBank:
        """Returns the bank of some identities; works inside jit, and on the host.

        Args:
            identities: int [k], each in 0..number of identities - 1.

        Returns:
            A bank with k identities in the given order and the same max_references.
        """
        # Of a bank on the host a device gets no more than it asks for.
        on_host = isinstance(self.features, np.ndarray) and isinstance(identities, np.ndarray)
        take = functools.partial(np.take if on_host else jnp.take, indices=identities, axis=0)
        return ReferenceBank(
            features=take(self.features),
            mask=take(self.mask),
            identities=take(self.identities),
            total_variance=take(self.total_variance),
        )

    def padded_to(self, multiple: int) -> ReferenceBank:
        """Returns the bank with empty rows behind, so that its rows divide over devices."""
        empty = -len(self.mask) % multiple
        if not empty:
            return self
        return ReferenceBank(
            features=np.pad(self.features, ((0, empty), (0, 0), (0, 0))),
            mask=np.pad(self.mask, ((0, empty), (0, 0))),
            identities=np.pad(self.identities, (0, empty), constant_values=-1),
            total_variance=np.pad(self.total_variance, (0, empty)),
        )


def build_reference_bank(
    features: np.ndarray, identities: np.ndarray, num_identities: int
) -> ReferenceBank:
    """Groups features by identity, gives them unit norm and pads the groups to one length.

    Args:
        features: float [n, dim], of any norm above zero.
        identities: int [n], each in 0..num_identities - 1, in any order.
        num_identities: number of identities; each needs at least one feature.

    Returns:
        The bank, with max_references the size of the largest group. Within an identity the order
        of the input is kept.

    Raises:
        ValueError: if the shapes do not match, a feature is not finite or has norm zero, an
            identity is out of range or not an integer, or an identity has no feature.
    """
    features = np.asarray(features, np.float32)
    identities = np.asarray(identities)
    if features.ndim != 2 or identities.shape != features.shape[:1]:
        raise ValueError(
            f"features must be [n, dim] and identities [n] with the same n; got shapes "
            f"{features.shape} and {identities.shape}"
        )
    if not np.issubdtype(identities.dtype, np.integer):
        raise ValueError(f"identities must be integers, got dtype {identities.dtype}")
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if broken.size:
        raise ValueError(
            f"{broken.size} of {len(features)} features are not finite, the first at index "
            f"{broken[0]}"
        )
    outside = np.flatnonzero((identities < 0) | (identities >= num_identities))
    if outside.size:
        raise ValueError(
            f"identities must lie in 0..{num_identities - 1}; index {outside[0]} holds "
            f"{identities[outside[0]]}"
        )
    missing = np.setdiff1d(np.arange(num_identities), identities)
    if num_identities < 1 or missing.size:
        raise ValueError(
            f"each of the {num_identities} identities needs at least one feature; none for "
            f"{missing[:8].tolist()} ({missing.size} in all)"
        )
    # In float64, where no square of a float32 over- or underflows.
    scaled = features.astype(np.float64)
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)  # [n, 1]
    zero = np.flatnonzero(norms[:, 0] == 0)
    if zero.size:
        raise ValueError(
            f"a feature of norm zero has no direction; {zero.size} of {len(features)} are zero, "
            f"the first at index {zero[0]}"
        )
    unit = (scaled / norms).astype(np.float32)
    groups, counts = padded_groups(unit, identities, num_identities)
    mask = np.arange(groups.shape[1]) < counts[:, None]
    return ReferenceBank(
        features=groups,
        mask=mask,
        identities=np.arange(num_identities, dtype=np.int32),
        total_variance=_total_variance(groups, counts),
    )


def _total_variance(groups: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The attribute of the bank, from float [i, r, d], of which int [i] are no padding."""
    # One identity after the other: padding may be many times what is padded.
    squares = [
        np.square(features - features.mean(axis=0)).sum()
        for features in (group[:count].astype(np.float64) for group, count in zip(groups, counts))
    ]
    variance = np.array(squares) / np.maximum(counts - 1, 1)
    known = counts >= 2
    fallback = variance[known].mean() if known.any() else np.nan
    return np.where(known, variance, fallback).astype(np.float32)
