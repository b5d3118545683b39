"""Files of arrays: what is in them comes back, pickles and damage are refused."""

import io
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from rlsyn_jax.evaluation import array_files
from rlsyn_jax.evaluation.array_files import load_arrays

ARRAYS = {"embeddings": np.eye(3, dtype=np.float32), "ids": np.arange(3)}


def test_named_arrays_come_back_from_both_kinds_of_files(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS, other=np.ones(2))
    safetensors.numpy.save_file(ARRAYS, tmp_path / "a.safetensors")
    for name in ("a.npz", "a.safetensors"):
        arrays = load_arrays(tmp_path / name, ["embeddings", "ids"], optional=["cameras"])
        assert set(arrays) == set(ARRAYS)
        for key, value in ARRAYS.items():
            np.testing.assert_array_equal(arrays[key], value)


class Harm:
    """What a pickle would do when it is loaded."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_a_pickle_is_never_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", embeddings=np.array([Harm()], dtype=object))
    with pytest.raises(ValueError, match="pickled objects are not loaded"):
        load_arrays(tmp_path / "a.npz", ["embeddings"])
    np.array([Harm()], dtype=object).dump(tmp_path / "b.npz")
    with pytest.raises(ValueError, match="pickled objects are not loaded"):
        load_arrays(tmp_path / "b.npz", ["embeddings"])


def test_what_is_wrong_is_told(tmp_path):
    np.savez(tmp_path / "a.npz", ids=np.ones(2))
    with pytest.raises(ValueError, match=r"lacks the arrays \['embeddings'\]; it holds \['ids'\]"):
        load_arrays(tmp_path / "a.npz", ["embeddings", "ids"])
    for name in ("b.npz", "b.safetensors"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 cut")
        with pytest.raises(ValueError, match=f"{name}: not a readable"):
            load_arrays(tmp_path / name, ["ids"])
    with pytest.raises(ValueError, match="expected a .npz or .safetensors"):
        load_arrays(tmp_path / "a.pkl", ["ids"])
    with pytest.raises(FileNotFoundError):
        load_arrays(tmp_path / "missing.npz", ["ids"])
    np.save(tmp_path / "one.npy", np.ones(2))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(ValueError, match="one array and no names"):
        load_arrays(tmp_path / "one.npz", ["ids"])


def npy(shape, data):
    sink = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(sink, header)
    return sink.getvalue() + data


def test_headers_that_claim_more_than_is_there_take_no_memory(tmp_path):
    for shape in ((2**40,), (2**62, 2**62), (3, -1), (0,)):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("ids.npy", npy(shape, bytes(12)))
        with pytest.raises(ValueError, match="a.npz: not a readable .* in 12 bytes"):
            load_arrays(tmp_path / "a.npz", ["ids"])


def test_bombs_are_refused_and_what_was_compressed_well_is_read(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", ids=np.zeros(2**16))
    assert load_arrays(tmp_path / "a.npz", ["ids"])["ids"].shape == (2**16,)
    monkeypatch.setattr(array_files, "_LARGEST_COMPRESSED", 2**18)
    with pytest.raises(ValueError, match="ids of 524288 bytes was compressed to"):
        load_arrays(tmp_path / "a.npz", ["ids"])
    np.savez(tmp_path / "a.npz", ids=np.zeros(2**16))  # Not compressed, and as large.
    assert load_arrays(tmp_path / "a.npz", ["ids"])["ids"].shape == (2**16,)
