"""The files that a data set is read from: which there are."""

from __future__ import annotations

import glob
from pathlib import Path

from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError

_FILE_SOURCES = ("insightface", "webdataset", "parquet")
_LAYOUTS = {"folder": ", which holds one folder of images for each identity"}


def source_files(config: ConfigDict, section: str) -> list[tuple[str, int, int]]:
    """Returns name, size and time of every file of a data set that is read from files.

    Hidden files and folders, such as file managers leave behind, are not among them.

    Args:
        config: complete configuration.
        section: "data" or "general_data".

    Returns:
        (path below the data set's folder, bytes, nanoseconds since 1970) of each, by name.

    Raises:
        ConfigError: nothing is there.
    """
    root = Path(config[section].path)
    files = root.rglob("*")
    if root.is_file() and config[section].source in _FILE_SOURCES:
        # And what lies beside it: the index of a .rec.
        root, files = root.parent, root.parent.glob(f"{glob.escape(root.stem)}.*")
    elif not root.is_dir():
        raise ConfigError(
            f"config.{section}.path is {config[section].path!r}, which is not a folder; give the "
            f"folder of the data set{_LAYOUTS.get(config[section].source, '')}"
        )
    shown = (
        path
        for path in sorted(files)
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    return [
        (str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in shown
        if path.is_file()
    ]
