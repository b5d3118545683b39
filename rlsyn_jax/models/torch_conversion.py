"""Conversion of PyTorch's tensors to our arrays and back, telling everything that is wrong at once.

Our arrays go by the paths of flax ("blocks_0/attn/qkv/kernel"), PyTorch's by dotted names. Modules
that carry the published names, with an underscore where PyTorch has a dot before a number, are
converted by `params_from_torch`; others name the tensors of each array and use `Conversion`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np


class Conversion:
    """Takes tensors out of a state dict and collects everything that is wrong with them."""

    def __init__(self, state_dict: Mapping[str, Any], given: Mapping[str, str] | None = None):
        """Starts with every tensor unknown.

        Args:
            state_dict: tensors or arrays by name.
            given: the names under which faults are told, of those that have another.
        """
        self._tensors = state_dict
        self._given = given or {}
        self._known: set[str] = set()
        self._wrong: list[str] = []

    def convert(
        self, sources: dict[str, tuple[str, ...]], shapes: dict[str, tuple]
    ) -> dict[str, np.ndarray]:
        """Takes what our arrays are made of.

        Args:
            sources: names of tensors by our path; of several, the outputs are put one after the
                other.
            shapes: our shapes by path, as `fits` takes them.

        Returns:
            float32 arrays by path, without those that have a fault.
        """
        arrays = {}
        for path, names in sources.items():
            shape = shapes[path]
            wanted = list(torch_shape(path, shape))
            if len(names) > 1:
                wanted[0] //= len(names)
            parts = [self._take(name, tuple(wanted)) for name in names]
            if all(part is not None for part in parts):
                value = np.concatenate(parts) if len(parts) > 1 else parts[0]
                axes = np.argsort(to_torch_axes(path, value.ndim))
                arrays[path] = np.ascontiguousarray(value.transpose(axes))
        return arrays

    def _take(self, name: str, wanted: tuple) -> np.ndarray | None:
        self._known.add(name)
        given = self._given.get(name, name)
        if name not in self._tensors:
            self._wrong.append(f"missing: {given}")
            return None
        tensor = self._tensors[name]
        shape = tuple(np.shape(tensor))
        # A linear layer may have been kept as a convolution of one pixel.
        pointwise = len(wanted) == 2 and shape[2:] == (1, 1)
        if not fits(shape[:2] if pointwise else shape, wanted):
            self._wrong.append(
                f"shape: {given} is {shape_text(shape)}, must be {shape_text(wanted)}"
            )
            return None
        value = as_float32(tensor)
        if value is None:
            kind = getattr(tensor, "dtype", type(tensor).__name__)
            self._wrong.append(f"type: {given} is {kind}, must be floating")
            return None
        if not np.isfinite(value).all():
            self._wrong.append(f"value: {given} holds numbers that are not finite")
        return value.reshape(shape[:2]) if pointwise else value

    def ignore(self, names: Iterable[str]) -> None:
        """Accepts tensors that our module has no use for."""
        self._known.update(names)

    def report(self, fault: str) -> None:
        """Adds a fault to the list."""
        self._wrong.append(fault)

    def check_copies(self, copies: dict[str, str]) -> None:
        """Compares tensors that our module has only once: names of the kept ones by the others."""
        for copy, original in copies.items():
            self._known.add(copy)
            if copy not in self._tensors:
                self._wrong.append(f"missing: {copy}")
            elif original in self._tensors:
                one, other = (as_float32(self._tensors[name]) for name in (copy, original))
                if one is None or other is None or not np.array_equal(one, other):
                    self._wrong.append(f"copy: {copy} is not equal to {original}")

    def check_constant(self, name: str, constant: float) -> None:
        """Compares a tensor that our module does not have with the one value it must have."""
        self._known.add(name)
        given = self._given.get(name, name)
        if name not in self._tensors:
            self._wrong.append(f"missing: {given}")
            return
        value = as_float32(self._tensors[name])
        if value is None or not (value == constant).all():
            self._wrong.append(f"value: {given} is not {constant} throughout")

    def raise_if_wrong(self, headline: str) -> None:
        """Raises a ValueError of everything that was found, and of all unknown names."""
        unknown = [
            f"unknown: {self._given.get(name, name)}"
            for name in self._tensors
            if name not in self._known
        ]
        if wrong := self._wrong + unknown:
            raise ValueError(f"{headline} ({len(wrong)} faults):\n  " + "\n  ".join(wrong))


def params_from_torch(
    state_dict: Mapping[str, Any],
    shapes: dict,
    *,
    rename: Callable[[str], str | None] = lambda name: name,
    prefix: str = "",
) -> dict:
    """Turns the tensors of a network whose modules carry the published names into parameters.

    Args:
        state_dict: tensors by their PyTorch name: NumPy arrays, anything np.asarray takes, or
            PyTorch tensors (PyTorch itself is not imported).
        shapes: nested dict of what jax.eval_shape gives for the module's parameters.
        rename: turns a name of the state dict into the published one that `torch_name` gives, or
            into None where the tensor is to be left out.
        prefix: where any name begins with it, only those that do are read, and renamed without it.

    Returns:
        Nested dict of `shapes`' structure: float32 NumPy arrays, for the caller to put on devices.

    Raises:
        ValueError: tensors are missing, unknown, given twice, of a wrong shape, not floating or not
            finite; all of them are listed, each under the name the state dict has for it.
    """
    if not isinstance(state_dict, Mapping) or not all(isinstance(key, str) for key in state_dict):
        raise ValueError(
            f"a state dict maps names to tensors; this {type(state_dict).__name__} does not"
        )
    if not any(name.startswith(prefix) for name in state_dict):
        prefix = ""
    tensors, given, twice = {}, {}, []
    for name, tensor in state_dict.items():
        published = rename(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if published is None:
            continue
        if published in given:
            twice.append(f"given twice: {published}, as {given[published]} and as {name}")
            continue
        tensors[published], given[published] = tensor, name
    flat = flax.traverse_util.flatten_dict(shapes, sep="/")
    conversion = Conversion(tensors, given)
    params = conversion.convert(
        {path: (torch_name(path),) for path in flat},
        {path: leaf.shape for path, leaf in flat.items()},
    )
    for fault in twice:
        conversion.report(fault)
    conversion.raise_if_wrong(f"these are not the {len(flat)} tensors of the model")
    return flax.traverse_util.unflatten_dict(params, sep="/")


def torch_name(path: str) -> str:
    """Returns the PyTorch name of the array at a path whose modules carry the published names."""
    *modules, leaf = path.split("/")
    leaf = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
    return ".".join([*(re.sub(r"_(\d+)$", r".\1", module) for module in modules), leaf])


def as_float32(value: Any) -> np.ndarray | None:
    """Returns the array of a tensor or array; None where it is not floating."""
    if hasattr(value, "detach"):  # PyTorch's; NumPy reads neither gradients nor bfloat16 of it.
        if not value.is_floating_point():
            return None
        value = value.detach().cpu().float()
    value = np.asarray(value)
    return value.astype(np.float32) if jnp.issubdtype(value.dtype, jnp.floating) else None


def to_torch_axes(path: str, ndim: int) -> tuple[int, ...]:
    """Returns the order in which PyTorch keeps the axes of our array: outputs first."""
    if not path.endswith("/kernel"):
        return tuple(range(ndim))
    return (ndim - 1, ndim - 2, *range(ndim - 2))


def torch_shape(path: str, shape: tuple) -> tuple:
    """Returns the shape that PyTorch gives our array: [out, in] or [out, in, h, w] for kernels."""
    return tuple(shape[axis] for axis in to_torch_axes(path, len(shape)))


def fits(shape: tuple, wanted: tuple) -> bool:
    """Whether a shape is the wanted one, in which a str stands for any length."""
    return len(shape) == len(wanted) and all(
        isinstance(want, str) or length == want for length, want in zip(shape, wanted)
    )


def shape_text(shape: tuple) -> str:
    """Returns a shape as a message has it."""
    return f"({', '.join(map(str, shape))})"
