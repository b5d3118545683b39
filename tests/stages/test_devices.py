"""The number of devices, and how they share the parameters, changes memory and no result."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rlsyn_jax.models.autoencoder_kl import AutoencoderKL
from rlsyn_jax.stages import pretrain
from rlsyn_jax.stages.generator import init_params, make_training, train_denoising
from rlsyn_jax.stages.inputs import load_general
from rlsyn_jax.stages.latent_space import sample_shape
from rlsyn_jax.stages.stage_record import StageRecord
from rlsyn_jax.training.checkpoints import CheckpointStore, restore_params
from rlsyn_jax.training.meshes import batch_sharding, make_mesh, parameter_shardings
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


def test_pretraining_on_one_device_and_on_eight_is_the_same(program, tmp_path):
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


AUTOENCODER = {"block_out_channels": [4, 8], "norm_num_groups": 2, "layers_per_block": 1}


def write_autoencoder(folder):
    images = jnp.zeros((1, 8, 8, 3))
    params = jax.jit(AutoencoderKL(**AUTOENCODER).init)(jax.random.key(0), images)["params"]
    record = {"network": "AutoencoderKL", "autoencoder": AUTOENCODER}
    with CheckpointStore(folder) as store:
        store.save(1, {"params": params}, config=record, iterator_state=None)
    return str(folder)


def trained_directly(config, fsdp, devices):
    """The state of the pre-training after three steps on random batches, and their losses."""
    mesh, random = make_mesh(fsdp, jax.devices()[:devices]), np.random.default_rng(0)
    # Away from the zeros that a new network has in places, every parameter has a gradient.
    params = jax.tree.map(
        lambda value: value + 0.02 * random.normal(size=value.shape).astype(np.float32),
        init_params(config, 8, seed=0),
    )
    start, frozen = split(params, "all")
    state, frozen, step = make_training(
        config, "pretrain", mesh, trained=start, frozen=frozen, num_classes=8, seed=0
    )
    losses, places = [], [value.sharding for value in jax.tree.leaves(state)]
    for _ in range(3):
        if config.autoencoder.path:  # As the cache of latents holds them.
            batch = random.normal(size=(8, 2, 2, *sample_shape(config))).astype(np.float16)
        else:
            batch = random.integers(0, 256, (8, *sample_shape(config)), np.uint8)
        labels = random.integers(0, 8, 8, np.int32)
        batch, labels = jax.device_put((batch, labels), batch_sharding(mesh))
        state, metrics = step(state, frozen, batch, labels)
        losses.append(float(metrics["loss"]))
    # A state that lies otherwise than before would compile the step anew.
    for value, place in zip(jax.tree.leaves(state), places):
        assert value.sharding.is_equivalent_to(place, value.ndim)
    return state, losses


def bytes_of(tree, devices):
    """All bytes of a tree, those too small to be worth splitting, and those on each device."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.size]
    held = dict.fromkeys(devices, 0)
    for shard in (shard for leaf in leaves for shard in leaf.addressable_shards):
        held[shard.device] += shard.data.nbytes
    small = sum(leaf.nbytes for leaf in leaves if leaf.size < 2**14)
    return sum(leaf.nbytes for leaf in leaves), small, held.values()


@pytest.mark.parametrize(
    ("fsdp", "optimizer", "space"),
    [
        (8, "adamw", "pixels"),
        pytest.param(4, "adamw", "pixels", marks=pytest.mark.slow),
        pytest.param(8, "muon", "pixels", marks=pytest.mark.slow),
        pytest.param(4, "muon", "pixels", marks=pytest.mark.slow),
        pytest.param(8, "adamw", "latents", marks=pytest.mark.slow),
        pytest.param(4, "muon", "latents", marks=pytest.mark.slow),
    ],
)
def test_each_device_holds_its_share_and_training_is_the_same(
    program, tmp_path, fsdp, optimizer, space
):
    config = program.config(
        image={"size": 8}, generator={"width": 256}, pretrain={"optimizer": optimizer}
    )
    if space == "latents":
        config.autoencoder.path = write_autoencoder(tmp_path)
        config.generator.clip_denoised, config.generator.patch_size = False, 2
    state, losses = trained_directly(config, fsdp, 8)
    for tree in (state.params, state.opt_state, state.ema_params):
        whole, small, held = bytes_of(tree, jax.devices())
        # What stays whole everywhere: biases and the table of classes, 2 % of the bytes.
        assert small < 0.04 * whole
        assert set(held) == {(whole - small) // fsdp + small}
    one, losses_of_one = trained_directly(config, 1, 1)
    np.testing.assert_allclose(losses, losses_of_one, rtol=1e-5)
    rate = config.pretrain.learning_rate
    moved = 3 * (config.pretrain.matrix_learning_rate if optimizer == "muon" else rate)
    for name in ("params", "ema_params"):
        require_close(*(jax.device_get(getattr(s, name)) for s in (one, state)), moved=moved)


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
