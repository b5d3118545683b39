"""How much memory a compiled program needs on a device, and how much a device has."""

from __future__ import annotations

from pathlib import Path

import jax


def peak_bytes(program: jax.stages.Compiled) -> int:
    """Returns a program's memory on one device at its peak, in bytes.

    Arguments, results that do not take a donated argument's place, and temporaries, as the
    compiler has laid them out; the program itself and what else lives on the device come on top.

    Args:
        program: a lowered and compiled function.
    """
    analysis = program.memory_analysis()
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return analysis.argument_size_in_bytes + results + analysis.temp_size_in_bytes


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
