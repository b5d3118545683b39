"""Accelerators by name, with memory and peak rates, for plans on machines that are not here."""

from __future__ import annotations

import re
from typing import NamedTuple

_NAMED = re.compile(r"(.+?)x([1-9][0-9]{0,5})")


class DeviceKind(NamedTuple):
    """One accelerator as JAX sees it (a chip of TPU v4 and later is one device).

    memory: bytes. bfloat16, float32: dense peak FLOP/s of matrix products in these dtypes, as JAX
    computes them by default: float32 in TensorFloat-32 on NVIDIA's, in one pass of bfloat16 on
    TPUs. bandwidth: of the memory, bytes/s. found_as: what jax.Device.device_kind begins with.
    """

    memory: float
    bfloat16: float
    float32: float
    bandwidth: float
    found_as: str

    @property
    def usable(self) -> float:
        """Bytes that a JAX process gets.

        On NVIDIA's GPUs JAX takes three quarters, unless XLA_PYTHON_CLIENT_MEM_FRACTION says
        otherwise (https://docs.jax.dev/en/latest/gpu_memory_allocation.html).
        """
        return self.memory * (1.0 if self.found_as.startswith("TPU") else 0.75)


# NVIDIA's datasheets (SXM where there are several forms), halved where they count sparse matrices:
#   A100 www.nvidia.com/en-us/data-center/a100, H100 /h100, H200 /h200, B200 /dgx-b200, L4 /l4,
#   L40S www.nvidia.com/en-us/data-center/l40s.
# Google's: docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e.
DEVICE_KINDS = {
    "a100": DeviceKind(80e9, 312e12, 156e12, 2.039e12, "NVIDIA A100-SXM4-80GB"),
    "a100-40gb": DeviceKind(40e9, 312e12, 156e12, 1.555e12, "NVIDIA A100-SXM4-40GB"),
    "h100": DeviceKind(80e9, 989e12, 495e12, 3.35e12, "NVIDIA H100 80GB HBM3"),
    "h200": DeviceKind(141e9, 989e12, 495e12, 4.8e12, "NVIDIA H200"),
    "b200": DeviceKind(180e9, 2250e12, 1125e12, 8e12, "NVIDIA B200"),
    "l4": DeviceKind(24e9, 121e12, 60e12, 0.3e12, "NVIDIA L4"),
    "l40s": DeviceKind(48e9, 362e12, 183e12, 0.864e12, "NVIDIA L40S"),
    "tpu-v4": DeviceKind(32e9, 275e12, 275e12, 1.2e12, "TPU v4"),
    "tpu-v5e": DeviceKind(16e9, 197e12, 197e12, 0.819e12, "TPU v5 lite"),
    "tpu-v5p": DeviceKind(95e9, 459e12, 459e12, 2.765e12, "TPU v5"),
    "tpu-v6e": DeviceKind(32e9, 918e12, 918e12, 1.6e12, "TPU v6 lite"),
}
NAMED_DEVICES = f"KINDxNUMBER, as h100x8; kinds are {', '.join(DEVICE_KINDS)}"


def named_devices(name: str) -> tuple[DeviceKind, int]:
    """Returns the kind and the number of devices that a name such as "h100x8" stands for.

    Raises:
        ValueError: the name has another form, or the kind is unknown.
    """
    match = _NAMED.fullmatch(name)
    if not match or match[1] not in DEVICE_KINDS:
        raise ValueError(f"devices are {name!r}; they must be {NAMED_DEVICES}")
    return DEVICE_KINDS[match[1]], int(match[2])


def kind_found(device_kind: str) -> DeviceKind | None:
    """Returns the kind of a device that JAX found, by its jax.Device.device_kind, or None."""
    matching = [kind for kind in DEVICE_KINDS.values() if device_kind.startswith(kind.found_as)]
    # The longest: "TPU v5 lite" is not a "TPU v5", nor an L40S an L4.
    return max(matching, key=lambda kind: len(kind.found_as), default=None)
