"""SIGTERM in one process: noted, and obeyed when everything is on disk."""

import signal

import jax
import pytest

from rlsyn_jax.training import preemption
from rlsyn_jax.training.checkpoints import CheckpointStore


@pytest.fixture
def listening(monkeypatch):
    monkeypatch.setattr(preemption, "_received", [])
    before = signal.getsignal(signal.SIGTERM)
    preemption.listen()
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_run_that_nobody_asks_to_end_goes_on(listening):
    preemption.end_if_preempted("step 1", lambda: pytest.fail("saved"))


@pytest.mark.parametrize("due", [False, True])
def test_a_run_ends_when_its_last_step_is_on_disk(listening, tmp_path, due):
    state = {"params": jax.random.normal(jax.random.key(0), 2**23)}
    with CheckpointStore(tmp_path) as store:

        def save():
            store.save(1, state, config={}, iterator_state=None)
            assert not (tmp_path / "1").exists()

        signal.raise_signal(signal.SIGTERM)
        if due:
            save()
        with pytest.raises(preemption.Preempted):
            preemption.end_if_preempted("step 1", None if due else save, store)
        assert (tmp_path / "1").exists()


def test_the_second_signal_is_not_held_up(listening):
    signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with pytest.raises(preemption.Preempted):
        preemption.end_if_preempted("step 1")
