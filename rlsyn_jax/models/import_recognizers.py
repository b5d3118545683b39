"""Published weights of recognition networks onto our modules.

Names may begin with "module.", as of a network that was trained on several devices. What comes from
the training codes of bag of tricks and TransReID, whose network is "base." and whose BN neck is
"bottleneck.", is read with its neck; a network without one gets a fresh one.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rlsyn_jax.models.iresnet import IResNet
from rlsyn_jax.models.osnet import OSNet
from rlsyn_jax.models.resnet import FRESH_POWER, ResNet, ResNet50, ResNet50IBN
from rlsyn_jax.models.torch_conversion import Conversion, shape_text
from rlsyn_jax.models.torch_names import (
    LEAVES,
    dotted,
    resnet_modules,
    vit_depth,
    vit_layout,
    vit_sources,
)
from rlsyn_jax.models.vit import VIT_SIZES, ViT, patch_grid

# Where only some tensors have their names and shapes, the networks of record are the measure.
_IMAGE_SIZE, _FACE_SIZE = (32, 32), (112, 112)
# What arrays begin with that the weights do not have: a neck's, and the power of the pooling.
_FRESH = {"scale": 1, "mean": 0, "var": 1, "p": FRESH_POWER}
# The fields of modules that are found out from weights.
_SETTINGS = {
    "ResNet": (),
    "IResNet": ("stage_sizes", "width", "embedding_dim"),
    "OSNet": ("width_multiplier", "embedding_dim"),
    "ViT": ("patch_size", "patch_stride", "width", "depth", "num_heads", "mlp_ratio"),
}


def resnet_from_torch(state_dict: Mapping[str, Any], *, pooling: str = "mean") -> dict:
    """Turns a ResNet-50's weights into variables of `ResNet50`, or IBN-Net's into `ResNet50IBN`'s.

    The names are torchvision's, which are timm's too, and within IBN-Net's first normalisations
    bn1.IN and bn1.BN. The classifier is left out; what their network hands to it is `features` of
    ours. Published weights want images whose channels were normalised as in their training, rather
    than ours in [-1, 1].

    Args:
        state_dict: floating tensors or arrays of any precision by name.
        pooling: as `ResNet` has it; with "gem", its power is fresh.

    Returns:
        {"params", "batch_stats"}, nested dicts of float32 NumPy arrays.

    Raises:
        ValueError: lists every tensor that is missing, unknown, of a wrong shape, not floating or
            not finite.
    """
    tensors, given = _unwrapped(state_dict)
    model = _resnet50(tensors)(pooling=pooling)
    modules = resnet_modules(model.instance_norm_stages)
    channels = _axis(tensors, "conv1.weight", 1, 3)
    return _variables(
        Conversion(tensors, given),
        tensors,
        _shapes(model, (*_IMAGE_SIZE, channels)),
        lambda module: modules[module],
        headline="these are not the weights of a ResNet-50",
    )


def iresnet_from_torch(state_dict: Mapping[str, Any]) -> dict:
    """Turns the weights of InsightFace's arcface_torch networks into variables of `IResNet`.

    Args:
        state_dict: floating tensors or arrays of any precision by name. The sizes are found out,
            and `recognizer_from_torch` gives the module that has them. Faces are 112 x 112.

    Returns:
        {"params", "batch_stats"}, nested dicts of float32 NumPy arrays.

    Raises:
        ValueError: lists every tensor that is missing, unknown, of a wrong shape, not floating or
            not finite; so is a scale of the last normalisation that is not 1, as trained there.
    """
    tensors, given = _unwrapped(state_dict)
    conversion = Conversion(tensors, given)
    conversion.check_constant("features.weight", 1)
    channels = _axis(tensors, "conv1.weight", 1, 3)
    return _variables(
        conversion,
        tensors,
        _shapes(_iresnet(tensors), (*_FACE_SIZE, channels)),
        dotted,
        headline="these are not the weights of an IResNet for faces of 112 x 112",
    )


def osnet_from_torch(state_dict: Mapping[str, Any]) -> dict:
    """Turns the weights of torchreid's OSNet into variables of `OSNet`.

    The classifier is left out; what their network hands to it is `features` of ours.

    Args:
        state_dict: floating tensors or arrays of any precision by name. The width is found out, and
            `recognizer_from_torch` gives the module that has it.

    Returns:
        {"params", "batch_stats"}, nested dicts of float32 NumPy arrays.

    Raises:
        ValueError: lists every tensor that is missing, unknown, of a wrong shape, not floating or
            not finite.
    """
    tensors, given = _unwrapped(state_dict)
    channels = _axis(tensors, "conv1.conv.weight", 1, 3)
    return _variables(
        Conversion(tensors, given),
        tensors,
        _shapes(_osnet(tensors), (*_IMAGE_SIZE, channels)),
        dotted,
        headline="these are not the weights of an OSNet",
    )


def vit_from_torch(
    state_dict: Mapping[str, Any],
    *,
    image_size: tuple[int, int] | None = None,
    patch_stride: int = 0,
) -> dict:
    """Turns timm's or torchvision's vision transformer into variables of `ViT`.

    The classifier is left out; what their network hands to it, the class token, is `features` of
    ours. Position embeddings of another grid of patches are interpolated linearly, as TransReID
    does it (He et al., arXiv 2102.04378).

    Args:
        state_dict: floating tensors or arrays of any precision by name. The sizes are found out,
            and `recognizer_from_torch` gives the module that has them.
        image_size: height and width of the images that ours is to embed, such as (256, 128); None =
            the square that the weights are for.
        patch_stride: as `ViT` has it.

    Returns:
        {"params", "batch_stats"}, nested dicts of float32 NumPy arrays.

    Raises:
        ValueError: lists every tensor that is missing, unknown, of a wrong shape, not floating or
            not finite; or the image does not divide into patches.
    """
    tensors, given = _unwrapped(state_dict)
    layout = vit_layout(tensors)
    model = _vit(tensors, patch_stride=patch_stride, num_heads=1)
    sources = vit_sources(model.depth, layout)
    channels = _axis(tensors, sources["patch_embed/kernel"], 1, 3)
    positions = sources["pos_embed"]
    grid = _vit_grid(tensors, model, image_size)
    stride = patch_stride or model.patch_size
    height, width = ((count - 1) * stride + model.patch_size for count in grid)
    # All blocks are alike, and tracing them takes time.
    shapes = _shapes(model.clone(depth=1), (height, width, channels))
    first = [path for path in shapes if path.startswith("params/blocks_0/")]
    for index in range(1, model.depth):
        shapes |= {path.replace("blocks_0", f"blocks_{index}"): shapes[path] for path in first}
    expected = shapes["params/pos_embed"]
    shapes["params/pos_embed"] = (1, "1 + patches", model.width)
    conversion = Conversion(tensors, given)
    # Of the right width, whatever its length; what is wrong with others is told below.
    table = tuple(np.shape(tensors.get(positions, ())))
    fits_grid = table == expected
    if len(table) == 3 and table[::2] == expected[::2] and not fits_grid and not _side(table):
        conversion.report(
            f"shape: {given.get(positions, positions)} is {shape_text(table)}, must be "
            f"(1, 1 + n * n, {model.width}), or {shape_text(expected)} for images of "
            f"{height} x {width}"
        )
    variables = _variables(
        conversion,
        tensors,
        shapes,
        None,
        sources={f"params/{path}": name for path, name in sources.items()},
        headline=f"these are not the weights of a vision transformer with names of {layout}",
    )
    if not fits_grid:
        params = variables["params"]
        params["pos_embed"] = _resampled(params["pos_embed"], grid)
    return variables


def recognizer_from_torch(
    state_dict: Mapping[str, Any],
    *,
    image_size: tuple[int, int] | None = None,
    patch_stride: int = 0,
    num_heads: int = 0,
) -> tuple[nn.Module, dict] | None:
    """Finds out of which network the weights are, and turns them into its variables.

    Args:
        state_dict: floating tensors or arrays of any precision by name.
        image_size: height and width of a vision transformer's images, as `vit_from_torch` takes it.
        patch_stride: as `ViT` has it.
        num_heads: attention heads; 0 = those of the published size of the width.

    Returns:
        (module, variables) of `ResNet50`, `ResNet50IBN`, `IResNet`, `OSNet` or `ViT`; None where
        the names are of none of them.

    Raises:
        ValueError: lists what is wrong with the weights, or num_heads is missing or wrong.
    """
    tensors, _ = _unwrapped(state_dict)
    if any(re.match(r"layer\d\.\d+\.prelu\.", name) for name in tensors):
        return _iresnet(tensors), iresnet_from_torch(state_dict)
    if "layer1.0.conv1.weight" in tensors:
        return _resnet50(tensors)(), resnet_from_torch(state_dict)
    if any(name.startswith("conv2.0.conv2a.") for name in tensors):
        return _osnet(tensors), osnet_from_torch(state_dict)
    if {"cls_token", "class_token", "patch_embed.proj.weight", "conv_proj.weight"} & set(tensors):
        model = _vit(tensors, patch_stride=patch_stride, num_heads=num_heads)
        variables = vit_from_torch(state_dict, image_size=image_size, patch_stride=patch_stride)
        return model, variables
    return None


def recognizer_record(
    model: nn.Module, variables: dict, image_size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Returns what to keep about a network, as plain values.

    Args:
        model: as `recognizer_from_torch` returns it.
        variables: its variables.
        image_size: as it was given there.

    Returns:
        {"network": name of the module, "backbone": its fields as far as they were found out,
        "image": {"size": [height, width] or None, where any will do, "channels"}}.
    """
    name, size = type(model).__name__, None
    backbone = {field: getattr(model, field) for field in _SETTINGS[name]}
    if isinstance(model, ResNet):
        name = "ResNet50IBN" if model.instance_norm_stages else "ResNet50"
    elif isinstance(model, IResNet):
        size, backbone["stage_sizes"] = list(_FACE_SIZE), list(model.stage_sizes)
    elif isinstance(model, ViT):
        side = _side(variables["params"]["pos_embed"].shape)
        stride = model.patch_stride or model.patch_size
        size = list(image_size or 2 * [(side - 1) * stride + model.patch_size])
    first = {"ResNet": "Conv_0", "ViT": "patch_embed"}.get(type(model).__name__, "conv1")
    kernel = variables["params"][first]
    kernel = kernel.get("conv", kernel)["kernel"]  # [height, width, channels, features]
    return {
        "network": name,
        "backbone": backbone,
        "image": {"size": size, "channels": kernel.shape[2]},
    }


def _unwrapped(state_dict: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the tensors under their networks' own names, and by these the given names.

    Raises:
        ValueError: two tensors have one name there.
    """
    given = {name.removeprefix("module.").removeprefix("base."): name for name in state_dict}
    twice = set(state_dict) - set(given.values())
    if twice:
        raise ValueError(f"given twice, with module. or base. and without: {sorted(twice)}")
    return {name: state_dict[original] for name, original in given.items()}, given


def _axis(tensors: Mapping[str, Any], name: str, axis: int, otherwise: int) -> int:
    """Returns the length of a convolution's axis; `otherwise` where it is missing or no such."""
    shape = np.shape(tensors.get(name, ()))
    return shape[axis] if len(shape) == 4 and shape[axis] else otherwise


def _shapes(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, tuple]:
    """Returns the shapes of a network's variables by path, collection first."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(
        lambda key, images: model.init(key, images, train=False), jax.random.key(0), image
    )
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    return {path: value.shape for path, value in flat.items()}


def _variables(
    conversion: Conversion,
    tensors: Mapping[str, Any],
    shapes: dict[str, tuple],
    module_name: Callable[[str], str] | None,
    *,
    sources: Mapping[str, str] | None = None,
    headline: str,
) -> dict:
    """Takes a network's arrays out of tensors; every fault ends in one ValueError.

    Args:
        conversion: of the tensors, with what was found wrong so far.
        tensors: by their networks' names.
        shapes: of all our variables by path.
        module_name: PyTorch's name of a module of ours.
        sources: names of tensors by path, in place of module_name.
        headline: of the error.
    """
    names, fresh = dict(sources or {}), {}
    has_neck = any(name.startswith("bottleneck.") for name in tensors)
    for path in sorted(set(shapes) - set(names)):
        _, module, leaf = re.fullmatch(r"(\w+)/(.*)/(\w+)", path).groups()
        if module == "neck" and has_neck:
            names[path] = f"bottleneck.{LEAVES[leaf]}"
        elif module in ("neck", "gem"):
            fresh[path] = np.full(shapes[path], _FRESH[leaf], np.float32)
        else:
            names[path] = f"{module_name(module)}.{LEAVES[leaf]}"
    converted = conversion.convert({path: (name,) for path, name in names.items()}, shapes)
    if has_neck:
        conversion.check_constant("bottleneck.bias", 0)
    conversion.ignore(_unused(tensors))
    conversion.raise_if_wrong(headline)
    return flax.traverse_util.unflatten_dict(converted | fresh, sep="/")


def _unused(tensors: Iterable[str]) -> list[str]:
    """Returns the names of counters and classifiers."""
    # fc.weight is IResNet's embedding, which is known already.
    classifier = re.compile(r"(fc|head|heads\.head|heads|pre_logits\.fc|classifier)\.(weight|bias)")
    return [
        name
        for name in tensors
        if name.endswith(".num_batches_tracked") or classifier.fullmatch(name)
    ]


def _resnet50(tensors: Mapping[str, Any]) -> Callable[..., ResNet]:
    return ResNet50IBN if any(".bn1.IN." in name for name in tensors) else ResNet50


def _iresnet(tensors: Mapping[str, Any]) -> IResNet:
    """Returns the module of an IResNet's sizes."""
    found = [re.match(r"layer([1-9])\.(\d{1,3})\.", name) for name in tensors]
    sizes = collections.Counter()
    for match in filter(None, found):
        stage, index = int(match[1]), int(match[2])
        sizes[stage] = max(sizes[stage], index + 1)
    embedding = np.shape(tensors.get("fc.weight", ()))
    return IResNet(
        stage_sizes=tuple(max(1, sizes[stage]) for stage in range(1, max(sizes, default=4) + 1)),
        width=_axis(tensors, "conv1.weight", 0, 64),
        embedding_dim=embedding[0] if len(embedding) == 2 and embedding[0] else 512,
    )


def _osnet(tensors: Mapping[str, Any]) -> OSNet:
    """Returns the module of an OSNet's width."""
    bias = np.shape(tensors.get("fc.0.bias", ()))
    # Widths that no network of ours can have are told as the wrong shapes that they are.
    channels = 4 * max(1, round(_axis(tensors, "conv1.conv.weight", 0, 64) / 4))
    return OSNet(
        width_multiplier=channels / 64,
        embedding_dim=bias[0] if len(bias) == 1 and bias[0] else 512,
    )


def _vit(tensors: Mapping[str, Any], *, patch_stride: int, num_heads: int) -> ViT:
    """Returns the module of a vision transformer's sizes.

    Raises:
        ValueError: num_heads is 0 for a width of no published size, or does not divide the width.
    """
    depth = vit_depth(tensors)
    sources = vit_sources(depth, vit_layout(tensors))
    shapes = {path: np.shape(tensors.get(name, ())) for path, name in sources.items()}
    widths = collections.Counter(
        shape[-1]
        for path, shape in shapes.items()
        if path.endswith(("cls_token", "norm/bias", "norm1/bias", "norm2/bias", "proj/bias"))
        if shape and shape[-1]
    )
    # What one wrong array says is outvoted by the others.
    width = widths.most_common(1)[0][0] if widths else 768
    hidden = shapes["blocks_0/mlp_fc1/bias"]
    heads = {size["width"]: size["num_heads"] for size in VIT_SIZES.values()}
    num_heads = num_heads or heads.get(width, 0)
    if not num_heads:
        raise ValueError(f"width {width} is of no published size; give --num-heads")
    if num_heads < 0 or width % num_heads:
        raise ValueError(f"width {width} is not divisible by {num_heads} heads")
    return ViT(
        patch_size=_axis(tensors, sources["patch_embed/kernel"], 2, 16),
        patch_stride=patch_stride,
        width=width,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=hidden[0] / width if len(hidden) == 1 and hidden[0] else 4.0,
    )


def _vit_grid(
    tensors: Mapping[str, Any], model: ViT, image_size: tuple[int, int] | None
) -> tuple[int, int]:
    """Returns the rows and columns of patches that position embeddings are wanted for."""
    if image_size is not None:
        return patch_grid(tuple(image_size), model.patch_size, model.patch_stride)
    name = vit_sources(1, vit_layout(tensors))["pos_embed"]
    side = _side(np.shape(tensors.get(name, ()))) or 1
    return side, side


def _side(shape: tuple) -> int:
    """Returns the side of the grid of position embeddings [1, 1 + side * side, d], or 0."""
    patches = shape[1] - 1 if len(shape) == 3 else 0
    side = round(max(patches, 0) ** 0.5)
    return side if side * side == patches else 0


def _resampled(table: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Returns position embeddings [1, 1 + n, d] of a square grid, interpolated to another grid."""
    side, width = _side(table.shape), table.shape[2]
    square = table[0, 1:].reshape(side, side, width)
    # Antialiasing, which PyTorch leaves out by default, would smooth what is made smaller.
    resampled = jax.image.resize(square, (*grid, width), "linear", antialias=False)
    patches = np.asarray(resampled).reshape(1, -1, width)
    return np.concatenate([table[:, :1], patches], axis=1)
