"""What recognisers minimise, with class weights that every device holds or that are split.

With very many people the class weights and the logits of a batch outgrow a device. Split, each
device has the weights of its share of the classes and computes their logits alone; maxima and sums
over all classes are taken over the devices, so that values and gradients are those of the whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlsyn_jax.recognition.losses import (
    arcface_logits,
    circle_logits,
    cosface_logits,
    cross_entropy,
    unit,
)
from rlsyn_jax.training.meshes import place, replicated

LOSSES = ("cross_entropy_triplet", "cosface", "arcface", "circle", "circle_triplet")
# Split class weights are padded to a multiple of this, so that a checkpoint fits any number of
# devices that divides it.
_CLASSES = 1024
_AXES = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a recogniser minimises.

    Attributes:
        loss: "cross_entropy_triplet" (bag of tricks: smoothed cross entropy on the neck plus
            batch-hard triplet on the features), "cosface", "arcface", "circle" (with one weight
            vector a class) or "circle_triplet".
        label_smoothing: of cross_entropy_triplet.
        triplet_margin: of the losses with a triplet.
        cosface_scale, cosface_margin: of cosface.
        arcface_scale, arcface_margin, arcface_easy_margin: of arcface.
        circle_scale, circle_margin: of circle and circle_triplet.
    """

    loss: str = "cross_entropy_triplet"
    label_smoothing: float = 0.1
    triplet_margin: float = 0.3
    cosface_scale: float = 16.0
    cosface_margin: float = 0.2
    arcface_scale: float = 64.0
    arcface_margin: float = 0.5
    arcface_easy_margin: bool = False
    circle_scale: float = 64.0
    circle_margin: float = 0.35

    @property
    def has_triplet(self) -> bool:
        """Whether the batch-hard triplet loss is added."""
        return self.loss.endswith("_triplet")

    @property
    def smoothing(self) -> float:
        """Share of the target that is spread over all classes."""
        return self.label_smoothing if self.loss == "cross_entropy_triplet" else 0.0

    def logits(
        self, classifier: jax.Array, neck: jax.Array, cosine: jax.Array, own: jax.Array
    ) -> jax.Array:
        """Returns the logits of some classes, [b, c].

        Args:
            classifier: [d, c].
            neck: [b, d].
            cosine: of their angles, [b, c].
            own: bool [b, c], where the class is the sample's own.
        """
        if self.loss == "cosface":
            return cosface_logits(cosine, own, self.cosface_scale, self.cosface_margin)
        if self.loss == "arcface":
            return arcface_logits(
                cosine, own, self.arcface_scale, self.arcface_margin, self.arcface_easy_margin
            )
        if self.loss.startswith("circle"):
            return circle_logits(cosine, own, self.circle_scale, self.circle_margin)
        return neck @ classifier


def score_identities(
    objective: Objective, classifier: jax.Array, neck: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Compares embeddings with all classes.

    Args:
        objective: the loss.
        classifier: class weights [d, identities].
        neck: embeddings [b, d].
        labels: int [b].

    Returns:
        (identity loss float32 [b], whether the sample's own class is the nearest bool [b]).
    """
    cosine = unit(neck) @ unit(classifier, axis=0)
    own = labels[:, None] == jnp.arange(classifier.shape[1])
    logits = objective.logits(classifier, neck, cosine, own)
    return cross_entropy(logits, labels, objective.smoothing), cosine.argmax(axis=-1) == labels


def score_split_identities(objective: Objective, mesh: Mesh, num_identities: int) -> Callable:
    """Returns `score_identities` of class weights that are split over a mesh.

    Args:
        objective: the loss.
        mesh: over all of whose devices the weights are split.
        num_identities: classes that there are; the weights are padded.

    Returns:
        (classifier [d, padded identities], neck [b, d], labels [b]) -> as `score_identities`. No
        device holds more than its share of weights, of their gradient and of the logits.
    """

    def on_device(classifier, neck, labels):
        classes = jax.lax.axis_index(_AXES) * classifier.shape[1] + jnp.arange(classifier.shape[1])
        exists, own = classes < num_identities, labels[:, None] == classes
        cosine = unit(neck) @ unit(classifier, axis=0)
        logits = objective.logits(classifier, neck, cosine, own).astype(jnp.float32)

        def highest(values):
            values = jnp.where(exists, jax.lax.stop_gradient(values), -jnp.inf)
            return jax.lax.pmax(values.max(axis=-1), _AXES)

        def total(values, counted):
            return jax.lax.psum(jnp.where(counted, values, 0.0).sum(axis=-1), _AXES)

        # The logarithm of the sum of exponentials, less its largest term lest it overflow.
        largest = highest(logits)
        all_classes = jnp.log(total(jnp.exp(logits - largest[:, None]), exists)) + largest
        smoothing = objective.smoothing
        target = (1 - smoothing) * total(logits, own)
        if smoothing:
            target = target + smoothing / num_identities * total(logits, exists)
        nearest = total(jax.lax.stop_gradient(cosine), own) >= highest(cosine)
        return all_classes - target, nearest

    split, whole = PartitionSpec(None, _AXES), PartitionSpec()
    return jax.shard_map(
        on_device, mesh=mesh, in_specs=(split, whole, whole), out_specs=(whole, whole)
    )


def class_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of split class weights: classes over all devices."""
    return NamedSharding(mesh, PartitionSpec(None, _AXES))


def init_split_classes(key: jax.Array, width: int, num_identities: int, mesh: Mesh) -> jax.Array:
    """Draws class weights, each device its own share; the numbers are the same on any mesh.

    Args:
        key: typed random key.
        width: d of the embeddings.
        num_identities: classes.
        mesh: over which they are split.

    Returns:
        float32 [d, num_identities padded to a multiple of 1,024 by zeros].

    Raises:
        ValueError: the devices cannot share them evenly.
    """
    columns = -(-num_identities // _CLASSES) * _CLASSES
    if columns % mesh.size:
        raise ValueError(
            f"{columns} columns of class weights cannot be split over {mesh.size} devices; use a "
            f"number of devices that divides {_CLASSES}, or set config.recognize.split_classes "
            f"above {num_identities}, so that each device holds them all"
        )

    def draw(key):
        weights = jax.random.normal(key, (width, columns)) * width**-0.5
        return jnp.where(jnp.arange(columns) < num_identities, weights, 0.0)

    key = place(key, replicated(mesh))
    return jax.jit(draw, out_shardings=class_sharding(mesh))(key)
