"""Every test sees eight virtual CPU devices; whole runs are processes of their own.

Tests spend their time in compiling, so what was compiled is kept for the session's other tests and
processes, and machine code is optimised little and not made by XLA's fusion emitters, which then
take most of the rest; buffers, whose sizes some tests read, are laid out before it is made.
`program` also shrinks the quickstart's arrays.
"""

import atexit
import contextlib
import ctypes
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# Processes that tests start, and those of pytest itself, take this over.
_PREFIX = "rlsyn_jax_tests_"
if _PREFIX not in os.environ.get("JAX_COMPILATION_CACHE_DIR", ""):
    kept = tempfile.mkdtemp(prefix=_PREFIX)
    atexit.register(shutil.rmtree, kept, ignore_errors=True)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": kept,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": " ".join(
            (
                os.environ.get("XLA_FLAGS", ""),
                "--xla_backend_optimization_level=0",
                "--xla_llvm_disable_expensive_passes=true",
                "--xla_cpu_use_fusion_emitters=false",
            )
        ).strip(),
    }
# JAX has read its own settings when it was imported; XLA's flags it reads when it first compiles.
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "configs" / "quickstart.py"
TINY = {
    "log_every_seconds": 0.0,
    "image.size": 16,
    "data.num_identities": 8,
    "data.images_per_identity": 6,
    "general_data.num_identities": 6,
    "general_data.images_per_identity": 4,
    "split.closed_images": 2,
    "generator.width": 32,
    "generator.depth": 1,
    "generator.num_heads": 2,
    "pretrain.source": "train",
    "pretrain.steps": 12,
    "pretrain.batch_size": 8,
    "pretrain.warmup_steps": 2,
    "pretrain.checkpoint_every": 5,
    "extractor.width": 4,
    "extractor.judge_width": 6,
    "extractor.steps": 4,
    "extractor.identities_per_batch": 4,
    "extractor.images_per_identity": 2,
    "adapt.steps": 6,
    "adapt.batch_size": 8,
    "adapt.warmup_steps": 2,
    "adapt.checkpoint_every": 4,
    "reinforce.identities": 2,
    "reinforce.samples": 4,
    "synthesize.images": 3,
    "synthesize.num_steps": 4,
    "synthesize.batch_size": 6,
    "recognize.seeds": 1,
    "recognize.width": 4,
    "recognize.embedding_dim": 16,
    "recognize.steps": 6,
    "recognize.checkpoint_every": 4,
    "recognize.identities_per_batch": 4,
    "evaluate.bootstrap_resamples": 50,
    "report.identities": 3,
    "report.map_identities": 3,
}


class Program:
    """Starts `python -m rlsyn_jax.main` on the tiny quickstart."""

    tiny_fields = TINY

    @staticmethod
    def config(**fields):
        """Returns the tiny config, with sections' fields changed: config(adapt={"steps": 2})."""
        config = runpy.run_path(str(QUICKSTART))["get_config"]("ci")
        config.update_from_flattened_dict(TINY)
        config.update(fields)
        return config

    @staticmethod
    def flags(workdir, fields=None) -> list[str]:
        """Returns the command line of a run with some fields (dotted paths) changed."""
        changed = TINY | (fields or {})
        overrides = [f"--config.{path}={value}" for path, value in changed.items()]
        return [f"--config={QUICKSTART}:ci", f"--workdir={workdir}", *overrides]

    def start(self, workdir, *flags, fields=None, **options) -> subprocess.Popen:
        """Starts a run; `log_of` waits for its end."""
        flags = [*self.flags(workdir, fields), *flags]
        return self.python("-m", "rlsyn_jax.main", *flags, **options)

    def python(self, *arguments, devices=1, environment=None) -> subprocess.Popen:
        """Starts an interpreter in the repository with the environment of a run."""
        settings = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
        log = tempfile.TemporaryFile("w+")  # A pipe would hold a talkative run up.
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | settings | (environment or {}),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        process.log = log
        return process

    @staticmethod
    def log_of(process) -> str:
        """Waits for the end and returns everything the process said."""
        process.wait()
        process.log.seek(0)
        return process.log.read()

    def run(self, workdir, *flags, **options) -> str:
        """Runs to the end, which must be a good one, and returns the log."""
        process = self.start(workdir, *flags, **options)
        log = self.log_of(process)
        assert process.returncode == 0, log
        return log


@pytest.fixture(scope="session")
def mounted():
    """A context manager that mounts a file system in memory: mounted(path, "size=8m")."""

    @contextlib.contextmanager
    def mount(path, options="", read_only=False):
        path.mkdir()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", int(read_only), options.encode()):
            pytest.skip(f"mounting is not allowed here: {os.strerror(ctypes.get_errno())}")
        try:
            yield path
        finally:
            libc.umount2(os.fsencode(path), 2)  # MNT_DETACH

    return mount


@pytest.fixture(scope="session")
def program() -> Program:
    return Program()
