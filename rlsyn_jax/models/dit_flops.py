"""How many floating-point operations a pass through a DiT takes, by formula."""

from __future__ import annotations

from rlsyn_jax.models.dit import DiT

_TIMESTEP_FEATURES = 256  # Of TimestepEmbedder.


def forward_flops(model: DiT, image_shape: tuple[int, int, int]) -> int:
    """Returns the FLOPs of one sample's forward pass: twice its multiply-adds.

    Matrix products alone count, as is usual for rates of utilisation (Chowdhery et al.,
    2204.02311, appendix B).

    Args:
        model: the network.
        image_shape: (height, width, channels) of its input.
    """
    height, width, channels = image_shape
    patch, d = model.patch_size, model.width
    n = (height // patch) * (width // patch)
    in_values = patch**2 * channels
    out_values = in_values * (2 if model.learn_sigma else 1)
    projections = (4 + 2 * model.mlp_ratio) * n * d**2  # Query, key, value, output; the network.
    attention = 2 * n**2 * d
    modulation = 6 * d**2  # Once a sample, not a token.
    around = n * d * (in_values + out_values) + _TIMESTEP_FEATURES * d + 3 * d**2
    return int(2 * (model.depth * (projections + attention + modulation) + around))


def training_flops(model: DiT, image_shape: tuple[int, int, int], trainable: str) -> int:
    """Returns the FLOPs of one sample's forward and backward pass.

    A gradient with respect to the activations takes as much as the forward pass, and so does one
    with respect to the weights; of frozen weights only the first is computed. Low-rank pairs are
    added to the weights, whose whole gradient is computed for them. Remat
    adds a forward pass, of products with weights or without.

    Args:
        model: the network.
        image_shape: (height, width, channels) of its input.
        trainable: one of training.trainable.CHOICES.
    """
    passes = 3 if trainable in ("lora", "all") else 2
    again = {"none": 0, "products": _attention_flops(model, image_shape)}
    forward = forward_flops(model, image_shape)
    return passes * forward + again.get(model.remat, forward)


def _attention_flops(model: DiT, image_shape: tuple[int, int, int]) -> int:
    height, width, _ = image_shape
    tokens = (height // model.patch_size) * (width // model.patch_size)
    return 4 * model.depth * tokens**2 * model.width
