"""Metrics as lines of JSON behind clu's MetricWriter interface, and progress lines in the log.

clu's own writers import TensorFlow; this one has the same methods and needs nothing. Where
TensorBoard files are asked for, clu's writer is put beside it.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from rlsyn_jax.training.atomic_files import storage_error, write_text
from rlsyn_jax.training.processes import barrier, is_primary


class JsonlWriter:
    """A clu MetricWriter that appends to metrics.jsonl; values that are not finite become null."""

    def __init__(self, path: str | Path, *, resume_step: int | None = None):
        """Opens the file; lines of steps after resume_step, and a broken last line, are dropped.

        Args:
            path: the file.
            resume_step: last step that will not be run again; None keeps every whole line.
        """
        self._path = Path(path)
        if self._path.exists():
            kept = [
                json.dumps(record)
                for record in read_metrics(self._path)
                if resume_step is None or record["step"] <= resume_step
            ]
            write_text(self._path, "".join(f"{line}\n" for line in kept))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "a", buffering=1)
        except OSError as error:
            raise storage_error(self._path, error) from error

    def _line(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        record = {"step": int(step), "kind": kind, **values}
        # ASCII only: some letters end a line for readers, and a kill may cut others in two.
        try:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
        except OSError as error:
            raise storage_error(self._path, error) from error

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes one line of numbers."""
        numbers = {name: float(np.asarray(value)) for name, value in scalars.items()}
        finite = {name: v if math.isfinite(v) else None for name, v in numbers.items()}
        self._line(step, "scalars", finite)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes one line of texts."""
        self._line(step, "texts", dict(texts))

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the run's settings as a line of step 0."""
        self._line(0, "hparams", {"values": json.loads(json.dumps(dict(hparams), default=str))})

    def write_summaries(self, step: int, values: Any, metadata: Any = None) -> None:
        """Accepted and left out: JSON lines hold numbers and texts only."""

    def write_images(self, step: int, images: Any) -> None:
        """Accepted and left out, as write_summaries."""

    def write_videos(self, step: int, videos: Any) -> None:
        """Accepted and left out, as write_summaries."""

    def write_audios(self, step: int, audios: Any, *, sample_rate: int) -> None:
        """Accepted and left out, as write_summaries."""

    def write_histograms(self, step: int, arrays: Any, num_buckets: Any = None) -> None:
        """Accepted and left out, as write_summaries."""

    def flush(self) -> None:
        """Puts everything on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes the file."""
        self.flush()
        self._file.close()


class _NullWriter(JsonlWriter):
    """What processes other than the first write to: nothing."""

    def __init__(self):
        pass

    def _line(self, step, kind, values):
        pass

    def flush(self):
        pass

    def close(self):
        pass


def create_metric_writer(
    directory: str | Path, *, resume_step: int | None = None, tensorboard: bool = False
) -> Any:
    """Returns a MetricWriter for a stage's folder.

    Args:
        directory: gets metrics.jsonl, and TensorBoard files where asked.
        resume_step: see JsonlWriter.
        tensorboard: also write TensorBoard files.

    Raises:
        ValueError: TensorBoard is asked for and TensorFlow is not installed.
    """
    writer = _NullWriter()
    if is_primary():
        # Where no step is done, what step 0 measured is measured again too.
        resume_step = -1 if resume_step == 0 else resume_step
        writer = JsonlWriter(Path(directory) / "metrics.jsonl", resume_step=resume_step)
    barrier(f"{directory}/metrics.jsonl")  # The others may read it now.
    if not tensorboard or not is_primary():
        return writer
    writers = import_tensorboard()
    return writers.MultiWriter([writer, writers.SummaryWriter(str(directory))])


def import_tensorboard() -> Any:
    """Returns clu.metric_writers, which imports TensorFlow.

    Raises:
        ValueError: TensorFlow or TensorBoard is not installed.
    """
    try:
        from clu import metric_writers
    except ImportError as error:
        raise ValueError(
            f"config.tensorboard needs TensorFlow and TensorBoard ({error}); install the extra "
            "rlsyn_jax[tensorflow] or leave it False: metrics.jsonl is written anyway"
        ) from error
    return metric_writers


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Returns the records of a metrics.jsonl; a last line cut by a kill is left out.

    Raises:
        ValueError: a line before the last is not JSON.
    """
    lines = Path(path).read_text().splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
    return records


class Progress:
    """Logs "stage 120/400 (30 %) 3.1 steps/s, 1 min 30 s left, loss 0.1" now and then."""

    def __init__(self, stage: str, total: int, *, first_step: int = 0, every_seconds: float = 5.0):
        """Starts the clock.

        Args:
            stage: opens each line.
            total: last step.
            first_step: steps done before this process.
            every_seconds: least time between lines; the last step is always told.
        """
        self._stage, self._total, self._first = stage, total, first_step
        self._every, self._started = every_seconds, time.monotonic()
        self._told = self._started

    def update(self, step: int, **values: float) -> None:
        """Notes that so many steps are done, and logs if it is time."""
        now = time.monotonic()
        if step < self._total and now - self._told < self._every:
            return
        self._told = now
        rate = (step - self._first) / max(now - self._started, 1e-9)
        left = (self._total - step) / rate if rate > 0 else 0.0
        speed = f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s/step"
        shown = "".join(f", {name} {value:.4g}" for name, value in values.items())
        logging.info(
            "%s %d/%d (%.0f %%) %s, %s left%s",
            self._stage,
            step,
            self._total,
            100 * step / max(self._total, 1),
            speed,
            duration(left),
            shown,
        )


def duration(seconds: float) -> str:
    """Returns seconds as "2 min 05 s" or "1 h 12 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
