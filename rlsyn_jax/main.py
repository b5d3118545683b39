"""Runs the stages of the method in order: `python -m rlsyn_jax.main --config=... --workdir=...`."""

from __future__ import annotations

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from rlsyn_jax import config as configuration
from rlsyn_jax.stages.stage_record import StageError

STAGES = ("pretrain", "adapt", "reinforce", "synthesize", "recognize", "evaluate", "report")

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything the run writes.")
_STAGES = flags.DEFINE_list("stages", list(STAGES), "Stages to run, always in their own order.")


def main(argv: list[str]) -> None:
    """Checks flags and config, then runs each stage."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; fields are --config.FIELD=VALUE")
    unknown = sorted(set(_STAGES.value) - set(STAGES))
    if unknown:
        raise app.UsageError(f"unknown stages {unknown}; the stages are {', '.join(STAGES)}")
    try:
        configuration.validate(_CONFIG.value)
        # Imported here, so that a wrong flag or field is told before devices are set up.
        from rlsyn_jax.stages import run_stage, set_up

        workdir = Path(_WORKDIR.value).absolute()
        set_up(_CONFIG.value, workdir)
        for stage in STAGES:
            if stage in _STAGES.value:
                run_stage(stage, _CONFIG.value, workdir)
    except (ValueError, StageError, OSError) as error:
        # What a user can mend is told in one message; --verbosity=1 shows where it arose.
        logging.debug("details", exc_info=True)
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    flags.FLAGS.set_default("verbosity", logging.INFO)
    flags.FLAGS.set_default("logtostderr", True)
    app.run(main)
