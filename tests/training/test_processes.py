"""Processes that no environment names are told, before each takes itself for the only one."""

import jax
import pytest

from rlsyn_jax.training.processes import check_joined


def test_devices_of_processes_that_were_not_joined_are_refused(monkeypatch):
    check_joined()
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(ValueError, match="those of 4 processes.*set JAX_COORDINATOR_ADDRESS"):
        check_joined()
