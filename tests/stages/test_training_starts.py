"""The images that samples begin with are the training people's, as the generator has them."""

import types

import jax
import numpy as np
import pytest

from rlsyn_jax.models.tiny_autoencoder import TinyAutoencoder
from rlsyn_jax.stages.generator import init_params, make_sampler
from rlsyn_jax.stages.inputs import load_target, train_labels
from rlsyn_jax.stages.latent_space import open_latent_space
from rlsyn_jax.stages.training_starts import training_starts
from rlsyn_jax.training.checkpoints import CheckpointStore

AUTOENCODER = {
    "latent_channels": 4,
    "width": 4,
    "encoder_blocks": [1, 1],
    "decoder_blocks": [1, 1],
    "image_channels": 3,
    "norm_num_groups": 0,
}


def write_autoencoder(folder):
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in AUTOENCODER.items()}
    images = np.zeros((1, 8, 8, 3), np.float32)
    params = jax.jit(TinyAutoencoder(**fields).init)(jax.random.key(0), images)["params"]
    record = {"network": "TinyAutoencoder", "autoencoder": AUTOENCODER}
    with CheckpointStore(folder) as store:
        store.save(1, {"params": params}, config=record, iterator_state=None)
    return str(folder)


@pytest.fixture(name="run", scope="module")
def target(program, tmp_path_factory):
    config, workdir = program.config(synthesize={"strength": 0.5}), tmp_path_factory.mktemp("run")
    dataset, splits = load_target(config, workdir)
    images, labels = train_labels(dataset, splits)
    return types.SimpleNamespace(
        config=config,
        workdir=workdir,
        inputs=(dataset, splits),
        images=images / 127.5 - 1,
        labels=labels,
        classes=len(splits.train_identities),
    )


def test_pixels_are_in_the_generator_s_range(run):
    starts = training_starts(run.config, run.workdir, *run.inputs)
    assert starts.counts.tolist() == np.bincount(run.labels).tolist()
    for label in range(run.classes):
        own = run.images[run.labels == label]
        np.testing.assert_allclose(starts.images[label, : len(own)], own, atol=1e-6)


def test_from_noise_there_are_none(program, run):
    config = program.config(synthesize={"strength": 1.0})
    assert training_starts(config, run.workdir, *run.inputs) is None


def test_latents_are_those_of_the_images_as_they_are(program, run, tmp_path):
    config = program.config(
        synthesize={"strength": 0.5},
        autoencoder={"path": write_autoencoder(tmp_path / "autoencoder")},
        generator={"clip_denoised": False},
        adapt={"flip": True},
    )
    space = open_latent_space(config)
    starts = training_starts(config, tmp_path, *run.inputs)
    expected, _ = space.encode(space.params, run.images.astype(np.float32))
    for label in range(run.classes):
        own = np.asarray(expected)[run.labels == label]
        # Kept in half precision.
        np.testing.assert_allclose(starts.images[label, : len(own)], own, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("solver", ["ddim", "dpm_solver"])
def test_samples_of_little_strength_are_the_images(program, run, solver):
    config = program.config(
        synthesize={"strength": 0.002, "num_steps": 1, "solver": solver},
        reinforce={"num_steps": 2},
    )
    starts = training_starts(config, run.workdir, *run.inputs)
    sampler = make_sampler(config, run.classes, starts)
    params = init_params(config, run.classes, seed=0)
    labels = np.arange(run.classes).repeat(3).astype(np.int32)
    numbers = np.arange(len(labels))
    samples = np.asarray(sampler(params, jax.random.key(0), numbers, labels)) / 127.5 - 1
    begun = starts.images[labels, numbers % starts.counts[labels]]
    assert np.abs(samples - begun).mean() < 0.05
    others = starts.images[(labels + 1) % run.classes, 0]
    assert np.abs(samples - others).mean() > 0.1
