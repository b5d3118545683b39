"""Loads sweep files and the config files they start from."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from rlsyn_jax.config_files import told


def load_python_file(path: str | Path) -> ModuleType:
    """Runs a Python file and returns what it defines.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it raises an error; says which, and in which line.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; give the path of a Python file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # It is a program, and can fail as any does.
        raise ValueError(told(error, path)) from error
    return module


def load_base(reference: str) -> tuple[str, ConfigDict]:
    """Returns a config by FILE or FILE:ARGUMENT, as --config names it.

    Returns:
        The reference with an absolute path, and the config.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it raises an error, or has no get_config that returns a config.
    """
    path, colon, argument = reference.partition(":")
    module = load_python_file(path)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{path} defines no function get_config, which returns the config")
    try:
        config = module.get_config(*([argument] if colon else []))
    except Exception as error:
        raise ValueError(told(error, path)) from error
    if not isinstance(config, ConfigDict):
        raise ValueError(f"{path}: get_config returns {config!r:.60}, and no ConfigDict")
    return f"{Path(path).absolute()}{colon}{argument}", config
