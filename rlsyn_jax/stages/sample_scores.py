"""How good samples of the training people are by the run's rewards, and which copy real images."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.splits import Splits
from rlsyn_jax.evaluation.nearest_real import NearestReal, averaged_pixels
from rlsyn_jax.rewards.reference_bank import build_reference_bank
from rlsyn_jax.stages.extractors import Extractor, embed_images, load_extractor
from rlsyn_jax.stages.inputs import train_labels
from rlsyn_jax.stages.trained_rewards import resolve_rewards


class SampleScores:
    """Scores samples by the rewards of the reinforcement loop, and finds near copies.

    Attributes:
        threshold: cosine distance of the judge below which a sample is a near copy.
        pixel_threshold: root mean squared difference of averaged pixels below which it is one, too.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        dataset: IdentityDataset,
        splits: Splits,
        *,
        judge: Extractor,
        enrolled: np.ndarray,
        threshold: float,
        pixel_threshold: float = 0.0,
    ):
        """Reads the rewards' extractor and embeds the real training images.

        Args:
            config: complete configuration.
            workdir: of the run.
            dataset, splits: the target.
            judge: the extractor. enrolled: float [n, dim], its embeddings of the training images.
            threshold, pixel_threshold: see above.
        """
        self.threshold, self.pixel_threshold = threshold, pixel_threshold
        self._judge, self._enrolled = judge, NearestReal(enrolled)
        self._extractor = load_extractor(config, workdir, "reward")
        images, labels = train_labels(dataset, splits)
        self._pixels = None
        if pixel_threshold:
            self._pixels = NearestReal(averaged_pixels(images[:]), metric="euclidean")
        self._bank = build_reference_bank(
            embed_images(self._extractor, images), labels, len(splits.train_identities)
        )
        rewards, _ = resolve_rewards(config)
        self._score = jax.jit(
            lambda embeddings, references: {
                name: function(embeddings, references) for name, function in rewards.items()
            }
        )

    def nearest_real(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compares images with the nearest real one.

        Args:
            images: uint8 [n, h, w, c].

        Returns:
            (float32 [n] cosine distance by the judge; bool [n], near copies by judge or pixels).
        """
        distances, _ = self._enrolled.distances(embed_images(self._judge, images))
        near = distances < self.threshold
        if self._pixels is not None:
            differences, _ = self._pixels.distances(averaged_pixels(images))
            near |= differences < self.pixel_threshold
        return distances, near

    def rewards(self, images: np.ndarray, identities: np.ndarray) -> dict[str, np.ndarray]:
        """Returns each reward of images; those of a set give each image its share.

        Args:
            images: uint8 [i * g, h, w, c], g in a row of each of i people.
            identities: int [i], their labels.

        Returns:
            Name of the reward -> float32 [i, g].
        """
        embeddings = embed_images(self._extractor, images)
        embeddings = jnp.asarray(embeddings.reshape(len(identities), -1, embeddings.shape[-1]))
        scores = self._score(embeddings, self._bank.take(np.asarray(identities)))
        return {name: np.asarray(value) for name, value in scores.items()}
