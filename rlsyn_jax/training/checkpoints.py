"""Orbax checkpoints: one manager for all stages, and parameters for somebody else's code.

A step holds "state" (any pytree, typed keys included) and "meta" (the run's config and the data
iterator's position, as JSON). It is written in the background under another name, which it loses
when everything is on disk; older steps are deleted after that.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from rlsyn_jax.training.atomic_files import StorageError, check_room, storage_error
from rlsyn_jax.training.meshes import own_device


class CheckpointStore:
    """Checkpoints of one folder; a context manager that waits for the last write at its end.

    All processes of a run make it, and save, wait and restore together.
    """

    def __init__(self, directory: str | Path, *, max_to_keep: int = 2):
        """Opens the folder, making it if need be.

        Args:
            directory: folder of the steps.
            max_to_keep: newest steps kept.
        """
        self._directory = Path(directory).absolute()
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(max_to_keep=max_to_keep),
        )

    def __enter__(self) -> CheckpointStore:
        """Returns the store."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits for a write under way and closes the manager; raises as wait_until_finished."""
        self.wait_until_finished()
        self._manager.close()

    def wait_until_finished(self) -> None:
        """Returns when what was saved is on disk.

        Raises:
            StorageError: it could not be written; the steps before it are there.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax raises many kinds for a disk that fails.
            raise storage_error(self._directory, _as_os_error(error)) from error

    def latest_step(self) -> int | None:
        """Returns the newest step, or None; waits for a write under way."""
        self.wait_until_finished()
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: Any,
        *,
        config: dict,
        iterator_state: dict | None,
        force: bool = False,
    ) -> None:
        """Copies one step to the host and begins to write it; waits for the write before it.

        The state may be donated or deleted after that. Whoever needs the step on disk calls
        wait_until_finished.

        Args:
            step: number of the step, above those saved before.
            state: pytree of arrays, on a mesh or the same in every process.
            config: JSON-like record of the run.
            iterator_state: JSON-like position in the data.
            force: write also where the step exists.

        Raises:
            StorageError: the disk has no room for it, or the step before could not be written.
        """
        self.wait_until_finished()
        size = sum(value.nbytes for value in jax.tree.leaves(state))
        # Twice the size, for what a checkpoint holds beside its arrays.
        check_room(self._directory, 2 * size + 2**20, f"checkpoint {step}")
        if force and step in self._manager.all_steps():
            self._manager.delete(step)
        if jax.process_count() > 1:
            # Orbax refuses jax.Arrays that each process has for itself. Copies, since the buffers
            # may be donated while they are written.
            state = jax.tree.map(lambda v: np.array(v) if _is_own(v) else v, state)
        written = self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                meta=ocp.args.JsonSave({"config": config, "iterator_state": iterator_state}),
            ),
            force=force,
        )
        # Orbax passes over what is below a step that it has.
        if not written and step not in self._manager.all_steps():
            raise StorageError(
                f"checkpoint {step} was not written: {self._directory} has step "
                f"{self._manager.latest_step()}"
            )

    def restore(self, target: Any) -> tuple[Any, dict | None, dict]:
        """Reads the newest step that can be read; waits for a write under way.

        Newer ones, which cannot, are deleted, since Orbax writes nothing below them.

        Args:
            target: pytree of arrays (or ShapeDtypeStructs with shardings) to read into; the
                result has its structure, dtypes and shardings.

        Returns:
            (state, iterator_state, config).

        Raises:
            FileNotFoundError: there is no step.
            ValueError: no step could be read; says why for each.
        """
        self.wait_until_finished()
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise FileNotFoundError(f"{self._directory} holds no checkpoint")
        abstract = jax.tree.map(
            lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=value.sharding),
            target,
        )
        failures = []
        for number in steps:
            try:
                restored = self._manager.restore(
                    number,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
                    ),
                )
            except Exception as error:  # Orbax raises many kinds for a damaged step.
                logging.warning("checkpoint %s/%d: %s", self._directory, number, error)
                failures.append(f"step {number}: {error}")
                continue
            for damaged in steps[: len(failures)]:
                self._manager.delete(damaged)
            return restored.state, restored.meta["iterator_state"], restored.meta["config"]
        raise ValueError(f"no checkpoint of {self._directory} can be read: " + "; ".join(failures))


def _as_os_error(error: Exception) -> OSError:
    if isinstance(error, OSError):
        return error
    # TensorStore tells the system's error in words alone.
    full = os.strerror(errno.ENOSPC) in str(error)
    return OSError(errno.ENOSPC if full else errno.EIO, str(error))


def _is_own(value: Any) -> bool:
    return isinstance(value, jax.Array) and value.is_fully_addressable


def restore_params(path: str | Path, *, ema: bool = True, collection: str = "params") -> dict:
    """Loads a generator's or recogniser's parameters from any stage's checkpoint.

    Args:
        path: a stage's folder (DIR/adapt; DIR/recognize/seed_0/real), its model/ or checkpoints/
            folder, or one step's. Of a stage that is not finished only the part that trains is
            there.
        ema: the running average, where the checkpoint has one.
        collection: "params", or another of those that it holds: "batch_stats" of a recogniser or
            extractor, "appearance_map" of a prior whose rows are told by looks.

    Returns:
        Nested dict of arrays on this process's first device. All processes of a run must call it.

    Raises:
        FileNotFoundError: nothing is there, or no checkpoint; says what was looked for.
        ValueError: the checkpoint has no such collection, or is damaged.
    """
    step = _find_step(path)
    tree = _collections(step)
    averaged = f"ema_{collection}"
    name = averaged if ema and tree.get(averaged) else collection
    if name not in tree:
        raise ValueError(f"{step} holds {sorted(tree)}, but no {collection}")
    target = jax.tree.map(
        lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=own_device()),
        tree[name],
    )
    with _telling_damage(step):
        return ocp.PyTreeCheckpointer().restore(
            step / "state",
            args=ocp.args.PyTreeRestore(
                item={name: target},
                restore_args={name: ocp.checkpoint_utils.construct_restore_args(target)},
                partial_restore=True,
            ),
        )[name]


def has_collection(path: str | Path, collection: str) -> bool:
    """Returns whether the checkpoint of a folder, as of `restore_params`, has a collection.

    Raises:
        FileNotFoundError: nothing is there, or no checkpoint; says what was looked for.
        ValueError: the checkpoint is damaged.
    """
    return collection in _collections(_find_step(path))


def restore_config(path: str | Path) -> dict:
    """Loads the record that was written with a checkpoint: of a run, its whole configuration.

    Args:
        path: a folder as `restore_params` takes.

    Returns:
        JSON-like data.

    Raises:
        FileNotFoundError: nothing is there, or no checkpoint; says what was looked for.
        ValueError: the checkpoint is damaged.
    """
    step, handler = _find_step(path), ocp.JsonCheckpointHandler()
    with _telling_damage(step):
        return ocp.Checkpointer(handler).restore(step / "meta")["config"]


def _collections(step: Path) -> dict:
    with _telling_damage(step):
        return ocp.StandardCheckpointer().metadata(step / "state").item_metadata.tree


@contextlib.contextmanager
def _telling_damage(step: Path) -> Iterator[None]:
    """Says of whatever Orbax raises of a step that is not whole which one that is."""
    try:
        yield
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(
            f"checkpoint {step} cannot be read: a file of it is damaged or missing, as after a "
            f"copy that was broken off ({type(error).__name__}: {said:.200}); copy it again, or "
            "delete the folder of its stage to make it anew"
        ) from error


def _find_step(path: str | Path) -> Path:
    """Returns the folder of the newest step of a stage's folder."""
    path = Path(path).absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder; give a stage's folder, such as DIR/adapt")
    candidates = [path / "model", path / "checkpoints", path]
    step = path if (path / "state").is_dir() else None
    for folder in candidates:
        if step is None and folder.is_dir():
            numbered = [int(p.name) for p in folder.iterdir() if p.name.isdigit()]
            step = folder / str(max(numbered)) if numbered else None
    if step is None:
        raise FileNotFoundError(
            f"{path} holds no checkpoint: no numbered step in it, in model/ or in checkpoints/"
        )
    return step
