"""How much memory a compiled program needs on a device, and how much a device has."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax


class MemoryNeed(NamedTuple):
    """A program's memory on one device in bytes, as the compiler has laid it out.

    The program itself and what else lives on the device come on top.

    arguments: what it is given. results: what does not take a donated argument's place.
    temporaries: what it holds while it runs.
    """

    arguments: int
    results: int
    temporaries: int

    @property
    def peak(self) -> int:
        """All of it."""
        return sum(self)

    @property
    def to_allocate(self) -> int:
        """What is needed on top of arguments that are on the device already."""
        return self.results + self.temporaries


def memory_need(program: jax.stages.Compiled) -> MemoryNeed:
    """Returns what a lowered and compiled function needs on each device."""
    analysis = program.memory_analysis()
    return MemoryNeed(
        analysis.argument_size_in_bytes,
        analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        analysis.temp_size_in_bytes,
    )


def available_bytes(devices: set[jax.Device]) -> int | None:
    """Returns the bytes that each of some devices of this process can still take, or None.

    Args:
        devices: accelerators that count their memory, or CPU devices, which share the machine's.
    """
    statistics = [device.memory_stats() for device in devices]
    if all(known and "bytes_limit" in known for known in statistics):
        return min(known["bytes_limit"] - known.get("bytes_in_use", 0) for known in statistics)
    memory = Path("/proc/meminfo")
    if any(device.platform != "cpu" for device in devices) or not memory.exists():
        return None
    lines = dict(line.split(":", 1) for line in memory.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 2**10 // jax.local_device_count()
