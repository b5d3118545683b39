"""Low-rank adaptation: a small parameter tree that is added to frozen dense kernels.

Hu et al., arXiv 2106.09685: W' = W + A B (their alpha is the rank here), with B = 0 at the start,
so that the adapted model begins as the frozen one.
"""

from __future__ import annotations

import flax
import jax
import jax.numpy as jnp

DEFAULT_TARGETS = ("qkv", "proj", "mlp_fc1", "mlp_fc2")


def init_lora(key: jax.Array, params: dict, *, rank: int, targets: tuple = DEFAULT_TARGETS) -> dict:
    """Makes the low-rank pairs for the kernels of the named modules.

    Args:
        key: typed random key.
        params: the frozen parameters, nested dict.
        rank: inner dimension, at least 1.
        targets: names of the dense modules to adapt.

    Returns:
        {path joined by "/": {"a": [in, rank], "b": [rank, out]}}, float32; all b are zero. Kernels
        of stacked layers, [layers, in, out], have pairs with the same leading axis.

    Raises:
        ValueError: rank below 1, or no module of those names.
    """
    if rank < 1:
        raise ValueError(f"LoRA rank must be at least 1, got {rank}")
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    names = sorted(
        name
        for name, value in flat.items()
        if name.endswith("/kernel") and name.split("/")[-2] in targets and value.ndim in (2, 3)
    )
    if not names:
        raise ValueError(f"no dense kernel belongs to a module named one of {targets}")
    pairs = {}
    for index, name in enumerate(names):
        *layers, rows, columns = flat[name].shape
        a = jax.random.normal(jax.random.fold_in(key, index), (*layers, rows, rank))
        pairs[name] = {"a": a / jnp.sqrt(rows), "b": jnp.zeros((*layers, rank, columns))}
    return pairs


def merge_lora(params: dict, lora: dict) -> dict:
    """Returns params with a @ b added to each adapted kernel (differentiable in both)."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    for name, pair in lora.items():
        flat[name] = flat[name] + (pair["a"] @ pair["b"]).astype(flat[name].dtype)
    return flax.traverse_util.unflatten_dict(flat, sep="/")
