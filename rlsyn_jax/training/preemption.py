"""What a run does when its machine is taken away: it saves, and ends so that launchers restart it.

Schedulers send SIGTERM some time before they kill. Training loops ask after every step whether it
has come, save that step and end the process with the code of a process that SIGTERM ended, which
launchers take for one to be started again.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
from absl import logging
from jax.experimental import multihost_utils

if TYPE_CHECKING:  # The command is to answer before Orbax is loaded.
    from rlsyn_jax.training.checkpoints import CheckpointStore

EXIT_CODE = 128 + signal.SIGTERM
_received = []
_asked = itertools.count(1)  # Processes agree about the number of the question to stop at.


class Preempted(Exception):
    """The run was asked to end, and everything it needs to go on is on disk."""


def listen() -> None:
    """Notes the first SIGTERM from now on instead of dying of it; call in the main thread.

    Among several processes jax's own service listens, so that all end at the same step.
    """

    def note(number, frame):
        _received.append(number)
        # Whoever sends it twice does not want to wait.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    if not jax.distributed.is_initialized():
        signal.signal(signal.SIGTERM, note)


def end_if_preempted(
    what: str, save: Callable[[], None] | None = None, store: CheckpointStore | None = None
) -> None:
    """Saves and ends the run if its machine is being taken away.

    Args:
        what: is done by now, such as "pretrain, step 7"; every process asks at the same places.
        save: saves it; None where it was saved already.
        store: is still writing what was saved, perhaps.

    Raises:
        Preempted: where SIGTERM has come, when everything is on disk.
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
    logging.warning("SIGTERM: %s is on disk; the same command goes on from there", what)
    raise Preempted
