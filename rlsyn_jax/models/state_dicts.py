"""Tensors of PyTorch checkpoints as Flax parameter trees.

Our modules carry the published names, with an underscore where PyTorch has a dot before a number:
`blocks.0.conv.weight` is `blocks_0/conv/kernel`. So a tree of shapes says which tensors must be
there, and one pass lists everything that does not fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import flax
import numpy as np


def torch_name(path: tuple[str, ...]) -> str:
    """Returns the PyTorch name of the parameter at a path of a Flax tree."""
    *modules, leaf = path
    leaf = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
    return ".".join([*(re.sub(r"_(\d+)$", r".\1", module) for module in modules), leaf])


def torch_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape that PyTorch gives the parameter at a path.

    Args:
        path: names down to the parameter.
        shape: its shape in Flax; kernels are [in, out] or [h, w, in, out].

    Returns:
        [out, in] or [out, in, h, w] for kernels; other shapes as they are.
    """
    if path[-1] == "kernel" and len(shape) in (2, 4):
        return (shape[-1], shape[-2], *shape[:-2])
    return tuple(shape)


def params_from_torch(
    state_dict: Mapping[str, Any],
    shapes: dict,
    *,
    rename: Callable[[str], str | None] = lambda name: name,
    prefix: str = "",
) -> dict:
    """Turns named tensors into a parameter tree.

    Args:
        state_dict: tensors by their PyTorch name: NumPy arrays, anything np.asarray takes, or
            PyTorch tensors (PyTorch itself is not imported).
        shapes: nested dict of what jax.eval_shape gives for the module's parameters.
        rename: turns a name of the state dict into the published one that `torch_name` gives, or
            into None where the tensor is to be left out.
        prefix: where any name begins with it, only those that do are read, and renamed without it.

    Returns:
        Nested dict of `shapes`' structure: float32 NumPy arrays, for the caller to put on devices.
        A 1 x 1 convolution [out, in, 1, 1] may stand where a linear layer is expected.

    Raises:
        ValueError: tensors are missing, extra, given twice, of a wrong shape, not numbers or not
            finite; all of them are listed, each under the name the state dict has for it.
    """
    if not isinstance(state_dict, Mapping) or not all(isinstance(key, str) for key in state_dict):
        raise ValueError(
            f"a state dict maps names to tensors; this {type(state_dict).__name__} does not"
        )
    expected = {
        torch_name(path): (path, torch_shape(path, leaf.shape))
        for path, leaf in flax.traverse_util.flatten_dict(shapes).items()
    }
    if not any(given.startswith(prefix) for given in state_dict):
        prefix = ""
    params, origin, faults = {}, {}, []
    for given, value in state_dict.items():
        name = rename(given.removeprefix(prefix)) if given.startswith(prefix) else None
        if name is None:
            continue
        if name not in expected:
            faults.append(f"extra: {given}")
            continue
        if name in origin:
            faults.append(f"given twice: {name}, as {origin[name]} and as {given}")
            continue
        origin[name] = given
        path, shape = expected[name]
        array = _as_float32(value)
        if array is None:
            faults.append(f"not an array of numbers: {given} is a {type(value).__name__}")
            continue
        if len(shape) == 2 and array.shape == (*shape, 1, 1):
            array = array.reshape(shape)
        if array.shape != shape:
            faults.append(f"wrong shape: {given} is {array.shape}, must be {shape}")
        elif not np.isfinite(array).all():
            faults.append(f"not finite: {given}")
        elif path[-1] == "kernel":
            axes = (2, 3, 1, 0) if array.ndim == 4 else (1, 0)
            params[path] = array.transpose(axes).copy(order="C")
        else:
            params[path] = array.copy()
    faults += [
        f"missing: {name}, of shape {shape}"
        for name, (_, shape) in expected.items()
        if name not in origin
    ]
    if faults:
        raise ValueError(
            f"{len(faults)} tensors of the state dict do not fit the model, which has "
            f"{len(expected)}:\n  " + "\n  ".join(sorted(faults))
        )
    return flax.traverse_util.unflatten_dict(params)


def _as_float32(value: Any) -> np.ndarray | None:
    """Returns the value as float32, perhaps sharing its memory; None if it is not numbers."""
    if hasattr(value, "detach"):
        # NumPy knows no bfloat16 of PyTorch's, so the cast comes first.
        value = value.detach().cpu().float().numpy()
    try:
        return np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        return None
