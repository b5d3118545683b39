"""What a run does when its machine is taken away: it saves, and ends so that launchers restart it.

Schedulers send SIGTERM some time before they kill, and who sits before it types Ctrl-C. Training
loops ask after every step whether a signal has come, save that step and end the process with the
code of a process that the signal ended, which launchers take for one to be started again.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
from absl import logging
from jax.experimental import multihost_utils

if TYPE_CHECKING:  # The command is to answer before Orbax is loaded.
    from rlsyn_jax.training.checkpoints import CheckpointStore

EXIT_CODE = 128 + signal.SIGTERM  # What schedulers' signal ends a run with.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_received: list[signal.Signals] = []
_asked = itertools.count(1)  # Processes agree about the number of the question to stop at.


class Preempted(Exception):
    """The run was asked to end, and everything it needs to go on is on disk."""


def listen() -> None:
    """Notes the first signal from now on instead of dying of it; call in the main thread.

    Among several processes jax's own service listens for SIGTERM, so that all end at the same step.
    """

    def note(number, frame):
        _received.append(signal.Signals(number))
        # Whoever sends a second one does not want to wait.
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        if number == signal.SIGINT:
            # Not through logging, in the midst of which this may be.
            os.write(2, b"\nCtrl-C: saves what is under way and ends; once more ends at once\n")

    if not jax.distributed.is_initialized():
        for each in _SIGNALS:
            signal.signal(each, note)


def exit_code() -> int:
    """Returns the code of a process that was ended by the signal that came."""
    return 128 + _received[0] if _received else EXIT_CODE


def end_if_preempted(
    what: str, save: Callable[[], None] | None = None, store: CheckpointStore | None = None
) -> None:
    """Saves and ends the run if its machine is being taken away.

    Args:
        what: is done by now, such as "pretrain, step 7"; every process asks at the same places.
        save: saves it; None where it was saved already.
        store: is still writing what was saved, perhaps.

    Raises:
        Preempted: where a signal has come, when everything is on disk.
    """
    number = next(_asked)
    if jax.distributed.is_initialized():
        asked = multihost_utils.reached_preemption_sync_point(number)
    else:
        asked = bool(_received)
    if not asked:
        return
    if save is not None:
        save()
    if store is not None:
        store.wait_until_finished()
    name = (_received or _SIGNALS)[0].name
    logging.warning("%s: %s is on disk; the same command goes on from there", name, what)
    raise Preempted
