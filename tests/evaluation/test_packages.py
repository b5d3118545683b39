"""Measures and pages stand on their own: they know nothing of the stages of a run."""

import ast
from pathlib import Path

import pytest

import rlsyn_jax

ROOT = Path(rlsyn_jax.__file__).parent


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    ("package", "others"), [("evaluation", ["stages"]), ("report", ["stages", "evaluation"])]
)
def test_a_package_imports_none_of(package, others):
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    # The command on runs has to know them; it imports them when it is called.
    paths = [path for path in paths if path.name != "command_run.py"]
    for path in paths:
        for name in imported(path):
            for other in others:
                assert not f"{name}.".startswith(f"rlsyn_jax.{other}."), f"{path} imports {name}"
