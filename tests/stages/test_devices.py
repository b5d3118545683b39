"""The number of devices, and how they share the parameters, changes no result."""

import json
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rlsyn_jax.stages import pretrain
from rlsyn_jax.stages.generator import init_params, train_denoising
from rlsyn_jax.stages.inputs import load_general
from rlsyn_jax.stages.stage_record import StageRecord
from rlsyn_jax.training.checkpoints import restore_params
from rlsyn_jax.training.meshes import make_mesh, parameter_shardings
from rlsyn_jax.training.trainable import split

# Wide enough that parameters are split over "fsdp", and batches that eight devices can share.
FIELDS = {"generator.width": 64, "reinforce.identities": 4, "extractor.with_target": False}
STAGES = "--stages=pretrain,adapt,reinforce"


def require_close(one, other, *, moved):
    """Compares parameters; `moved` is the scale of what training changed in them.

    Adam divides by the gradient's size, so rounding in a gradient near 0 may turn a coordinate's
    step around: all but one in a thousand must agree to rounding, and all to the steps made.
    """
    assert jax.tree.structure(one) == jax.tree.structure(other)
    flat = [np.concatenate([np.ravel(v) for v in jax.tree.leaves(tree)]) for tree in (one, other)]
    difference = np.abs(flat[0] - flat[1])
    assert np.quantile(difference, 0.999) < 1e-6
    assert difference.max() < moved


def trained(config, workdir, mesh):
    """Parameters and running average after the tiny pre-training on some devices."""
    dataset = load_general(config, workdir)
    start, frozen = split(init_params(config, dataset.num_identities, seed=0), "all")
    record = StageRecord(workdir, "pretrain", config, pretrain.FIELDS)
    result = train_denoising(
        config,
        "pretrain",
        record,
        mesh,
        trained=start,
        frozen=frozen,
        images=dataset.images,
        labels=dataset.identities,
        data_name="general",
        num_classes=dataset.num_identities,
        seed=0,
    )
    return jax.device_get(result)


@pytest.fixture
def quick_compiling():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_pretraining_on_one_device_and_on_eight_is_the_same(program, tmp_path, quick_compiling):
    config = program.config(generator={"width": 64})
    devices = jax.devices()
    assert len(devices) == 8
    one, one_average = trained(config, tmp_path / "one", make_mesh(devices=devices[:1]))
    mesh = make_mesh(2)
    shardings = jax.tree.leaves(parameter_shardings(mesh, one))
    assert PartitionSpec(None, "fsdp") in {sharding.spec for sharding in shardings}
    other, other_average = trained(config, tmp_path / "other", mesh)
    require_close(one, other, moved=12 * config.pretrain.learning_rate)
    require_close(one_average, other_average, moved=12 * config.pretrain.learning_rate)


@pytest.fixture(scope="module")
def one_device(program, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one_device") / "run"
    program.run(workdir, STAGES, fields=FIELDS)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "fsdp"), [(8, 1), (2, 1), (4, 2), (8, 4)])
def test_a_run_on_several_devices_is_the_same(program, tmp_path, one_device, devices, fsdp):
    workdir = tmp_path / "run"
    # The extractors take most of the time, and have a test of their own.
    extractors = one_device / "pretrain" / "extractors"
    shutil.copytree(extractors, workdir / "pretrain" / "extractors")
    log = program.run(workdir, STAGES, fields=FIELDS | {"fsdp": fsdp}, devices=devices)
    assert f"{devices} device(s)" in log and f"fsdp {fsdp}" in log
    config = program.config()
    for stage, moved in (
        ("pretrain", 12 * config.pretrain.learning_rate),
        ("adapt", 6 * config.adapt.learning_rate * config.adapt.class_embedding_rate),
        ("reinforce", 4 * config.reinforce.learning_rate),
    ):
        for ema in (True, False):
            one, other = (restore_params(w / stage, ema=ema) for w in (one_device, workdir))
            require_close(one, other, moved=moved)
    curves = [
        [json.loads(line) for line in (w / "reinforce" / "metrics.jsonl").read_text().splitlines()]
        for w in (one_device, workdir)
    ]
    assert len(curves[0]) == len(curves[1]) == 3
    for one, other in zip(*curves):
        assert one.keys() == other.keys()
        for name in one:
            if name.startswith(("reward/", "advantage/")):
                np.testing.assert_allclose(other[name], one[name], rtol=1e-5, atol=1e-5)
    assert {"reward/semantic", "reward/coverage", "reward/richness"} <= curves[0][-1].keys()


@pytest.mark.slow
def test_extractors_on_eight_devices_are_the_same(program, tmp_path, one_device):
    workdir = tmp_path / "run"
    program.run(workdir, "--stages=pretrain", fields=FIELDS, devices=8)
    for name in ("reward", "judge", "start"):
        folders = [w / "pretrain" / "extractors" / name for w in (one_device, workdir)]
        one, other = map(restore_params, folders)
        for params in (one, other):
            # Batch normalisation takes this bias away: its gradient is rounding alone, which Adam
            # makes whole steps of.
            del params["backbone"]["embedding"]["bias"]
        require_close(one, other, moved=4 * program.config().extractor.learning_rate)
