"""Device meshes and where arrays lie on them: axes "data" and "fsdp"."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

_SMALLEST_SPLIT = 2**14


def make_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lays devices out as (data, fsdp).

    Args:
        fsdp: devices over which parameters are split; 1 is plain data parallelism.
        devices: default all of them.

    Raises:
        ValueError: fsdp does not divide the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(f"fsdp is {fsdp}; it must divide the number of devices, {len(devices)}")
    grid = np.array(devices).reshape(-1, fsdp)
    return Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def make_abstract_mesh(number: int, fsdp: int = 1) -> AbstractMesh:
    """Lays so many devices out as (data, fsdp), for the shapes of shards; they need not be here.

    Raises:
        ValueError: fsdp does not divide the number of devices.
    """
    if fsdp < 1 or number % fsdp:
        raise ValueError(f"fsdp is {fsdp}; it must divide the number of devices, {number}")
    types = (AxisType.Auto, AxisType.Auto)
    return AbstractMesh((number // fsdp, fsdp), ("data", "fsdp"), axis_types=types)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def parameter_shardings(mesh: Mesh | AbstractMesh, params: Any) -> Any:
    """Returns a sharding for each parameter: its longest divisible axis over "fsdp".

    Arrays below 16,384 elements stay whole: splitting them costs more than it saves.

    Args:
        mesh: the mesh.
        params: pytree of arrays or of jax.ShapeDtypeStruct.
    """
    size = mesh.shape["fsdp"]

    def place(value) -> NamedSharding:
        axes = [i for i, length in enumerate(value.shape) if length % size == 0]
        if size == 1 or not axes or np.prod(value.shape) < _SMALLEST_SPLIT:
            return replicated(mesh)
        longest = max(axes, key=lambda i: value.shape[i])
        return NamedSharding(mesh, PartitionSpec(*(None,) * longest, "fsdp"))

    return jax.tree.map(place, params)


def place(tree: Any, shardings: Any) -> Any:
    """Puts arrays on a mesh, which may have devices of other processes.

    Args:
        tree: pytree of arrays and typed keys that every process holds whole and alike.
        shardings: one sharding for all, or a pytree of them.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def put(value, sharding) -> jax.Array:
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            wrap = functools.partial(jax.random.wrap_key_data, impl=jax.random.key_impl(value))
            whole = put(jax.random.key_data(value), sharding)
            return jax.jit(wrap, out_shardings=sharding)(whole)
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda part: value[part])

    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda value: put(value, shardings), tree)
    return jax.tree.map(put, tree, shardings)


def on_this_process(tree: Any) -> Any:
    """Returns what a process can compute with alone, of arrays on a mesh; all must call it.

    Alone, a process has all devices, and the arrays stay where they are.
    """
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(jnp.asarray, multihost_utils.process_allgather(tree, tiled=True))


def own_device() -> jax.sharding.SingleDeviceSharding:
    """Returns the sharding of an array on this process's first device."""
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
