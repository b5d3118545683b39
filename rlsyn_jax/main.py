"""Runs the stages of the method in order: `python -m rlsyn_jax.main --config=... --workdir=...`."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from rlsyn_jax.config_checks import validate
from rlsyn_jax.config_files import described, line_in, told
from rlsyn_jax.stages.stage_record import StageError
from rlsyn_jax.training.preemption import Preempted, end_if_preempted, exit_code, listen
from rlsyn_jax.training.processes import is_primary, join_processes

STAGES = ("pretrain", "adapt", "reinforce", "synthesize", "recognize", "evaluate", "report")

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything the run writes.")
_STAGES = flags.DEFINE_list("stages", list(STAGES), "Stages to run, always in their own order.")
_PLAN = flags.DEFINE_bool("plan", False, "Print memory and time of a run, and run nothing.")


def main(argv: list[str]) -> None:
    """Checks flags and config, then runs each stage."""
    try:
        if len(argv) > 1:
            raise ValueError(f"unexpected arguments {argv[1:]}; fields are --config.FIELD=VALUE")
        if not _STAGES.value or set(_STAGES.value) - set(STAGES):
            raise ValueError(f"--stages is {_STAGES.value}; the stages are {', '.join(STAGES)}")
        validate(_CONFIG.value)
        if _PLAN.value:
            from rlsyn_jax.stages.plan_text import describe

            text = describe(_CONFIG.value)
            if is_primary():
                print(text)
            return
        # Imported here, so that a wrong flag or field is told before devices are set up.
        from rlsyn_jax.stages import run_stage, set_up
        from rlsyn_jax.stages.device_checks import check_devices

        workdir = Path(_WORKDIR.value).absolute()
        set_up(_CONFIG.value, workdir)
        check_devices(_CONFIG.value, workdir, _STAGES.value)
        listen()
        for stage in STAGES:
            if stage in _STAGES.value:
                run_stage(stage, _CONFIG.value, workdir)
                end_if_preempted(f"stage {stage}")
    except Preempted:
        sys.exit(exit_code())
    except KeyboardInterrupt:  # Before the run has begun to listen, or among several processes.
        sys.exit(128 + signal.SIGINT)
    except (ValueError, FloatingPointError, StageError, OSError) as error:
        # What a user can mend is told in one message; --verbosity=1 shows where it arose.
        logging.debug("details", exc_info=True)
        sys.exit(f"error: {error}{_how_to_mend(error)}")


def _how_to_mend(error: Exception) -> str:
    """Returns what to do about a file that a complete stage had written, and that is gone."""
    workdir, path = Path(_WORKDIR.value or ".").absolute(), getattr(error, "filename", None)
    if not isinstance(error, FileNotFoundError) or not path:
        return ""
    if not Path(path).is_relative_to(workdir):
        return ""
    return f"; delete {workdir / Path(path).relative_to(workdir).parts[0]} to make it anew"


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Reads the command line; what is wrong with it or the config file is told in one message."""
    path = _config_file(argv)
    if path and not Path(path).is_file():
        sys.exit(f"error: --config: No such file: {path!r}")
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        # Of what a config file raises itself, ml_collections gives the whole traceback.
        last = str(error).strip().splitlines()[-1]
        if last.startswith("ValueError: "):
            sys.exit(f"error: {last}")
        raised = error if path else None
        while raised is not None and not line_in(raised, path):
            raised = raised.__cause__ or raised.__context__
        sys.exit(f"error: {told(raised, path) if raised else error}")
    except Exception as error:  # A config file is a program, and can fail as any does.
        if path and line_in(error, path):
            sys.exit(f"error: {told(error, path)}")
        if "has no attribute 'get_config'" in str(error):
            sys.exit(f"error: {path} defines no function get_config, which returns the config")
        # ml_collections raises these for a field that the config does not have.
        unknown = isinstance(error, AttributeError | KeyError)
        if not unknown or "ml_collections" not in _last_file(error):
            raise
        sys.exit(f"error: {described(error)}")


def _config_file(argv: Sequence[str]) -> str:
    """Returns the path that --config names; "" where it is not given."""
    for argument, following in zip(argv[1:], [*argv[2:], ""]):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "config":
            return (value if equals else following).partition(":")[0]
    return ""


def _last_file(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename if frames else ""


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    flags.register_multi_flags_validator(
        ["workdir", "plan"],
        # An empty one, of a variable that is not set, would be the current folder.
        lambda values: bool(values["workdir"]) or values["plan"],
        "flag --workdir: it must be a folder (. is this one), unless --plan is given",
    )
    flags.FLAGS.set_default("verbosity", logging.INFO)
    flags.FLAGS.set_default("logtostderr", True)
    # First of all: a config file may ask for the devices, which all processes must share by then.
    try:
        join_processes()
    except ValueError as error:
        sys.exit(f"error: {error}")
    app.run(main, flags_parser=parse_flags)
