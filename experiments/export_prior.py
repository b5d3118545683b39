"""Writes a pre-trained generator as one small safetensors file, as the package ships it.

python experiments/export_prior.py WORKDIR FILE
"""

import json
import sys
from pathlib import Path

import flax
import numpy as np
from safetensors.numpy import save

from rlsyn_jax.training.atomic_files import write_bytes
from rlsyn_jax.training.checkpoints import restore_params


def export(workdir: Path, destination: Path) -> int:
    """Writes WORKDIR's averaged prior in half precision, with its config; returns the bytes."""
    record = json.loads((workdir / "pretrain" / "stage.json").read_text())["config"]
    config = {section: record[section] for section in ("generator", "image", "general_data")}
    config["pretrain"] = {k: v for k, v in record["pretrain"].items() if k != "cache"}
    flat = flax.traverse_util.flatten_dict(restore_params(workdir / "pretrain"), sep="/")
    tensors = {name: np.asarray(value, np.float16) for name, value in flat.items()}
    content = save(tensors, metadata={"config": json.dumps(config)})
    write_bytes(destination, content)
    return len(content)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    size = export(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"{sys.argv[2]}: {size / 2**20:.2f} MiB")
