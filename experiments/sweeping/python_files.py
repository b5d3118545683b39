"""Loads sweep files and the config files they start from."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict


def load_python_file(path: str | Path) -> ModuleType:
    """Runs a Python file and returns what it defines.

    Raises:
        FileNotFoundError: it is not there.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; give the path of a Python file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_base(reference: str) -> tuple[str, ConfigDict]:
    """Returns a config by FILE or FILE:ARGUMENT, as --config names it.

    Returns:
        The reference with an absolute path, and the config.
    """
    path, colon, argument = reference.partition(":")
    module = load_python_file(path)
    config = module.get_config(*([argument] if colon else []))
    return f"{Path(path).absolute()}{colon}{argument}", config
