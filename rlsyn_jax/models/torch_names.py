"""What PyTorch's codes call the modules that ours correspond to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# Our names of modules, and theirs: of several, the outputs are put one after the other.
_MODULES = {
    "original": {
        "x_embedder": ("x_embedder.proj",),
        "t_embedder/mlp_0": ("t_embedder.mlp.0",),
        "t_embedder/mlp_2": ("t_embedder.mlp.2",),
        "y_embedder": ("y_embedder.embedding_table",),
        "final_adaLN_modulation": ("final_layer.adaLN_modulation.1",),
        "final_linear": ("final_layer.linear",),
    },
    "diffusers": {
        "x_embedder": ("pos_embed.proj",),
        "t_embedder/mlp_0": ("transformer_blocks.0.norm1.emb.timestep_embedder.linear_1",),
        "t_embedder/mlp_2": ("transformer_blocks.0.norm1.emb.timestep_embedder.linear_2",),
        "y_embedder": ("transformer_blocks.0.norm1.emb.class_embedder.embedding_table",),
        "final_adaLN_modulation": ("proj_out_1",),
        "final_linear": ("proj_out_2",),
    },
}
_BLOCK_MODULES = {
    "original": {
        "adaLN_modulation": ("blocks.{}.adaLN_modulation.1",),
        "attn/qkv": ("blocks.{}.attn.qkv",),
        "attn/proj": ("blocks.{}.attn.proj",),
        "mlp_fc1": ("blocks.{}.mlp.fc1",),
        "mlp_fc2": ("blocks.{}.mlp.fc2",),
    },
    "diffusers": {
        "adaLN_modulation": ("transformer_blocks.{}.norm1.linear",),
        "attn/qkv": tuple(f"transformer_blocks.{{}}.attn1.to_{part}" for part in "qkv"),
        "attn/proj": ("transformer_blocks.{}.attn1.to_out.0",),
        "mlp_fc1": ("transformer_blocks.{}.ff.net.0.proj",),
        "mlp_fc2": ("transformer_blocks.{}.ff.net.2",),
    },
}
# Of vision transformers: arrays that are no module's, modules, and modules of a block.
_VIT_ARRAYS = {
    "timm": {"cls_token": "cls_token", "pos_embed": "pos_embed"},
    "torchvision": {"cls_token": "class_token", "pos_embed": "encoder.pos_embedding"},
}
_VIT_MODULES = {
    "timm": {"patch_embed": "patch_embed.proj", "norm": "norm"},
    "torchvision": {"patch_embed": "conv_proj", "norm": "encoder.ln"},
}
_VIT_BLOCK_MODULES = {
    "timm": {
        "norm1": "blocks.{}.norm1",
        "attn/qkv": "blocks.{}.attn.qkv",
        "attn/proj": "blocks.{}.attn.proj",
        "norm2": "blocks.{}.norm2",
        "mlp_fc1": "blocks.{}.mlp.fc1",
        "mlp_fc2": "blocks.{}.mlp.fc2",
    },
    "torchvision": {
        "norm1": "encoder.layers.encoder_layer_{}.ln_1",
        "attn/qkv": "encoder.layers.encoder_layer_{}.self_attention.in_proj",
        "attn/proj": "encoder.layers.encoder_layer_{}.self_attention.out_proj",
        "norm2": "encoder.layers.encoder_layer_{}.ln_2",
        "mlp_fc1": "encoder.layers.encoder_layer_{}.mlp.0",
        "mlp_fc2": "encoder.layers.encoder_layer_{}.mlp.3",
    },
}
# What torchvision renamed is still as it was in its published files.
_OLDER = "older torchvision"
_VIT_ARRAYS[_OLDER], _VIT_MODULES[_OLDER] = _VIT_ARRAYS["torchvision"], _VIT_MODULES["torchvision"]
_VIT_BLOCK_MODULES[_OLDER] = _VIT_BLOCK_MODULES["torchvision"] | {
    "mlp_fc1": "encoder.layers.encoder_layer_{}.mlp.linear_1",
    "mlp_fc2": "encoder.layers.encoder_layer_{}.mlp.linear_2",
}
# Our names of arrays within a module, and theirs.
LEAVES = {
    "kernel": "weight",
    "embedding_table": "weight",
    "scale": "weight",
    "negative_slope": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def dit_layout(state_dict: Mapping[str, Any]) -> str:
    """Returns whose names the tensors of a DiT have: "original" or "diffusers".

    Raises:
        ValueError: nobody's.
    """
    beginnings = {
        "original": ("blocks.", "x_embedder.", "final_layer."),
        "diffusers": ("transformer_blocks.", "pos_embed.proj.", "proj_out_"),
    }
    for layout, names in beginnings.items():
        if any(name.startswith(names) for name in state_dict):
            return layout
    raise ValueError(
        "no tensor has a name of the published DiT or of diffusers' DiTTransformer2DModel; the "
        f"{len(state_dict)} names begin with {sorted(state_dict)[:5]}"
    )


def dit_depth(names: Iterable[str]) -> int:
    """Returns the number of blocks, at least 1, in which gaps count."""
    found = [re.match(r"(?:transformer_)?blocks[._](\d{1,3})(?:[./]|$)", name) for name in names]
    return max((int(match[1]) + 1 for match in found if match), default=1)


def dit_sources(depth: int, layout: str) -> dict[str, tuple[str, ...]]:
    """Returns the names of the tensors that each of our arrays, by path, is made of."""
    modules = dict(_MODULES[layout])
    for index in range(depth):
        for module, names in _BLOCK_MODULES[layout].items():
            modules[f"blocks_{index}/{module}"] = tuple(name.format(index) for name in names)
    return {
        f"{module}/{leaf}": tuple(f"{name}.{LEAVES[leaf]}" for name in names)
        for module, names in modules.items()
        for leaf in (("embedding_table",) if module == "y_embedder" else ("kernel", "bias"))
    }


def diffusers_copies(depth: int) -> dict[str, str]:
    """Returns the first block's tensors of which all other blocks have copies, by the copies."""
    first = [
        name
        for names in dit_sources(1, "diffusers").values()
        for name in names
        if ".norm1.emb." in name
    ]
    return {
        name.replace(".0.norm1.", f".{index}.norm1."): name
        for index in range(1, depth)
        for name in first
    }


def resnet_modules(instance_norm_stages: int = 0) -> dict[str, str]:
    """Returns PyTorch's names of a ResNet-50's modules by ours.

    Args:
        instance_norm_stages: as `ResNet` has it; the names within are those of IBN-Net.
    """
    modules = {"Conv_0": "conv1", "BatchNorm_0": "bn1"}
    blocks = [(stage, i) for stage, size in enumerate((3, 4, 6, 3), 1) for i in range(size)]
    for number, (stage, index) in enumerate(blocks):
        ours, theirs = f"BottleneckBlock_{number}", f"layer{stage}.{index}"
        parts = {f"Conv_{layer}": f"conv{layer + 1}" for layer in range(3)}
        parts["Conv_3"] = "downsample.0"
        norms = ["bn1", "bn2", "bn3", "downsample.1"]
        if stage <= instance_norm_stages:
            norms.remove("bn1")
            parts |= {f"InstanceBatchNorm_0/{half}": f"bn1.{half}" for half in ("IN", "BN")}
        parts |= {f"BatchNorm_{layer}": name for layer, name in enumerate(norms)}
        modules |= {f"{ours}/{part}": f"{theirs}.{name}" for part, name in parts.items()}
    return modules


def vit_layout(state_dict: Mapping[str, Any]) -> str:
    """Returns whose names the tensors of a vision transformer have.

    Args:
        state_dict: tensors by name.

    Returns:
        "timm", which TransReID's code shares, "torchvision", or "older torchvision", which
        is how torchvision's published files still are.
    """
    if not any(name.startswith(("encoder.", "conv_proj.", "class_token")) for name in state_dict):
        return "timm"
    older = any(".mlp.linear_" in name for name in state_dict)
    return "older torchvision" if older else "torchvision"


def vit_depth(names: Iterable[str]) -> int:
    """Returns the number of blocks, at least 1, in which gaps count."""
    found = [re.match(r"(?:blocks\.|encoder\.layers\.encoder_layer_)(\d{1,3})\.", n) for n in names]
    return max((int(match[1]) + 1 for match in found if match), default=1)


def vit_sources(depth: int, layout: str) -> dict[str, str]:
    """Returns the name of the tensor that each of our arrays, by path, is made of."""
    modules = dict(_VIT_MODULES[layout])
    for index in range(depth):
        for module, name in _VIT_BLOCK_MODULES[layout].items():
            modules[f"blocks_{index}/{module}"] = name.format(index)
    sources = dict(_VIT_ARRAYS[layout])
    for module, name in modules.items():
        weight = "scale" if module.rpartition("/")[2].startswith("norm") else "kernel"
        # torchvision's joint projection ends its name in another way.
        joint = "_" if name.endswith(".in_proj") else "."
        sources[f"{module}/{weight}"] = f"{name}{joint}weight"
        sources[f"{module}/bias"] = f"{name}{joint}bias"
    return sources


def dotted(module: str) -> str:
    """Returns PyTorch's name of a module of ours that has it with underscores before numbers."""
    return re.sub(r"_(\d+)(?=_|/|$)", r".\1", module).replace("/", ".")
