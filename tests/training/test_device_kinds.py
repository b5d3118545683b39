"""Accelerators by name: what a name stands for, and which kind a device found is."""

import pytest

from rlsyn_jax.config import ConfigError, default_config
from rlsyn_jax.config_checks import validate
from rlsyn_jax.training.device_kinds import DEVICE_KINDS, kind_found, named_devices


def test_a_name_gives_kind_and_number():
    assert named_devices("h100x8") == (DEVICE_KINDS["h100"], 8)
    assert named_devices("tpu-v5ex256") == (DEVICE_KINDS["tpu-v5e"], 256)
    assert named_devices("a100-40gbx1") == (DEVICE_KINDS["a100-40gb"], 1)


@pytest.mark.parametrize(
    "name", ["h100", "h100x0", "h100x-1", "h100x1.5", "x8", "h900x8", "H100x8"]
)
def test_other_names_are_refused_with_what_would_be_right(name):
    with pytest.raises(ValueError, match=rf"devices are '{name}'; .*h100x8; kinds are a100, "):
        named_devices(name)
    config = default_config()
    config.devices = name
    with pytest.raises(ConfigError, match=rf"config.devices is '{name}'; it must be '' .*h100x8"):
        validate(config)


def test_devices_found_are_told_apart():
    # What jax.Device.device_kind says of each.
    names = {
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA A100-SXM4-40GB": "a100-40gb",
        "NVIDIA L4": "l4",
        "NVIDIA L40S": "l40s",
        "TPU v5 lite": "tpu-v5e",
        "TPU v5": "tpu-v5p",
        "TPU v6 lite": "tpu-v6e",
    }
    for found, name in names.items():
        assert kind_found(found) == DEVICE_KINDS[name]
    assert kind_found("cpu") is None


@pytest.mark.parametrize("name", DEVICE_KINDS)
def test_a_table_row_is_plausible(name):
    """Units: gigabytes, tera-FLOP/s, terabytes/s; matrix units are faster in fewer bits."""
    kind = DEVICE_KINDS[name]
    assert 10e9 < kind.usable <= kind.memory < 300e9
    assert 30e12 < kind.float32 <= kind.bfloat16 < 5e15
    assert 0.2e12 < kind.bandwidth < 10e12
