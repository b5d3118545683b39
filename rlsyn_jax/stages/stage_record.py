"""What a stage was made from: lets a finished stage be skipped and a changed one be refused.

A stage's folder holds stage.json with the config sections the stage reads, the fingerprints of the
stages it reads from, hashes of the files that its data were read from, and whether it is complete.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax import config as configuration
from rlsyn_jax.stages.source_files import source_files
from rlsyn_jax.training.atomic_files import write_json
from rlsyn_jax.training.processes import barrier

_NEVER = object()
_DATA = ("data", "general_data")
# What every stage.json has.
_PARTS = {"config": dict, "inputs": dict, "fingerprint": str, "complete": bool}


class StageError(RuntimeError):
    """A stage cannot run on what lies in the work folder; the message says what to do."""


def fingerprint(content: object) -> str:
    """Returns a short hash of JSON-like content, independent of the order of keys."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: object) -> object:
    """Returns a config value as JSON-like data (dicts, lists, numbers, strings)."""
    if isinstance(value, ConfigDict):
        return {key: plain(value[key]) for key in sorted(value.keys())}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def made_from(stage: str, config: ConfigDict, fields: tuple, inputs: Mapping[str, str]) -> dict:
    """Returns what a stage's output depends on.

    Args:
        stage: its name.
        config: complete configuration.
        fields: dotted paths of the config sections and fields whose values shape the output.
        inputs: name of each stage it reads from -> that stage's fingerprint.

    Returns:
        {"stage", "config", "inputs", "fingerprint"}, as stage.json has them.
    """
    values = {path: plain(configuration.field(config, path)) for path in sorted(fields)}
    inputs = dict(inputs)
    return {
        "stage": stage,
        "config": values,
        "inputs": inputs,
        "fingerprint": fingerprint([stage, _without_later_fields("", values), inputs]),
    }


def files_fingerprint(config: ConfigDict, section: str) -> str:
    """Returns a hash of the names and sizes of a data set's files, which a copy of them has, too.

    Args:
        config: complete configuration.
        section: "data" or "general_data".

    Returns:
        The hash; "" of a data set that is not read from files, or whose files are not there, as
        what is complete does not need them.
    """
    if config[section].source not in configuration.PATH_SOURCES:
        return ""
    try:
        files = source_files(config, section)
    except configuration.ConfigError:
        return ""
    return fingerprint([[name, size] for name, size, _ in files])


def shaping(config: ConfigDict, path: str) -> object:
    """Returns a section or field of a configuration as plain data, as far as it shapes an output.

    Fields that came later and change nothing as they are set (config.ADDED_LATER) are left out, so
    that what was made before a field existed is not made again because it exists.
    """
    return _without_later_fields(f"{path}.", plain(configuration.field(config, path)))


def _without_later_fields(prefix: str, value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {
        key: _without_later_fields(f"{prefix}{key}.", part)
        for key, part in value.items()
        if configuration.ADDED_LATER.get(f"{prefix}{key}", _NEVER) != part
    }


class StageRecord:
    """The life of one stage in one work folder: begin, resume or skip, finish."""

    def __init__(
        self, workdir: Path, stage: str, config: ConfigDict, fields: tuple, inputs: tuple = ()
    ):
        """Compares the stage's folder with what it would be made from now.

        Args:
            workdir: the run's folder.
            stage: name of the stage and of its folder.
            config: complete configuration.
            fields: dotted paths of the config sections and fields whose values shape the output.
            inputs: stages that must be complete before.

        Raises:
            StageError: an input is missing, or the folder was made from something else, be it
                other files of the same data set.
        """
        self.stage, self.directory = stage, Path(workdir) / stage
        self._path = self.directory / "stage.json"
        fingerprints = {}
        for name in inputs:
            record = _read(Path(workdir) / name / "stage.json")
            if not record or not record["complete"]:
                raise StageError(
                    f"stage {stage!r} needs the output of stage {name!r}, which is not complete in "
                    f"{workdir}; run it first, or run all stages (leave --stages out)"
                )
            fingerprints[name] = record["fingerprint"]
        self._content = made_from(stage, config, fields, fingerprints)
        old = _read(self._path)
        if old and set(self.directory.iterdir()) == {self._path}:
            old = None  # A run that was stopped before it made anything binds nobody.
        barrier(f"{stage}: every process has seen the folder as it was")
        if old and old["fingerprint"] != self._content["fingerprint"]:
            raise StageError(_changes(self.directory, stage, old, self._content))
        files = old.get("files", {}) if old else {}
        # Also of a stage that reads the one or the other by way of those before it.
        for section in _DATA:
            found = files_fingerprint(config, section)
            if found and files.setdefault(section, found) != found:
                raise StageError(_other_files(self.directory, stage, section, config[section].path))
        self._content["files"] = files
        self.complete = bool(old and old["complete"])
        self.seconds = old.get("seconds", 0.0) if old else 0.0
        self._started = time.monotonic()
        if self.complete:
            logging.info("%s: complete in %s, nothing to do", stage, self.directory)
        else:
            logging.info("%s: %s in %s", stage, "resuming" if old else "starting", self.directory)
            self.directory.mkdir(parents=True, exist_ok=True)
            write_json(self._path, {**self._content, "complete": False, "seconds": self.seconds})

    @property
    def fingerprint(self) -> str:
        """Hash of everything the stage's output depends on."""
        return self._content["fingerprint"]

    def note_time(self) -> None:
        """Writes down the seconds spent so far, so that a killed stage's time is not lost."""
        now = time.monotonic()
        self.seconds += now - self._started
        self._started = now
        write_json(self._path, {**self._content, "complete": False, "seconds": self.seconds})

    def finish(self) -> None:
        """Marks the stage complete; call when everything is on disk."""
        self.note_time()
        write_json(self._path, {**self._content, "complete": True, "seconds": self.seconds})
        barrier(f"{self.stage}: everything is on disk")
        logging.info("%s: done in %.0f s", self.stage, self.seconds)


def stage_seconds(workdir: Path, stage: str) -> float | None:
    """Returns the seconds a complete stage took, or None."""
    record = _read(Path(workdir) / stage / "stage.json")
    return record["seconds"] if record and record["complete"] else None


def _read(path: Path) -> dict | None:
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
        lacking = [name for name in _PARTS if not isinstance(record.get(name), _PARTS[name])]
    except (ValueError, AttributeError, RecursionError) as error:
        lacking = [str(error)]
    if lacking:
        raise StageError(
            f"{path} is damaged ({', '.join(lacking)}); delete the folder {path.parent} and run "
            "again"
        )
    return record


def _changes(directory: Path, stage: str, old: dict, new: dict) -> str:
    lines = []
    for path in sorted(set(old["config"]) | set(new["config"])):
        lines += _differences(path, old["config"].get(path), new["config"].get(path))
    for name in sorted(set(old["inputs"]) | set(new["inputs"])):
        if old["inputs"].get(name) != new["inputs"].get(name):
            lines.append(f"  the output of stage {name!r} it was made from was made anew")
    return (
        f"{directory} belongs to another configuration, so stage {stage!r} will not touch it:\n"
        + "\n".join(lines)
        + f"\nUse another --workdir, set the fields back, or delete {directory} to make it anew."
    )


def _other_files(directory: Path, stage: str, section: str, path: str) -> str:
    return (
        f"{directory} was made from other files of config.{section}.path, {path} (names or sizes "
        f"differ), so stage {stage!r} will not touch it: who was held out may now be trained on.\n"
        f"Put the files back, use another --workdir, or delete {directory} and the stages after it "
        "to make them anew."
    )


def _differences(path: str, old: object, new: object) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):

        def was(key):
            return old.get(key, configuration.ADDED_LATER.get(f"{path}.{key}"))

        return [
            line
            for key in sorted(set(old) | set(new))
            for line in _differences(f"{path}.{key}", was(key), new.get(key))
        ]
    return [] if old == new else [f"  config.{path}: {old!r} there, {new!r} now"]
