"""The recogniser: an embedding network with a classifier, and its training step.

One step draws its own batch on the device: P identities, K images of each, real or synthetic or
both. With dynamic selection it draws more synthetic candidates than it keeps, and keeps those whose
virtual update lowers their own identity loss most (equation 12 of arXiv 2604.07884).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax.sharding import Mesh

from rlsyn_jax.data.identity_dataset import to_device_range
from rlsyn_jax.recognition.identity_sampler import IdentityTable, sample_identities, sample_images
from rlsyn_jax.recognition.losses import batch_hard_triplet, cosface_logits, cross_entropy, unit
from rlsyn_jax.recognition.networks import RecognitionNetwork, embedding_width
from rlsyn_jax.training.meshes import batch_sharding

Network = nn.Module | RecognitionNetwork


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a recogniser minimises.

    Attributes:
        loss: "cross_entropy_triplet" (bag of tricks: smoothed cross entropy on the neck plus
            batch-hard triplet on the features) or "cosface".
        label_smoothing, triplet_margin: of cross_entropy_triplet.
        cosface_scale, cosface_margin: of cosface.
    """

    loss: str = "cross_entropy_triplet"
    label_smoothing: float = 0.1
    triplet_margin: float = 0.3
    cosface_scale: float = 16.0
    cosface_margin: float = 0.2


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

    images: jax.Array
    table: IdentityTable


@flax.struct.dataclass
class RecognizerState:
    """Step count, network and classifier, batch statistics, optimiser state, constant key."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    key: jax.Array


def init_recognizer(
    model: Network, key: jax.Array, image_shape: tuple[int, int, int], num_identities: int
) -> dict:
    """Returns {"params": {"backbone", "classifier"}, "batch_stats"} of a fresh recogniser."""
    network_key, classifier_key = jax.random.split(key)
    variables = jax.jit(model.init, static_argnames="train")(
        network_key, jnp.zeros((1, *image_shape)), train=False
    )
    width = embedding_width(model, variables, image_shape)
    classifier = jax.random.normal(classifier_key, (width, num_identities)) * width**-0.5
    return {
        "params": {"backbone": variables["params"], "classifier": classifier},
        "batch_stats": variables["batch_stats"],
    }


def create_recognizer_state(
    variables: dict, optimizer: optax.GradientTransformation, key: jax.Array
) -> RecognizerState:
    """Returns the state of step 0, with buffers of its own."""
    variables = jax.tree.map(jnp.copy, variables)
    return RecognizerState(
        step=jnp.int32(0),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        key=key,
    )


def identity_losses(
    objective: Objective, classifier: jax.Array, neck: jax.Array, labels: jax.Array
) -> jax.Array:
    """Returns each sample's identity loss [b]: cross entropy, or that of CosFace's logits."""
    if objective.loss == "cosface":
        logits = cosface_logits(
            neck, classifier, labels, objective.cosface_scale, objective.cosface_margin
        )
        return cross_entropy(logits, labels)
    return cross_entropy(neck @ classifier, labels, objective.label_smoothing)


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
    loss_change: Callable | None = None,
    keep_most_helpful: Callable | None = None,
) -> Callable:
    """Builds the jitted step (state, real, synthetic, candidates) -> (state, metrics).

    Args:
        model: embedding network, (images, train) to (features, neck); may drop by a "dropout" key.
        optimizer: acts on backbone and classifier.
        mesh: the batch is split over all its devices.
        objective: the loss.
        mixture: what a batch holds.
        identities_per_batch: P.
        augment: (key, float images [b, h, w, c]) -> images.
        schedule: step -> learning rate, of the virtual update.
        loss_change, keep_most_helpful: selection.dynamic_selection's functions, for a mixture that
            keeps fewer than it draws.

    Returns:
        The step; its state is donated, real and synthetic are ImagePools (synthetic may be None
        where the mixture draws none), candidates are the identities [m] to draw from.
    """

    def forward(params, batch_stats, images, dropout_key=None):
        variables = {"params": params["backbone"], "batch_stats": batch_stats}
        if dropout_key is None:
            return model.apply(variables, images, train=False), batch_stats
        outputs, updated = model.apply(
            variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": dropout_key}
        )
        return outputs, updated["batch_stats"]

    def batch_loss(params, batch_stats, images, labels, dropout_key):
        (features, neck), batch_stats = forward(params, batch_stats, images, dropout_key)
        losses = identity_losses(objective, params["classifier"], neck, labels)
        if objective.loss == "cross_entropy_triplet":
            losses = losses + batch_hard_triplet(features, labels, objective.triplet_margin)
        logits = unit(neck) @ unit(params["classifier"], axis=0)
        correct = (logits.argmax(axis=-1) == labels).mean()
        return losses.mean(), (batch_stats, correct)

    def draw(pool, key, identities, number):
        draw_key, augment_key = jax.random.split(key)
        chosen = sample_images(draw_key, pool.table, identities, number)
        images = to_device_range(pool.images[chosen.reshape(-1)])
        images = augment(augment_key, images)
        return rearrange(images, "(p k) h w c -> p k h w c", k=number)

    def flat(images):
        images = rearrange(images, "p k h w c -> (p k) h w c")
        return jax.lax.with_sharding_constraint(images, batch_sharding(mesh))

    def step(state, real, synthetic, candidates):
        key = jax.random.fold_in(state.key, state.step)
        identity_key, real_key, synthetic_key = jax.random.split(key, 3)
        dropout_key = jax.random.fold_in(key, 1)
        identities = sample_identities(identity_key, candidates, identities_per_batch)
        parts, metrics = [], {}
        if mixture.real:
            parts.append(draw(real, real_key, identities, mixture.real))
        if mixture.candidates:
            drawn = draw(synthetic, synthetic_key, identities, mixture.candidates)
            if mixture.kept < mixture.candidates:
                drawn, metrics = select(state, parts, drawn, identities, dropout_key)
            parts.append(drawn)
        images = jnp.concatenate(parts, axis=1)
        labels = jnp.repeat(identities, images.shape[1])
        (loss, (batch_stats, correct)), gradients = jax.value_and_grad(batch_loss, has_aux=True)(
            state.params, state.batch_stats, flat(images), labels, dropout_key
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics = {"loss": loss, "accuracy": correct, **metrics}
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return state, jax.tree.map(jnp.float32, metrics)

    def select(state, parts, drawn, identities, dropout_key):
        """Keeps the candidates that a virtual update on the whole mixed batch helps most."""
        mixed = jnp.concatenate([*parts, drawn], axis=1)
        labels = jnp.repeat(identities, mixed.shape[1])
        gradients = jax.grad(batch_loss, has_aux=True)(
            state.params, state.batch_stats, flat(mixed), labels, dropout_key
        )[0]
        images, own = flat(drawn), jnp.repeat(identities, drawn.shape[1])

        def losses(params):
            # Running statistics: one candidate's loss must not depend on the others.
            (_, neck), _ = forward(params, state.batch_stats, images)
            return identity_losses(objective, params["classifier"], neck, own)

        change = loss_change(losses, state.params, gradients, schedule(state.step))
        change = change.reshape(drawn.shape[:2])
        kept = keep_most_helpful(change, mixture.kept)  # [p, kept]
        chosen = jnp.take_along_axis(drawn, kept[:, :, None, None, None], axis=1)
        kept_change = jnp.take_along_axis(change, kept, axis=1).mean()
        return chosen, {"loss_change": change.mean(), "loss_change_kept": kept_change}

    return jax.jit(step, donate_argnums=0)
