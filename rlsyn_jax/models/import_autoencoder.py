"""Autoencoders of published weights: which network they are, and what is kept about them.

A checkpoint's record holds the network's name and its fields, so that it can be built again from
the record alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlsyn_jax.models.autoencoder_kl import AutoencoderKL, autoencoder_kl_from_torch
from rlsyn_jax.models.tiny_autoencoder import TinyAutoencoder, tiny_autoencoder_from_torch
from rlsyn_jax.models.weight_files import Weights

NETWORKS = {"AutoencoderKL": AutoencoderKL, "TinyAutoencoder": TinyAutoencoder}

# Fields of our modules -> their names in diffusers' config.json.
_KL_SETTINGS = {
    "block_out_channels": "block_out_channels",
    "layers_per_block": "layers_per_block",
    "norm_num_groups": "norm_num_groups",
    "latent_channels": "latent_channels",
    "in_channels": "in_channels",
    "out_channels": "out_channels",
    "scaling_factor": "scaling_factor",
    "shift_factor": "shift_factor",
    "mid_block_attention": "mid_block_add_attention",
    "use_quant_conv": "use_quant_conv",
    "use_post_quant_conv": "use_post_quant_conv",
}
_TINY_SETTINGS = {
    "latent_channels": "latent_channels",
    "encoder_blocks": "num_encoder_blocks",
    "decoder_blocks": "num_decoder_blocks",
    "image_channels": "in_channels",
}
_PUBLISHED_GROUPS = 4  # Of every normalised branch that was published; names do not tell it.


def is_autoencoder(weights: Weights) -> bool:
    """Whether weights are an autoencoder's, by their config or by their names."""
    if weights.config is not None:
        return str(weights.config["_class_name"]).startswith("Autoencoder")
    names = [name.removeprefix("first_stage_model.") for name in weights.tensors]
    parts = {name.split(".")[0] for name in names}
    return {"encoder", "decoder"} <= parts


def autoencoder_from_weights(weights: Weights) -> tuple[dict, dict[str, Any]]:
    """Turns an autoencoder's weights into parameters and a record.

    Sizes come from config.json of a diffusers folder. Without one, a tiny autoencoder's are found
    out from its names, and others are taken for Stable Diffusion's.

    Args:
        weights: as `read_weights` gives them, where `is_autoencoder`.

    Returns:
        (nested dict of float32 arrays, {"network", "autoencoder": fields of the module}).

    Raises:
        ValueError: lists all tensors that do not fit, or names the setting that cannot be built.
    """
    name = "AutoencoderKL"
    if weights.config is not None:
        kind = weights.config["_class_name"]
        if kind not in ("AutoencoderKL", "AutoencoderTiny"):
            raise ValueError(
                f"its config.json is of {kind}; AutoencoderKL and AutoencoderTiny are read"
            )
        name = "AutoencoderKL" if kind == "AutoencoderKL" else "TinyAutoencoder"
        fields = _configured(name, weights.config)
    elif _is_tiny(weights.tensors):
        name, fields = "TinyAutoencoder", _tiny_sizes(weights.tensors)
    else:
        fields = {}
    convert = {"AutoencoderKL": autoencoder_kl_from_torch}.get(name, tiny_autoencoder_from_torch)
    try:
        model = NETWORKS[name](**fields)
    except TypeError as error:
        raise ValueError(f"its sizes cannot be built: {error}") from error
    kept = _KL_SETTINGS if name == "AutoencoderKL" else (*_TINY_SETTINGS, "width")
    groups = {"norm_num_groups": model.norm_num_groups}
    record = {field: _plain(getattr(model, field)) for field in kept} | groups
    return convert(weights.tensors, model), {"network": name, "autoencoder": record}


def build_autoencoder(record: Mapping[str, Any], **fields: Any) -> AutoencoderKL | TinyAutoencoder:
    """Returns the module that a checkpoint's record tells.

    Args:
        record: what `autoencoder_from_weights` returned, or restore_config of its checkpoint.
        fields: others of the module, such as dtype.

    Raises:
        ValueError: the record is not an autoencoder's.
    """
    network = record.get("network")
    if network not in NETWORKS:
        raise ValueError(
            f"it holds a {network or 'run of this program'}, not an autoencoder; make one by "
            "python -m rlsyn_jax.models.import_weights SOURCE DEST"
        )
    settings = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record["autoencoder"].items()
    }
    return NETWORKS[network](**settings, **fields)


def _configured(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that a diffusers config.json gives."""
    settings = _KL_SETTINGS if name == "AutoencoderKL" else _TINY_SETTINGS
    fields = {ours: config[theirs] for ours, theirs in settings.items() if theirs in config}
    if fields.get("shift_factor", 0.0) is None:
        fields["shift_factor"] = 0.0
    for mean in ("latents_mean", "latents_std"):
        if config.get(mean) is not None:
            raise ValueError(f"its config.json has {mean}, which has no place in {name}")
    if name == "AutoencoderKL":
        return fields
    widths = {*config.get("encoder_block_out_channels", (64,))}
    widths |= {*config.get("decoder_block_out_channels", (64,))}
    scaling = config.get("scaling_factor", 1.0)
    if len(widths) != 1 or scaling != 1.0:
        raise ValueError(
            f"its config.json has layers of {sorted(widths)} channels and scaling_factor "
            f"{scaling}; the tiny autoencoder has one width and no scaling"
        )
    return {**fields, "width": widths.pop()}


def _is_tiny(tensors: Mapping[str, Any]) -> bool:
    """Tiny autoencoders number their layers; others name them."""
    return any(re.match(r"encoder\.(layers\.)?\d+\.", name) for name in tensors)


def _tiny_sizes(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Finds out a tiny autoencoder's fields from its names and shapes."""
    encoder, decoder = (_layers(tensors, half) for half in ("encoder", "decoder"))
    first = np.shape(tensors[next(n for n in tensors if re.match(r"encoder\.(layers\.)?0\.w", n))])
    last = [name for name in tensors if re.match(rf"encoder\.(layers\.)?{max(encoder)}\.w", name)]
    if len(first) != 4 or not last:
        raise ValueError("the encoder does not begin and end with a convolution")
    encoder_blocks, decoder_blocks = _runs(encoder), _runs(decoder)
    pooled = any(".pool." in name for name in tensors)
    return {
        "latent_channels": np.shape(tensors[last[0]])[0],
        "width": first[0],
        "encoder_blocks": encoder_blocks,
        "decoder_blocks": decoder_blocks,
        "norm_num_groups": _PUBLISHED_GROUPS if pooled else 0,
        "image_channels": first[1],
    }


def _layers(tensors: Mapping[str, Any], half: str) -> dict[int, bool]:
    """Returns the numbered layers of one half, and of each whether it is a residual block."""
    layers = {}
    for name in tensors:
        if found := re.match(rf"{half}\.(?:layers\.)?(\d+)\.(\w+)", name):
            number = int(found[1])
            layers[number] = layers.get(number, False) or found[2] in ("conv", "pool")
    return layers


def _runs(layers: Mapping[int, bool]) -> tuple[int, ...]:
    """Returns how many blocks follow each other between single convolutions."""
    counts, inside = [], 0
    for number in sorted(layers):
        if layers[number]:
            inside += 1
        elif inside:
            counts.append(inside)
            inside = 0
    return tuple(counts)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
