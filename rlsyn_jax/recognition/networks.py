"""Recognition networks by name, each with the form in which it takes images.

Images of a run have one size and range; a network may want another size (person crops of 256 x 128,
aligned faces of 112 x 112) and channels that were normalised as those of ImageNet. Here both become
part of the network, so that whatever embeds images, rewards included, embeds them alike.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rlsyn_jax.models.iresnet import IResNet18, IResNet50, IResNet100
from rlsyn_jax.models.osnet import OSNet, OSNetX025
from rlsyn_jax.models.resnet import ResNet50, ResNet50IBN, SmallResNet
from rlsyn_jax.models.vit import ViT

# Name -> (module, which of the settings below it has).
_MODULES = {
    "small_resnet": (SmallResNet, ("width", "embedding_dim", "pooling")),
    # Bag of tricks: the last stage keeps its resolution.
    "resnet50": (
        functools.partial(ResNet50, last_stride=1),
        ("width", "embedding_dim", "pooling"),
    ),
    "resnet50_ibn": (
        functools.partial(ResNet50IBN, last_stride=1),
        ("width", "embedding_dim", "pooling"),
    ),
    "osnet": (OSNet, ("embedding_dim",)),
    "osnet_x0_25": (OSNetX025, ("embedding_dim",)),
    "vit_base_16": (ViT, ("dropout_rate",)),
    "iresnet18": (IResNet18, ("width", "embedding_dim", "dropout_rate")),
    "iresnet50": (IResNet50, ("width", "embedding_dim", "dropout_rate")),
    "iresnet100": (IResNet100, ("width", "embedding_dim", "dropout_rate")),
}
NETWORKS = tuple(_MODULES)
NORMALISATIONS = ("none", "imagenet")
# Mean and deviation of ImageNet's channels in [0, 1], red first.
_IMAGENET_MEAN, _IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class RecognitionNetwork:
    """An embedding network that takes images of any size in [-1, 1].

    Attributes:
        module: maps (float [b, h, w, c], train) to (features, neck), float32 [b, d].
        image_size: (height, width) that the module sees; images of another size are resized.
        normalisation: "none" (what the module sees is in [-1, 1]) or "imagenet" (of 3 channels).
    """

    module: nn.Module
    image_size: tuple[int, int]
    normalisation: str = "none"

    def resize(self, images: jax.Array) -> jax.Array:
        """Returns float images [b, h, w, c] at the network's size, smoothed where that is less."""
        batch, height, width, channels = images.shape
        if (height, width) == self.image_size:
            return images
        # Resampling by a triangle stays within the range of what it averages.
        return jax.image.resize(images, (batch, *self.image_size, channels), "linear")

    def _prepare(self, images: jax.Array) -> jax.Array:
        images = self.resize(images)
        if self.normalisation == "none":
            return images
        mean, deviation = np.float32(_IMAGENET_MEAN), np.float32(_IMAGENET_DEVIATION)
        return ((images + 1) / 2 - mean) / deviation

    def init(self, rngs: Any, images: jax.Array, train: bool) -> dict:
        """Returns fresh variables, as the module's `init` does."""
        return self.module.init(rngs, self._prepare(images), train=train)

    def apply(self, variables: dict, images: jax.Array, train: bool, **options: Any) -> Any:
        """Returns what the module's `apply` returns."""
        return self.module.apply(variables, self._prepare(images), train=train, **options)


def has_pooling(name: str) -> bool:
    """Returns whether a network's pooling can be chosen."""
    return name in _MODULES and "pooling" in _MODULES[name][1]


def build_network(
    name: str,
    *,
    image_size: tuple[int, int],
    normalisation: str = "none",
    dtype: str = "float32",
    **settings: Any,
) -> RecognitionNetwork:
    """Returns a network by its name.

    Args:
        name: one of NETWORKS.
        image_size: (height, width) that the network sees.
        normalisation: one of NORMALISATIONS.
        dtype: "float32" or "bfloat16", of the computation.
        settings: of `network_settings`.

    Raises:
        ValueError: an unknown name or normalisation, or a setting that the network does not have.
    """
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation is {normalisation!r}; it must be one of {NORMALISATIONS}")
    fields = network_settings(name, **settings)
    module = _MODULES[name][0](**fields, dtype=jnp.dtype(dtype))
    return RecognitionNetwork(module, tuple(image_size), normalisation)


def network_settings(
    name: str,
    *,
    width: int = 0,
    embedding_dim: int = 0,
    pooling: str = "mean",
    dropout_rate: float = 0.0,
) -> dict[str, Any]:
    """Returns the fields of a network's module that differ from the published network's.

    Args:
        name: one of NETWORKS.
        width: channels of the first stage of the residual networks; 0 = as published.
        embedding_dim: of the linear layer; 0 = as published, which for ResNet-50 is none.
        pooling: "mean" or "gem", of the residual networks but IResNet.
        dropout_rate: of IResNet and the vision transformer, in [0, 1).

    Raises:
        ValueError: an unknown name, or a setting that the network does not have.
    """
    if name not in _MODULES:
        raise ValueError(f"network is {name!r}; it must be one of {NETWORKS}")
    settings = {
        "width": width,
        "embedding_dim": embedding_dim,
        "pooling": "" if pooling == "mean" else pooling,
        "dropout_rate": dropout_rate,
    }
    known = _MODULES[name][1]
    given = {setting: value for setting, value in settings.items() if value}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(
            f"{name} has no {' and no '.join(unknown)} to choose, only {', '.join(known)}"
        )
    return given


def embedding_width(network: Any, variables: dict, image_shape: tuple[int, int, int]) -> int:
    """Returns d of a network's embeddings [b, d].

    Args:
        network: with `apply`, as RecognitionNetwork or a module.
        variables: {"params", "batch_stats"}, arrays or their shapes.
        image_shape: (height, width, channels).
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    run = functools.partial(network.apply, train=False)
    return jax.eval_shape(run, variables, image)[1].shape[1]


def check_fits(variables: dict, expected: dict, name: str) -> None:
    """Checks that weights are those of a network.

    Args:
        variables: {"params", "batch_stats"}, nested dicts of arrays.
        expected: the same of the network, arrays or shapes.
        name: of the weights, for the error.

    Raises:
        ValueError: names what is missing, unknown or of another shape.
    """
    wanted, found = (_shapes(tree) for tree in (expected, variables))
    wrong = [f"missing: {path}" for path in sorted(set(wanted) - set(found))]
    wrong += [f"unknown: {path}" for path in sorted(set(found) - set(wanted))]
    wrong += [
        f"shape: {path} is {found[path]}, must be {wanted[path]}"
        for path in sorted(set(found) & set(wanted))
        if found[path] != wanted[path]
    ]
    if wrong:
        listed = "\n  ".join(wrong[:20]) + ("\n  ..." if len(wrong) > 20 else "")
        raise ValueError(f"{name} does not fit the network ({len(wrong)} faults):\n  {listed}")


def _shapes(tree: dict) -> dict[str, tuple]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): tuple(value.shape) for path, value in leaves}
