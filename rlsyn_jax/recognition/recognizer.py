"""The recogniser: an embedding network with a classifier, and its training step.

One step draws its own batch on the device: P identities, K images of each, real or synthetic or
both. With dynamic selection it draws more synthetic candidates than it keeps, and keeps those whose
virtual update lowers their own identity loss most (equation 12 of arXiv 2604.07884), as
selection/dynamic_selection.py says. The batch that is trained on has one size: a synthetic image
that the rule turns down leaves its place to a real one without weight.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from jax.sharding import Mesh

from rlsyn_jax.data.identity_dataset import to_device_range
from rlsyn_jax.recognition.identity_sampler import (
    IdentityTable,
    sample_identities,
    sample_identities_and_others,
    sample_images,
)
from rlsyn_jax.recognition.losses import batch_hard_triplet
from rlsyn_jax.recognition.networks import RecognitionNetwork, embedding_width
from rlsyn_jax.recognition.objective import (
    Objective,
    class_sharding,
    init_split_classes,
    score_identities,
    score_split_identities,
)
from rlsyn_jax.selection.dynamic_selection import DynamicSelection
from rlsyn_jax.training.meshes import batch_sharding, place, replicated
from rlsyn_jax.training.train_state import ema_update

Network = nn.Module | RecognitionNetwork


@dataclasses.dataclass(frozen=True)
class Mixture:
    """What a batch holds of each identity.

    Attributes:
        real: real images.
        candidates: synthetic images drawn.
        kept: synthetic images trained on; fewer than candidates means dynamic selection.
    """

    real: int
    candidates: int = 0
    kept: int = 0


@flax.struct.dataclass
class ImagePool:
    """Images to draw from: uint8 [n, h, w, c] and where each identity's are."""

    images: jax.Array | np.ndarray
    table: IdentityTable


@flax.struct.dataclass
class RecognizerState:
    """Everything that training changes, and its key.

    Attributes:
        step: int32 scalar, updates done.
        params: {"backbone", "classifier"}.
        batch_stats: of the backbone.
        opt_state: the optimiser's state.
        ema_params, ema_batch_stats: running averages of the two; {} where none are kept.
        key: typed random key, constant.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any
    ema_batch_stats: Any
    key: jax.Array


def init_recognizer(
    model: Network,
    key: jax.Array,
    image_shape: tuple[int, int, int],
    num_identities: int,
    split_over: Mesh | None = None,
) -> dict:
    """Returns {"params": {"backbone", "classifier"}, "batch_stats"} of a fresh recogniser.

    Args:
        model: embedding network.
        key: typed random key.
        image_shape: height, width and channels.
        num_identities: classes.
        split_over: mesh whose devices share the classifier; None: it is made whole.

    Raises:
        ValueError: the devices cannot share the classifier evenly.
    """
    network_key, classifier_key = jax.random.split(key)
    variables = jax.jit(model.init, static_argnames="train")(
        network_key, jnp.zeros((1, *image_shape)), train=False
    )
    width = embedding_width(model, variables, image_shape)
    if split_over is None:
        classifier = jax.random.normal(classifier_key, (width, num_identities)) * width**-0.5
    else:
        classifier = init_split_classes(classifier_key, width, num_identities, split_over)
    return {
        "params": {"backbone": variables["params"], "classifier": classifier},
        "batch_stats": variables["batch_stats"],
    }


def create_recognizer_state(
    variables: dict, optimizer: optax.GradientTransformation, key: jax.Array, ema: bool = False
) -> RecognizerState:
    """Returns the state of step 0, with buffers of its own and running averages if `ema`."""

    def copy(tree):
        return jax.tree.map(jnp.copy, tree)

    return RecognizerState(
        step=jnp.int32(0),
        params=copy(variables["params"]),
        batch_stats=copy(variables["batch_stats"]),
        opt_state=optimizer.init(variables["params"]),
        ema_params=copy(variables["params"]) if ema else {},
        ema_batch_stats=copy(variables["batch_stats"]) if ema else {},
        key=key,
    )


def place_recognizer_state(
    state: RecognizerState, mesh: Mesh, split_classes: bool = False
) -> RecognizerState:
    """Puts a state on a mesh: whole on every device, but for class weights that are split.

    Args:
        state: every process holds it whole and alike, but for what is split already.
        mesh: the mesh.
        split_classes: the classifier was made split over it, and stays so with what is kept of it.
    """
    if not split_classes:
        return place(state, replicated(mesh))
    shape = state.params["classifier"].shape
    return jax.tree.map(
        lambda value: value if value.shape == shape else place(value, replicated(mesh)), state
    )


def place_pool(pool: ImagePool, mesh: Mesh) -> ImagePool:
    """Puts images to draw from on a mesh, on each device its share of them.

    Args:
        pool: every process holds it whole and alike, best as NumPy arrays: no device need hold it.
        mesh: the mesh.

    Returns:
        The same with images [n, h, w, c] on all devices, n rounded up to a multiple of how many
        there are by images of nobody.
    """
    images = np.asarray(pool.images)
    lacking = -len(images) % mesh.size
    if lacking:
        images = np.concatenate([images, np.zeros((lacking, *images.shape[1:]), images.dtype)])
    return ImagePool(place(images, batch_sharding(mesh)), place(pool.table, replicated(mesh)))


def make_train_step(
    model: Network,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    objective: Objective,
    mixture: Mixture,
    identities_per_batch: int,
    augment: Callable[[jax.Array, jax.Array], jax.Array],
    schedule: Callable[[jax.Array], jax.Array],
    selection: DynamicSelection | None = None,
    ema_decay: float = 0.0,
    split_classes: int = 0,
    others_per_batch: int = 0,
) -> Callable:
    """Builds the jitted step (state, real, synthetic, candidates, others) -> (state, metrics).

    Args:
        model: embedding network, (images, train) to (features, neck); may drop by a "dropout" key.
        optimizer: acts on backbone and classifier.
        mesh: the batch is split over all its devices.
        objective: the loss.
        mixture: what a batch holds.
        identities_per_batch: P.
        augment: (key, float images [b, h, w, c]) -> images.
        schedule: step -> learning rate, of the virtual update.
        selection: how fewer are kept than are drawn, for a mixture that asks for it.
        ema_decay: of running averages, for a state that has them; 0 = none.
        split_classes: number of identities, where the classifier is split over the mesh; 0 = it is
            whole on every device.
        others_per_batch: of identities_per_batch, how many are drawn from `others`.

    Returns:
        The step; its state is donated, real and synthetic are ImagePools (synthetic may be None
        where the mixture draws none), candidates are the identities [m] to draw from, and others,
        which may be left out where none are drawn, those [n] of another kind. Metrics are
        loss and accuracy; with selection also selecting (1 in a step that selects), loss_change of
        the candidates and loss_change_kept (both 0 in a step that does not select), and
        synthetic_share of the images that are trained on, which counts others' images of the pool
        `synthetic` as such: it must have some, of whatever kind.

    Raises:
        ValueError: the mixture keeps fewer than it draws, and there is no selection or no real
            image; or there are others, and no room for candidates.
    """
    if others_per_batch >= identities_per_batch:
        raise ValueError(
            f"{others_per_batch} others of {identities_per_batch} identities: a batch with others "
            "needs candidates beside them"
        )
    selects = mixture.kept < mixture.candidates
    if selects and (selection is None or not mixture.real):
        raise ValueError(
            f"{mixture} keeps fewer than it draws; that needs real images and a selection"
        )

    if split_classes:
        score = score_split_identities(objective, mesh, split_classes)
    else:
        score = functools.partial(score_identities, objective)

    def forward(params, batch_stats, images, dropout_key=None):
        variables = {"params": params["backbone"], "batch_stats": batch_stats}
        if dropout_key is None:
            return model.apply(variables, images, train=False), batch_stats
        outputs, updated = model.apply(
            variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": dropout_key}
        )
        return outputs, updated["batch_stats"]

    def batch_loss(params, batch_stats, images, labels, dropout_key, weights=None):
        (features, neck), batch_stats = forward(params, batch_stats, images, dropout_key)
        losses, correct = score(params["classifier"], neck, labels)
        if objective.has_triplet:
            # Who has no weight is a copy, at no distance from the person's own image.
            counted = None if weights is None else weights > 0
            losses += batch_hard_triplet(features, labels, objective.triplet_margin, counted)
        loss, accuracy = jnp.average(losses, weights=weights), jnp.average(correct, weights=weights)
        return loss, (batch_stats, accuracy)

    def draw(pool, key, identities, number):
        draw_key, augment_key = jax.random.split(key)
        chosen = sample_images(draw_key, pool.table, identities, number)
        images = to_device_range(pool.images[chosen.reshape(-1)])
        images = augment(augment_key, images)
        return rearrange(images, "(p k) h w c -> p k h w c", k=number)

    def split(images):
        return jax.lax.with_sharding_constraint(images, batch_sharding(mesh))

    def step(state, real, synthetic, candidates, others=None):
        key = jax.random.fold_in(state.key, state.step)
        identity_key, real_key, synthetic_key, dropout_key = jax.random.split(key, 4)
        if others_per_batch:
            identities = sample_identities_and_others(
                identity_key, candidates, others, identities_per_batch, others_per_batch
            )
        else:
            identities = sample_identities(identity_key, candidates, identities_per_batch)
        parts, metrics, weights = [], {}, None
        if mixture.real:
            parts.append(draw(real, real_key, identities, mixture.real))
        if mixture.candidates:
            parts.append(draw(synthetic, synthetic_key, identities, mixture.candidates))
        images = jnp.concatenate(parts, axis=1)
        images, labels = _flat(images), jnp.repeat(identities, images.shape[1])
        if selects:
            places, weights, metrics = refine(state, split(images), labels, dropout_key)
            images, labels = images[places], labels[places]
        (loss, (batch_stats, correct)), gradients = jax.value_and_grad(batch_loss, has_aux=True)(
            state.params, state.batch_stats, split(images), labels, dropout_key, weights
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics = {"loss": loss, "accuracy": correct, **metrics}
        params = optax.apply_updates(state.params, updates)
        if ema_decay:
            state = state.replace(
                ema_params=ema_update(state.ema_params, params, ema_decay, state.step),
                ema_batch_stats=ema_update(
                    state.ema_batch_stats, batch_stats, ema_decay, state.step
                ),
            )
        state = state.replace(
            step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state
        )
        return keep_places(state), jax.tree.map(jnp.float32, metrics)

    def keep_places(state):
        """Holds a state with split class weights where it lay before the step."""
        if not split_classes:
            return state
        shape = state.params["classifier"].shape

        def keep(value):
            sharding = class_sharding(mesh) if value.shape == shape else replicated(mesh)
            return jax.lax.with_sharding_constraint(value, sharding)

        return jax.tree.map(keep, state)

    drawn = mixture.real + mixture.candidates  # Images of an identity in the mixed batch.
    first = drawn * jnp.arange(identities_per_batch, dtype=jnp.int32)  # Of each identity.

    def places_of(numbers):
        """Places in the mixed batch of some numbers 0..drawn - 1 of every identity."""
        return (first[:, None] + jnp.asarray(numbers, jnp.int32)).reshape(-1)

    def refine(state, images, labels, dropout_key):
        """Returns places in the mixed batch that are trained on, their weights, and metrics."""

        def by_loss():
            return select(state, images, labels, dropout_key)

        def at_random():
            # Candidates are in random order.
            places = places_of(range(mixture.real + mixture.kept))
            metrics = dict.fromkeys(("selecting", "loss_change", "loss_change_kept"), 0.0)
            return places, jnp.ones(len(places)), jax.tree.map(jnp.float32, metrics)

        if selection.warmup_steps or selection.every > 1:
            due = selection.is_due(state.step)
            places, weights, metrics = jax.lax.cond(due, by_loss, at_random)
        else:
            places, weights, metrics = by_loss()
        share = jnp.average(places % drawn >= mixture.real, weights=weights)
        return places, weights, {**metrics, "synthetic_share": share}

    def select(state, images, labels, dropout_key):
        """Keeps those that a virtual update on the whole mixed batch helps most; as refine."""
        change = loss_change(state, images, labels, dropout_key)
        real_change, synthetic_change = jnp.split(change.reshape(-1, drawn), [mixture.real], axis=1)
        if selection.keep_real:
            chosen = selection.choose(synthetic_change, mixture.kept)
            own, number = chosen // mixture.candidates, chosen % mixture.candidates
            chosen = first[own] + mixture.real + number
            counted = selection.is_helpful(change[chosen], real_change)
            real = places_of(range(mixture.real))
            # Instead of one that is not helpful, a real image of the same person without weight,
            # which changes nothing but that it counts in batch statistics.
            places = jnp.concatenate([real, jnp.where(counted, chosen, first[own])])
            weights = jnp.concatenate([jnp.ones(len(real)), counted.astype(jnp.float32)])
        else:
            places = chosen = selection.choose(
                change.reshape(-1, drawn), mixture.real + mixture.kept
            )
            counted = chosen % drawn >= mixture.real
            weights = jnp.ones(len(places))
        kept = jnp.where(counted, change[chosen], 0.0).sum() / jnp.maximum(counted.sum(), 1)
        metrics = {
            "selecting": 1.0,
            "loss_change": synthetic_change.mean(),
            "loss_change_kept": kept,
        }
        return places, weights, jax.tree.map(jnp.float32, metrics)

    def loss_change(state, images, labels, dropout_key):
        """Change of the identity loss of the mixed batch's images by a virtual step, [p * drawn].

        Those of real images are 0 where all parameters move and nothing looks at them.
        """
        rate = schedule(state.step)
        # Running statistics: one candidate's loss must not depend on the others.
        if selection.parameters == "classifier":
            (_, neck), _ = forward(state.params, state.batch_stats, images)

            def losses(classifier):
                return score(classifier, neck, labels)[0]

            classifier = state.params["classifier"]
            gradient = jax.grad(lambda classifier: losses(classifier).mean())(classifier)
            return selection.loss_change(losses, classifier, gradient, rate)
        gradients = jax.grad(batch_loss, has_aux=True)(
            state.params, state.batch_stats, images, labels, dropout_key
        )[0]
        spared = selection.keep_real and selection.rule != "adaptive"
        judged = places_of(range(mixture.real if spared else 0, drawn))
        judged_images = split(images[judged])

        def losses_of_judged(params):
            (_, neck), _ = forward(params, state.batch_stats, judged_images)
            return score(params["classifier"], neck, labels[judged])[0]

        change = selection.loss_change(losses_of_judged, state.params, gradients, rate)
        return jnp.zeros(len(labels)).at[judged].set(change)

    return jax.jit(step, donate_argnums=0)


def _flat(images: jax.Array) -> jax.Array:
    """Images [p, k, h, w, c] of p identities as [p * k, h, w, c]."""
    return rearrange(images, "p k h w c -> (p k) h w c")
