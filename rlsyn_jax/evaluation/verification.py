"""Verification: are two images of one person? LFW's ten-fold protocol."""

from __future__ import annotations

import dataclasses

import numpy as np

_THRESHOLDS = np.arange(0, 4, 0.01)


@dataclasses.dataclass(frozen=True)
class VerificationResult:
    """Accuracy of each fold, at the threshold that is best on the other folds.

    Attributes:
        accuracy_mean: mean over folds, 0..1.
        accuracy_std: standard deviation over folds.
        thresholds: float64 [folds], on the squared distance of unit embeddings, 0..4.
        fold_accuracies: float64 [folds].
    """

    accuracy_mean: float
    accuracy_std: float
    thresholds: np.ndarray
    fold_accuracies: np.ndarray


def ten_fold_accuracy(
    first: np.ndarray, second: np.ndarray, is_same: np.ndarray, *, num_folds: int = 10
) -> VerificationResult:
    """Measures verification with the threshold chosen on the other folds.

    Args:
        first: float [n, dim], one image of each pair.
        second: float [n, dim], the other.
        is_same: bool [n], whether the pair shows one person.
        num_folds: contiguous folds, in the given order.

    Returns:
        Accuracies and thresholds.

    Raises:
        ValueError: shapes that do not fit, fewer pairs than folds, or embeddings not finite.

    Source: Huang et al., Labeled Faces in the Wild, 2007 (image-restricted protocol).
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    is_same = np.asarray(is_same).astype(bool)
    if first.ndim != 2 or first.shape != second.shape or is_same.shape != (len(first),):
        raise ValueError(
            "expected first [n, dim], second [n, dim] and is_same [n], got "
            f"{first.shape}, {second.shape} and {is_same.shape}"
        )
    if num_folds < 2 or len(first) < num_folds:
        raise ValueError(
            f"{len(first)} pairs do not make {num_folds} folds; at least 2 folds and a pair in "
            "each are needed"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("embeddings must be finite numbers")
    distances = np.square(_unit(first) - _unit(second)).sum(axis=1)
    correct = (distances[None] < _THRESHOLDS[:, None]) == is_same[None]  # [thresholds, n]
    folds = np.array_split(np.arange(len(first)), num_folds)
    accuracies, thresholds = [], []
    for fold in folds:
        others = np.delete(correct, fold, axis=1).mean(axis=1)
        best = int(np.argmax(others))
        thresholds.append(_THRESHOLDS[best])
        accuracies.append(correct[best, fold].mean())
    return VerificationResult(
        accuracy_mean=float(np.mean(accuracies)),
        accuracy_std=float(np.std(accuracies)),
        thresholds=np.array(thresholds),
        fold_accuracies=np.array(accuracies),
    )


def make_pairs(
    identities: np.ndarray, num_pairs: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws genuine and impostor pairs, by turns, so that every fold is balanced.

    Args:
        identities: int [n], who is in each image.
        num_pairs: even number of pairs; drawn anew only where all different pairs are used up.
        seed: of the drawing.

    Returns:
        (first int64 [num_pairs], second int64 [num_pairs], is_same bool [num_pairs]).

    Raises:
        ValueError: an odd number, or no genuine or no impostor pair exists.
    """
    identities = np.asarray(identities)
    if num_pairs < 2 or num_pairs % 2:
        raise ValueError(f"num_pairs is {num_pairs}; it must be an even number of at least 2")
    one, other = np.triu_indices(len(identities), k=1)
    same = identities[one] == identities[other]
    random = np.random.default_rng(seed)
    chosen = []
    for wanted, kind in ((same, "genuine"), (~same, "impostor")):
        pairs = np.flatnonzero(wanted)
        if not len(pairs):
            raise ValueError(
                f"there is no {kind} pair among {len(identities)} images; two people with two "
                "images each are needed"
            )
        rounds = -(-(num_pairs // 2) // len(pairs))
        order = np.concatenate([random.permutation(pairs) for _ in range(rounds)])
        chosen.append(order[: num_pairs // 2])
    places = np.stack(chosen, axis=1).reshape(-1)
    return one[places], other[places], same[places]


def _unit(embeddings: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(lengths, 1e-12)
