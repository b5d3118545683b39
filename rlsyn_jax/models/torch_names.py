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
# Our names of arrays within a module, and theirs.
LEAVES = {
    "kernel": "weight",
    "embedding_table": "weight",
    "scale": "weight",
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


def resnet_modules() -> dict[str, str]:
    """Returns PyTorch's names of a ResNet-50's modules by ours."""
    modules = {"Conv_0": "conv1", "BatchNorm_0": "bn1"}
    blocks = [(stage, i) for stage, size in enumerate((3, 4, 6, 3), 1) for i in range(size)]
    for number, (stage, index) in enumerate(blocks):
        ours, theirs = f"BottleneckBlock_{number}", f"layer{stage}.{index}"
        for layer in range(3):
            modules[f"{ours}/Conv_{layer}"] = f"{theirs}.conv{layer + 1}"
            modules[f"{ours}/BatchNorm_{layer}"] = f"{theirs}.bn{layer + 1}"
        modules[f"{ours}/Conv_3"] = f"{theirs}.downsample.0"
        modules[f"{ours}/BatchNorm_3"] = f"{theirs}.downsample.1"
    return modules
