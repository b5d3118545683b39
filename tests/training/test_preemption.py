"""SIGTERM or Ctrl-C in one process: noted, and obeyed when everything is on disk."""

import signal

import jax
import pytest

from rlsyn_jax.training import preemption
from rlsyn_jax.training.checkpoints import CheckpointStore


@pytest.fixture
def listening(monkeypatch):
    monkeypatch.setattr(preemption, "_received", [])
    numbers = signal.SIGTERM, signal.SIGINT
    before = {number: signal.getsignal(number) for number in numbers}
    preemption.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_run_that_nobody_asks_to_end_goes_on(listening):
    preemption.end_if_preempted("step 1", lambda: pytest.fail("saved"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("due", [False, True])
def test_a_run_ends_when_its_last_step_is_on_disk(listening, tmp_path, due, number):
    state = {"params": jax.random.normal(jax.random.key(0), 2**23)}
    with CheckpointStore(tmp_path) as store:

        def save():
            store.save(1, state, config={}, iterator_state=None)
            assert not (tmp_path / "1").exists()

        signal.raise_signal(number)
        if due:
            save()
        with pytest.raises(preemption.Preempted):
            preemption.end_if_preempted("step 1", None if due else save, store)
        assert (tmp_path / "1").exists()
    assert preemption.exit_code() == 128 + number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_is_not_held_up(listening, capfd, number):
    signal.raise_signal(number)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL == signal.getsignal(signal.SIGINT)
    assert ("once more ends at once" in capfd.readouterr().err) == (number == signal.SIGINT)
    with pytest.raises(preemption.Preempted):
        preemption.end_if_preempted("step 1")
