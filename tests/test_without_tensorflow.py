"""Nothing but TensorBoard files needs TensorFlow, and importing the package touches no device."""

import pkgutil

import pytest

import rlsyn_jax

MODULES = sorted(module.name for module in pkgutil.walk_packages(rlsyn_jax.__path__, "rlsyn_jax."))

# A sitecustomize, so that it acts before anything else is imported.
BLOCK = """
import socket
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "tensorboard"):
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]

class NoNetwork(socket.socket):
    def connect(self, address):
        raise AssertionError(f"connects to {address}")

socket.socket = NoNetwork
"""

IMPORT_ALL = """
import importlib
import sys

for name in {modules}:
    importlib.import_module(name)
assert "tensorflow" not in sys.modules and "tensorboard" not in sys.modules
try:
    import tensorflow
except ImportError:
    print("tensorflow is absent")

import jax

jax.config.update("jax_num_cpu_devices", 3)  # Refused once a backend is initialised.
assert jax.device_count() == 3
print("imported", len({modules}), "modules")
"""


@pytest.fixture(scope="module")
def absent(tmp_path_factory):
    """The environment in which TensorFlow and TensorBoard cannot be imported."""
    folder = tmp_path_factory.mktemp("sitecustomize")
    (folder / "sitecustomize.py").write_text(BLOCK)
    for name in ("tensorflow", "tensorboard"):  # There to be found, were it not for the block.
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise AssertionError('it was imported')")
    return {"PYTHONPATH": str(folder)}


def test_every_module_imports_without_tensorflow_network_and_devices(program, absent):
    assert len(MODULES) > 60
    process = program.python("-c", IMPORT_ALL.format(modules=MODULES), environment=absent)
    log = program.log_of(process)
    assert process.returncode == 0, log
    assert "tensorflow is absent" in log and f"imported {len(MODULES)} modules" in log


def test_tensorboard_without_tensorflow_is_refused_before_training(program, absent, tmp_path):
    fields = {"tensorboard": True}
    process = program.start(tmp_path / "run", fields=fields, environment=absent)
    log = program.log_of(process)
    assert process.returncode == 1 and "Traceback" not in log
    assert "error: config.tensorboard needs TensorFlow and TensorBoard" in log
    assert "install the extra rlsyn_jax[tensorflow]" in log
    assert not (tmp_path / "run" / "pretrain").exists()


@pytest.mark.slow
def test_the_quickstart_runs_without_tensorflow(program, absent, tmp_path):
    fields = {"recognize.arms": "('real','real_reinforced')"}
    program.run(tmp_path / "run", fields=fields, environment=absent)
    assert (tmp_path / "run" / "report" / "report.html").is_file()
