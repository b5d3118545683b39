"""What a verification set is: images, and pairs of them that show one person or two."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class VerificationSet:
    """Images and pairs, in the published order: folds are contiguous and must not be shuffled.

    Attributes:
        name: what to call the set in reports.
        images: uint8 [n, height, width, channels].
        first: int64 [num_pairs], places of the first images.
        second: int64 [num_pairs], places of the second ones.
        is_same: bool [num_pairs], whether a pair shows one person.
        num_folds: contiguous folds of equally many pairs.
    """

    name: str
    images: np.ndarray
    first: np.ndarray
    second: np.ndarray
    is_same: np.ndarray
    num_folds: int = 10

    def __post_init__(self):
        """Checks that the parts fit together.

        Raises:
            ValueError: names the set and what would be right.
        """
        number = len(self.is_same)
        if not len(self.first) == len(self.second) == number or number == 0:
            raise ValueError(
                f"{self.name}: {len(self.first)} first and {len(self.second)} second images for "
                f"{number} pairs; expected as many, and one pair at least"
            )
        if not self.is_same.any() or self.is_same.all():
            raise ValueError(
                f"{self.name}: all {number} pairs are "
                f"{'of one person' if self.is_same.any() else 'of two people'}; expected both kinds"
            )
