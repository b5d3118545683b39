"""Published weights onto our modules, and ours back to diffusers.

    python -m rlsyn_jax.models.import_weights SOURCE DEST [--licence TEXT] [--num-heads N]
        [--image-size HEIGHT WIDTH] [--patch-stride N]
    python -m rlsyn_jax.models.import_weights --to-diffusers SOURCE DEST [--pad-classes 1000]

The first writes a checkpoint into the folder DEST, for `restore_params`, config.pretrain.source and
config.autoencoder.path. SOURCE is a file of the published DiT (.pt), of a recognition network
(.pth: ResNet-50 and vision transformers of torchvision or timm, ResNet-50 of IBN-Net, IResNets of
InsightFace, OSNets of torchreid), of Stable Diffusion's autoencoder, a .safetensors file of any of
them, a folder of diffusers, or one with the two files of a tiny autoencoder. The second takes a
checkpoint, or a stage's folder, and writes a folder that diffusers' DiTTransformer2DModel loads.

diffusers does not compute what the published DiT computes from the same weights: its timestep
features have other frequencies, and by default one of its normalisations another epsilon. The
checkpoint's record tells both as SOURCE's own code has them, by the names of DiT's attributes.
Weights that the published code trained and that were put into a diffusers folder later, as those of
DiT-XL/2 were, are run as they were trained by leaving these attributes at their defaults.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from rlsyn_jax.models.autoencoder_kl import autoencoder_kl_from_torch
from rlsyn_jax.models.dit import DIT_SIZES, DiT, position_embedding, unstack_blocks
from rlsyn_jax.models.import_autoencoder import autoencoder_from_weights, is_autoencoder
from rlsyn_jax.models.import_recognizers import (
    iresnet_from_torch,
    osnet_from_torch,
    recognizer_from_torch,
    recognizer_record,
    resnet_from_torch,
    vit_from_torch,
)
from rlsyn_jax.models.torch_conversion import (
    Conversion,
    as_float32,
    fits,
    shape_text,
    to_torch_axes,
)
from rlsyn_jax.models.torch_names import (
    diffusers_copies,
    dit_depth,
    dit_layout,
    dit_sources,
)
from rlsyn_jax.models.weight_files import Weights, read_weights, sha256

__all__ = [
    "autoencoder_kl_from_torch",
    "dit_from_torch",
    "dit_sizes",
    "dit_to_diffusers",
    "export_diffusers",
    "import_checkpoint",
    "iresnet_from_torch",
    "osnet_from_torch",
    "recognizer_from_torch",
    "resnet_from_torch",
    "vit_from_torch",
]

# Settings of a diffusers model that our module has no other choice of.
_DIFFUSERS_SETTINGS = {
    "_class_name": "DiTTransformer2DModel",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
    "norm_type": "ada_norm_zero",
}
# What code computes besides its weights, by the names of DiT's attributes.
_ORIGINAL_NUMERICS = {"timestep_frequency_shift": 0, "mlp_norm_epsilon": 1e-6}
_DIFFUSERS_NUMERICS = {"timestep_frequency_shift": 1, "mlp_norm_epsilon": 1e-5}
_NULL_CLASS_OF_PIPELINE = 1000  # Written into DiTPipeline, whatever the model's classes are.
_POSITION_TOLERANCE = 5e-3  # Of a table of position embeddings in a half-precision file.


def dit_from_torch(state_dict: Mapping[str, Any]) -> dict:
    """Turns a published DiT's weights into parameters of `DiT`.

    Args:
        state_dict: floating tensors or arrays of any precision by name, either as
            facebookresearch/DiT names and lays them out or as diffusers' DiTTransformer2DModel
            does. The sizes are found out; the class table's last row is the null class.

    Returns:
        Nested dict of float32 NumPy arrays, for a DiT without scan_layers; `dit_sizes` tells its
        settings.

    Raises:
        ValueError: lists every tensor that is missing, unknown, of a wrong shape, not floating or
            not finite, and of diffusers' names each block's copy of the embeddings of timestep and
            class that is not the first block's, since our module has them only once.
    """
    layout = dit_layout(state_dict)
    depth = dit_depth(state_dict)
    sources = dit_sources(depth, layout)
    found = {
        path: _our_shape(np.shape(state_dict[names[0]]), path)
        for path, names in sources.items()
        if names[0] in state_dict
    }
    shapes, sizes = _dit_shapes(found, depth)
    conversion = Conversion(state_dict)
    params = conversion.convert(sources, shapes)
    _check_position_table(conversion, state_dict, sizes["width"])
    if layout == "diffusers":
        conversion.check_copies(diffusers_copies(depth))
    conversion.raise_if_wrong(f"these are not the weights of a DiT with {layout} names")
    return flax.traverse_util.unflatten_dict(params, sep="/")


def dit_sizes(params: dict) -> dict[str, Any]:
    """Finds out the settings of a DiT from its parameters.

    Args:
        params: parameters of a DiT, with scan_layers or without.

    Returns:
        {"num_classes", "patch_size", "width", "depth", "learn_sigma", "channels"}; all but the
        last are attributes of DiT. The number of heads does not show in the parameters.

    Raises:
        ValueError: lists every array that is missing, unknown or of a wrong shape.
    """
    return _checked(params)[1]


def dit_to_diffusers(params: dict, *, pad_classes: int = 0) -> dict[str, np.ndarray]:
    """Turns a DiT's parameters into the weights of diffusers' DiTTransformer2DModel.

    Args:
        params: parameters of a DiT, with scan_layers or without.
        pad_classes: lengthen the class table to this many classes by repeating the null class,
            where it has fewer. DiTPipeline takes row 1000 for the null class whatever the model's
            classes are, so that guidance is right there with 1000. No label changes its meaning.

    Returns:
        float32 arrays by diffusers' names.

    Raises:
        ValueError: lists every array that is missing, unknown or of a wrong shape.
    """
    flat, sizes = _checked(params)
    table = flat["y_embedder/embedding_table"]
    padding = np.repeat(table[-1:], max(0, pad_classes - sizes["num_classes"]), axis=0)
    flat["y_embedder/embedding_table"] = np.concatenate([table, padding])
    tensors = {}
    for path, names in dit_sources(sizes["depth"], "diffusers").items():
        value = flat[path].transpose(to_torch_axes(path, flat[path].ndim))
        for name, part in zip(names, np.split(value, len(names))):
            tensors[name] = np.ascontiguousarray(part, np.float32)
    for copy, original in diffusers_copies(sizes["depth"]).items():
        tensors[copy] = tensors[original]
    return tensors


def _our_shape(shape: tuple, path: str) -> tuple:
    """Returns the shape that a tensor has with us; () for a wrong number of axes."""
    wanted = 4 if path == "x_embedder/kernel" else 2 if path.endswith("/kernel") else len(shape)
    if len(shape) != wanted:
        return ()
    return tuple(shape[axis] for axis in np.argsort(to_torch_axes(path, len(shape))))


def _check_position_table(conversion: Conversion, state_dict: Mapping, width: int) -> None:
    """Compares a stored table of position embeddings, which are fixed, with ours."""
    for name in {"pos_embed", "pos_embed.pos_embed"} & set(state_dict):
        conversion.ignore([name])
        shape = tuple(np.shape(state_dict[name]))
        side = _grid_side(shape)
        if not side or shape[2] != width:
            conversion.report(f"shape: {name} is {shape_text(shape)}, must be (1, n * n, {width})")
            continue
        table, fixed = as_float32(state_dict[name]), position_embedding(side, side, width)
        if table is None or not np.allclose(table[0], fixed, rtol=0, atol=_POSITION_TOLERANCE):
            conversion.report(
                f"value: {name} is not the fixed sine-cosine table of {side} x {side} patches"
            )


def _grid_side(shape: tuple) -> int:
    """Returns the side of the grid of a table of position embeddings [1, side * side, d], or 0."""
    if len(shape) != 3 or shape[0] != 1:
        return 0
    side = round(shape[1] ** 0.5)
    return side if side * side == shape[1] else 0


def _dit_shapes(found: Mapping[str, tuple], depth: int) -> tuple[dict[str, tuple], dict[str, Any]]:
    """Returns the shapes by path that a DiT should have that has these, and its sizes.

    Args:
        found: shapes of ours by path, as far as there are any.
        depth: number of blocks.
    """
    widths = collections.Counter(
        found[path][axis]
        for path, axis in [
            ("x_embedder/bias", 0),
            ("y_embedder/embedding_table", -1),
            ("final_linear/kernel", 0),
            *((f"blocks_{index}/attn/proj/bias", 0) for index in range(depth)),
        ]
        if found.get(path)
    )
    # What one wrong array says is outvoted by the others.
    width = widths.most_common(1)[0][0] if widths else 4
    patches = found.get("x_embedder/kernel", ())
    known = len(patches) == 4 and 0 not in patches
    patch, channels = (patches[0], patches[2]) if known else (1, 1)
    outputs = found.get("final_linear/bias", (0,))[:1]
    rows = found.get("y_embedder/embedding_table", (2,))[:1]
    sizes = {
        "num_classes": max(0, rows[0] - 1) if rows else 1,
        "patch_size": patch,
        "width": width,
        "depth": depth,
        "learn_sigma": outputs == (2 * patch * patch * channels,),
    }
    x = jax.ShapeDtypeStruct((1, patch, patch, channels), jnp.float32)
    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    model = DiT(num_heads=1, **{**sizes, "depth": 1})
    params = jax.eval_shape(model.init, jax.random.key(0), x, label, label)["params"]
    # All blocks are alike, and tracing them takes time.
    params |= {f"blocks_{index}": params["blocks_0"] for index in range(depth)}
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    shapes = {path: value.shape for path, value in flat.items()}
    shapes["y_embedder/embedding_table"] = ("classes + 1", width)
    if not known:
        shapes["x_embedder/kernel"] = ("patch", "patch", "channels", width)
        shapes["final_linear/kernel"] = (width, "outputs")
        shapes["final_linear/bias"] = ("outputs",)
    return shapes, {**sizes, "channels": channels}


def _checked(params: dict) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns a DiT's arrays by path, without scan_layers, and its sizes.

    Raises:
        ValueError: lists every array that is missing, unknown or of a wrong shape.
    """
    if "blocks" in params:
        params = unstack_blocks(params)
    flat = {
        path: np.asarray(value)
        for path, value in flax.traverse_util.flatten_dict(params, sep="/").items()
    }
    shapes, sizes = _dit_shapes(
        {path: value.shape for path, value in flat.items()}, dit_depth(flat)
    )
    wrong = [f"missing: {path}" for path in shapes if path not in flat]
    wrong += [f"unknown: {path}" for path in flat if path not in shapes]
    wrong += [
        f"shape: {path} is {shape_text(flat[path].shape)}, must be {shape_text(shape)}"
        for path, shape in shapes.items()
        if path in flat and not fits(flat[path].shape, shape)
    ]
    if wrong:
        raise ValueError(
            f"these are not the parameters of a DiT ({len(wrong)} faults):\n  " + "\n  ".join(wrong)
        )
    return flat, sizes


def import_checkpoint(
    source: str | Path,
    destination: str | Path,
    *,
    licence: str = "",
    num_heads: int = 0,
    image_size: tuple[int, int] | None = None,
    patch_stride: int = 0,
) -> dict:
    """Writes weights from elsewhere as a checkpoint.

    Args:
        source: a file or folder as `read_weights` takes, of a DiT, an autoencoder or a recognition
            network.
        destination: folder of the checkpoint; empty or not there.
        licence: text to keep with it.
        num_heads: attention heads; 0 = those of the published size of the width and depth, or what
            a diffusers folder says.
        image_size: height and width of a vision transformer's images; None = the square that the
            weights are for.
        patch_stride: as `ViT` has it.

    Returns:
        The record that is kept with it: the network, its settings, and the files with their hashes.
        A recognition network's is a module in models/, made with the settings in "backbone".

    Raises:
        FileNotFoundError: the source is not there.
        ModuleNotFoundError: the source needs PyTorch, which is not installed.
        ValueError: the source cannot be read or does not fit, or the destination is not empty.
        StorageError: the destination cannot be written.
    """
    # Models know nothing of training; only this command writes as a stage does.
    from rlsyn_jax.training.atomic_files import check_absent, whole_folder
    from rlsyn_jax.training.checkpoints import CheckpointStore

    check_absent(destination)
    weights = read_weights(source)
    recognizer = recognizer_from_torch(
        weights.tensors, image_size=image_size, patch_stride=patch_stride, num_heads=num_heads
    )
    if is_autoencoder(weights):
        params, record = autoencoder_from_weights(weights)
        state = {"params": params}
    elif recognizer is not None:
        model, state = recognizer
        record = recognizer_record(model, state, image_size)
    else:
        params = dit_from_torch(weights.tensors)
        state, record = {"params": params}, _dit_record(weights, params, num_heads)
    record["imported"] = {
        "source": str(source),
        "sha256": {path.name: sha256(path) for path in weights.files},
        "part": weights.part,
        "licence": licence,
    }
    with whole_folder(destination) as folder, CheckpointStore(folder) as store:
        store.save(1, state, config=record, iterator_state=None)
    return record


def _dit_record(weights: Weights, params: dict, num_heads: int) -> dict:
    """Returns what to keep about a DiT, where a run's configuration has the same fields."""
    sizes = dit_sizes(params)
    width, channels, classes = sizes["width"], sizes.pop("channels"), sizes.pop("num_classes")
    config = weights.config
    numerics, image_size = _ORIGINAL_NUMERICS, None
    if dit_layout(weights.tensors) == "diffusers":
        numerics = _DIFFUSERS_NUMERICS
    elif "pos_embed" in weights.tensors:
        table = tuple(np.shape(weights.tensors["pos_embed"]))
        image_size = _grid_side(table) * sizes["patch_size"]
    if config is not None:
        for name, value in _DIFFUSERS_SETTINGS.items():
            if config.get(name, value) != value:
                raise ValueError(f"its config.json has {name} {config[name]!r}, not {value!r}")
        image_size, heads = config.get("sample_size"), config.get("num_attention_heads")
        epsilon = config.get("norm_eps", _DIFFUSERS_NUMERICS["mlp_norm_epsilon"])
        if type(heads) is not int or type(image_size) not in (int, type(None)):
            raise ValueError(
                f"its config.json has num_attention_heads {heads!r} and sample_size {image_size!r};"
                " both must be whole numbers"
            )
        if type(epsilon) not in (int, float) or not epsilon > 0:
            raise ValueError(f"its config.json has norm_eps {epsilon!r}; it must be above 0")
        if num_heads and num_heads != heads:
            raise ValueError(f"its config.json has {heads} attention heads, not {num_heads}")
        num_heads = heads
        numerics = numerics | {"mlp_norm_epsilon": epsilon}
    published = [
        size["num_heads"]
        for size in DIT_SIZES.values()
        if (size["width"], size["depth"]) == (width, sizes["depth"])
    ]
    num_heads = num_heads or (published[0] if published else 0)
    if not num_heads:
        raise ValueError(
            f"width {width} and depth {sizes['depth']} are of no published size; give --num-heads"
        )
    if num_heads < 1 or width % num_heads:
        raise ValueError(f"width {width} is not divisible by {num_heads} heads")
    return {
        "network": "DiT",
        "num_classes": classes,
        "generator": {**sizes, "num_heads": num_heads, **numerics},
        "image": {"size": image_size, "channels": channels},
    }


def export_diffusers(
    source: str | Path,
    destination: str | Path,
    *,
    pad_classes: int = 0,
    sample_size: int = 0,
    num_heads: int = 0,
) -> list[str]:
    """Writes a checkpoint's DiT as a folder that diffusers' DiTTransformer2DModel loads.

    Args:
        source: a folder as `restore_params` takes: an imported checkpoint's, or a stage's.
        destination: folder to write; empty or not there.
        pad_classes: as `dit_to_diffusers` takes it.
        sample_size: side of the network's input; 0 = what the checkpoint's record says.
        num_heads: attention heads; 0 = what the checkpoint's record says.

    Returns:
        What a user of the folder should know, as sentences; may be empty.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is not that of a DiT, its record lacks what is needed, or the destination is
            not empty.
        StorageError: the destination cannot be written.
    """
    from rlsyn_jax.training.atomic_files import check_absent, check_room, whole_folder, write_json
    from rlsyn_jax.training.checkpoints import restore_config, restore_params

    check_absent(destination)
    params, record = restore_params(source), restore_config(source)
    tensors = dit_to_diffusers(params, pad_classes=pad_classes)
    sizes = dit_sizes(params)
    generator = _ORIGINAL_NUMERICS | (record.get("generator") or {})
    num_heads = num_heads or generator.get("num_heads", 0)
    sample_size = sample_size or (record.get("image") or {}).get("size") or 0
    if num_heads < 1 or sizes["width"] % num_heads:
        raise ValueError(f"num_heads is {num_heads}; give one that divides {sizes['width']}")
    if sample_size < 1 or sample_size % sizes["patch_size"]:
        raise ValueError(
            f"sample_size is {sample_size}; give one that is divisible by {sizes['patch_size']}"
        )
    classes = max(sizes["num_classes"], pad_classes)
    config = _DIFFUSERS_SETTINGS | {
        "num_attention_heads": num_heads,
        "attention_head_dim": sizes["width"] // num_heads,
        "in_channels": sizes["channels"],
        "out_channels": sizes["channels"] * (2 if sizes["learn_sigma"] else 1),
        "num_layers": sizes["depth"],
        "sample_size": sample_size,
        "patch_size": sizes["patch_size"],
        "num_embeds_ada_norm": classes,
        "norm_eps": generator["mlp_norm_epsilon"],
    }
    with whole_folder(destination) as folder:
        check_room(folder, sum(value.nbytes for value in tensors.values()), "the weights")
        write_json(folder / "config.json", config)
        file = folder / "diffusion_pytorch_model.safetensors"
        save_file(tensors, file, metadata={"format": "pt"})
        with open(file, "rb+") as written:
            os.fsync(written.fileno())
    notes = []
    if generator["timestep_frequency_shift"] != 1:
        notes.append(
            "diffusers computes other timestep features than this network was trained with "
            "(timestep_frequency_shift 0, as the published DiT), so that its output differs"
        )
    if classes != _NULL_CLASS_OF_PIPELINE:
        notes.append(
            f"the null class is row {classes}, and DiTPipeline's guidance takes row "
            f"{_NULL_CLASS_OF_PIPELINE}; up to as many classes, --pad-classes 1000 mends that"
        )
    return notes


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; ends the process with one message where something is wrong.

    Args:
        arguments: command line; default the process's own.
    """
    parser = argparse.ArgumentParser(
        prog="python -m rlsyn_jax.models.import_weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="file or folder of weights; with --to-diffusers checkpoint")
    parser.add_argument("destination", help="folder to write; empty or not there")
    parser.add_argument("--num-heads", type=int, default=0, help="heads, where they are not known")
    parser.add_argument(
        "--image-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of a ViT's images"
    )
    parser.add_argument("--patch-stride", type=int, default=0, help="of a ViT; 0 = no overlap")
    parser.add_argument("--licence", default="", help="text to keep with an imported checkpoint")
    parser.add_argument("--to-diffusers", action="store_true", help="export instead of import")
    parser.add_argument("--pad-classes", type=int, default=0, help="1000 for DiTPipeline")
    parser.add_argument("--sample-size", type=int, default=0, help="side of the network's input")
    options = parser.parse_args(arguments)
    try:
        if options.to_diffusers:
            notes = export_diffusers(
                options.source,
                options.destination,
                pad_classes=options.pad_classes,
                sample_size=options.sample_size,
                num_heads=options.num_heads,
            )
            print(f"{options.destination}: DiTTransformer2DModel of diffusers")
            for note in notes:
                print(f"note: {note}")
        else:
            record = import_checkpoint(
                options.source,
                options.destination,
                licence=options.licence,
                num_heads=options.num_heads,
                image_size=tuple(options.image_size) if options.image_size else None,
                patch_stride=options.patch_stride,
            )
            print(f"{options.destination}: {json.dumps(record)}")
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
