"""Files of weights from elsewhere, read without ever running what is in them.

safetensors files hold tensors alone. Files that torch.save wrote are pickles, which can run any
code, and are read by PyTorch's reader of weights, which refuses everything but tensors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open

_TORCH_ENDINGS = (".pt", ".pth", ".bin")
_DIFFUSERS_NAME = "diffusion_pytorch_model"
# Where training scripts keep the weights, beside the optimiser's state; the best ones first.
_PARTS = ("ema", "model", "state_dict")


class Weights(NamedTuple):
    """What was read: tensors by name, and where they come from."""

    tensors: dict[str, Any]  # Arrays, or PyTorch's tensors on the CPU.
    config: dict | None  # config.json of a diffusers folder.
    part: str | None  # The part of a training checkpoint that was taken, such as "ema".
    files: tuple[Path, ...]


def read_weights(source: str | Path) -> Weights:
    """Reads a file of weights, or a folder as diffusers writes it.

    Args:
        source: a .safetensors file; a .pt, .pth or .bin file of torch.save; a folder with
            config.json and weights, or one of a whole pipeline, of which transformer/ is read; a
            folder with two files NAME_encoder and NAME_decoder, as tiny autoencoders come.

    Returns:
        The weights. Of a training checkpoint, the average ("ema") is taken where it has one.

    Raises:
        FileNotFoundError: there is no such file, or the folder lacks one.
        ModuleNotFoundError: the file needs PyTorch, which is not installed.
        ValueError: it is of another kind, damaged, or a pickle of more than tensors.
    """
    source = Path(source)
    if source.is_dir():
        return _read_folder(source)
    if not source.exists():
        raise FileNotFoundError(f"{source} is not there")
    tensors, part = _read_file(source)
    return Weights(tensors, None, part, (source,))


def sha256(path: str | Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_folder(folder: Path) -> Weights:
    halves = [_find_half(folder, half) for half in ("encoder", "decoder")]
    if all(halves):
        return _read_halves(*halves)
    if (folder / "model_index.json").exists():
        folder = folder / "transformer"
    config = _read_json(folder / "config.json")
    if not isinstance(config, dict) or "_class_name" not in config:
        raise ValueError(f"{folder / 'config.json'} is not the config of a diffusers model")
    index = folder / f"{_DIFFUSERS_NAME}.safetensors.index.json"
    candidates = [folder / (_DIFFUSERS_NAME + ending) for ending in (".safetensors", ".bin")]
    files = [path for path in candidates if path.exists()][:1]
    if not files and index.exists():
        places = _read_json(index)
        if not isinstance(places, dict) or not isinstance(places.get("weight_map"), dict):
            raise ValueError(f"{index} has no weight_map")
        names = sorted(set(places["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise ValueError(f"{index} names files outside of its folder: {outside}")
        files = [folder / name for name in names]
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no {_DIFFUSERS_NAME}.safetensors, .safetensors.index.json or .bin"
        )
    tensors, part = {}, None
    for file in files:
        if not file.exists():
            raise FileNotFoundError(f"{index} names {file.name}, which is not there")
        read, part = _read_file(file)
        tensors |= read
    return Weights(tensors, config, part, tuple(files))


def _find_half(folder: Path, half: str) -> Path | None:
    """Returns the file of an autoencoder's encoder or decoder, where there is just one."""
    endings = (".safetensors", *_TORCH_ENDINGS)
    files = [p for p in folder.glob(f"*{half}.*") if p.suffix in endings and p.stem.endswith(half)]
    return files[0] if len(files) == 1 else None


def _read_halves(encoder: Path, decoder: Path) -> Weights:
    """Reads two files whose tensors are numbered each from the start."""
    tensors = {}
    for half, file in (("encoder", encoder), ("decoder", decoder)):
        read, _ = _read_file(file)
        tensors |= {f"{half}.{name.removeprefix(half + '.')}": read[name] for name in read}
    return Weights(tensors, None, None, (encoder, decoder))


def _read_json(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; a diffusers folder has it")
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _read_file(path: Path) -> tuple[dict[str, Any], str | None]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path), None
    if path.suffix in _TORCH_ENDINGS:
        return _pick_part(path, _read_torch(path))
    raise ValueError(
        f"{path} is of no kind that is read here: .safetensors, {', '.join(_TORCH_ENDINGS)} of "
        "torch.save, or a diffusers folder. Other pickles are never read: they can run any code"
    )


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(str(path), framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise
    except (
        Exception
    ) as error:  # Types of numbers that NumPy does not have are errors of many kinds.
        raise ValueError(f"{path} is truncated or no safetensors file: {error}") from error


def _read_torch(path: Path) -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModuleNotFoundError(
            f"{path} needs PyTorch to be read: pip install -e '.[torch]'; or give safetensors",
            name="torch",
        ) from error
    try:
        # Training scripts keep their command line beside the weights, as a Namespace, which is
        # a class without code of its own.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:  # Its reader raises many kinds for a damaged file.
        raise ValueError(f"{path} is refused: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Says what is wrong with a file; PyTorch's own words advise to read it without a check."""
    found = re.search(r"GLOBAL ([\w.]*\w)", str(error))
    if found:
        return (
            f"it is a pickle that holds {found.group(1)}; only tensors are read, since other "
            "pickles can run any code. Save the state_dict() alone"
        )
    if "Weights only load failed" in str(error) or "magic number" in str(error):
        return "it is a pickle that torch.save did not write, and could run any code"
    detail = (str(error) or type(error).__name__).splitlines()[0]
    return f"it is truncated, or no file of torch.save ({detail[:200]})"


def _pick_part(path: Path, content: Any) -> tuple[dict[str, Any], str | None]:
    """Returns the tensors of what a file holds, and the name of the part they were in."""
    part = None
    if isinstance(content, Mapping):
        found = [name for name in _PARTS if isinstance(content.get(name), Mapping)]
        if found:
            part = found[0]
            content = content[part]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not tensors by name")
    others = [str(name) for name, value in content.items() if not hasattr(value, "shape")]
    if others:
        raise ValueError(f"{path} is not a state dict: no tensor is in {', '.join(others)}")
    return dict(content), part
