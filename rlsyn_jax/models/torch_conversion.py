"""Conversion of PyTorch's tensors to our arrays and back, telling everything that is wrong at once.

Our arrays go by the paths of flax ("blocks_0/attn/qkv/kernel"), PyTorch's by dotted names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np


class Conversion:
    """Takes tensors out of a state dict and collects everything that is wrong with them."""

    def __init__(self, state_dict: Mapping[str, Any]):
        """Starts with every tensor unknown.

        Args:
            state_dict: tensors or arrays by name.
        """
        self._tensors = state_dict
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
            wanted = [shape[axis] for axis in to_torch_axes(path, len(shape))]
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
        if name not in self._tensors:
            self._wrong.append(f"missing: {name}")
            return None
        shape = tuple(np.shape(self._tensors[name]))
        if not fits(shape, wanted):
            self._wrong.append(
                f"shape: {name} is {shape_text(shape)}, must be {shape_text(wanted)}"
            )
            return None
        value = as_float32(self._tensors[name])
        if value is None:
            self._wrong.append(f"type: {name} is {self._tensors[name].dtype}, must be floating")
        elif not np.isfinite(value).all():
            self._wrong.append(f"value: {name} holds numbers that are not finite")
        return value

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

    def raise_if_wrong(self, headline: str) -> None:
        """Raises a ValueError of everything that was found, and of all unknown names."""
        unknown = [f"unknown: {name}" for name in self._tensors if name not in self._known]
        if wrong := self._wrong + unknown:
            raise ValueError(f"{headline} ({len(wrong)} faults):\n  " + "\n  ".join(wrong))


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


def fits(shape: tuple, wanted: tuple) -> bool:
    """Whether a shape is the wanted one, in which a str stands for any length."""
    return len(shape) == len(wanted) and all(
        isinstance(want, str) or length == want for length, want in zip(shape, wanted)
    )


def shape_text(shape: tuple) -> str:
    """Returns a shape as a message has it."""
    return f"({', '.join(map(str, shape))})"
