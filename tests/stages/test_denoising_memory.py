"""The memory of a training step that is told beforehand, against the compiler's own figure."""

import jax
import jax.numpy as jnp
import pytest

from rlsyn_jax.config import default_config
from rlsyn_jax.rl.memory import memory_need
from rlsyn_jax.stages.denoising_memory import split_shapes, training_memory
from rlsyn_jax.stages.generator import (
    alpha_bars,
    build_generator,
    denoising_optimizer,
    make_preparation,
)
from rlsyn_jax.stages.latent_space import sample_shape
from rlsyn_jax.training.denoising import make_denoising_step
from rlsyn_jax.training.meshes import batch_sharding, make_mesh, parameter_shardings, replicated
from rlsyn_jax.training.train_state import TrainState

CLASSES = 16


def compiled_step(config, mesh):
    """Compiles config.adapt's step for shapes alone."""
    training, model = config.adapt, build_generator(config, CLASSES)
    optimizer = denoising_optimizer(training, training.steps)

    def placed(tree, sharding=None):
        shardings = parameter_shardings(mesh, tree)
        return jax.tree.map(
            lambda value, own: jax.ShapeDtypeStruct(
                value.shape, value.dtype, sharding=sharding or own
            ),
            tree,
            shardings,
        )

    trained, frozen = map(placed, split_shapes(config, CLASSES, "adapt"))
    whole = replicated(mesh)
    state = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
        params=trained,
        opt_state=placed(jax.eval_shape(optimizer.init, trained)),
        ema_params=trained,
        key=placed(jax.eval_shape(lambda: jax.random.key(0)), whole),
    )
    names = "class_dropout weighting min_snr_gamma ema_decay"
    step = make_denoising_step(
        lambda params, x, t, y: model.apply({"params": params}, x, t, y),
        optimizer,
        alpha_bars=jnp.asarray(alpha_bars(config), jnp.float32),
        num_classes=CLASSES,
        prediction_type=config.generator.prediction_type,
        learn_sigma=config.generator.learn_sigma,
        **{name: training[name] for name in names.split()},
        prepare=make_preparation(config, "adapt"),
    )
    batch = (
        jax.ShapeDtypeStruct((training.batch_size, *sample_shape(config)), jnp.uint8),
        jax.ShapeDtypeStruct((training.batch_size,), jnp.int32),
    )
    return step.lower(state, frozen, *placed(batch, batch_sharding(mesh))).compile()


def predicted_over_compiled(fields, *, devices=1, fsdp=1):
    """Returns the ratio of the two peaks."""
    config = default_config()
    config.update_from_flattened_dict(fields)
    mesh = make_mesh(fsdp, devices=jax.devices()[:devices])
    need = memory_need(compiled_step(config, mesh))
    predict = training_memory(config, "adapt", CLASSES, mesh, on_cpu=True)
    predicted = predict(build_generator(config, CLASSES), config.adapt.batch_size // devices)
    assert predicted.arguments == pytest.approx(need.arguments, rel=0.02)
    return predicted.peak / need.peak


WIDE = {"generator.width": 384, "generator.num_heads": 6, "generator.depth": 12}
MIDDLE = {"generator.width": 256, "generator.depth": 3}
SMALL = {"generator.depth": 3, "adapt.batch_size": 16}
SCANNED = {"generator.scan_layers": True}
LEAST = {"generator.depth": 2, "generator.patch_size": 8}


@pytest.mark.parametrize(
    "fields",
    [LEAST, {**LEAST, "adapt.trainable": "class_embedding"}],
)
def test_a_step_is_predicted(fields):
    assert predicted_over_compiled(fields) == pytest.approx(1, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"remat": "blocks"},
        SCANNED,
        {**SCANNED, "remat": "products"},
        {**SCANNED, "remat": "blocks", "generator.depth": 12},
        {**SCANNED, "adapt.trainable": "class_embedding"},
        {**SCANNED, "adapt.trainable": "class_embedding", "remat": "products"},
        {**SCANNED, "generator.patch_size": 8, "adapt.batch_size": 64},
        {**SCANNED, **MIDDLE, "remat": "blocks", "adapt.batch_size": 16},
        {**SCANNED, **MIDDLE, "remat": "products", "adapt.batch_size": 16},
        {**SMALL, "adapt.trainable": "class_embedding"},
        {"generator.dtype": "bfloat16"},
        {"adapt.optimizer": "muon"},
        {**SMALL, "adapt.trainable": "adaln"},
        {**SMALL, "adapt.trainable": "lora"},
        {"generator.depth": 12, "generator.patch_size": 2, "adapt.batch_size": 4},
        {"generator.depth": 3, "generator.patch_size": 8, "adapt.batch_size": 64},
        {**SMALL, "generator.learn_sigma": True, "image.size": 64, "generator.patch_size": 8},
        {**MIDDLE, "adapt.batch_size": 4},
        {**MIDDLE, "adapt.batch_size": 4, "adapt.optimizer": "muon"},
        {**MIDDLE, "adapt.batch_size": 16, "adapt.trainable": "class_embedding"},
        {**WIDE, "adapt.batch_size": 8},
        {**WIDE, "adapt.batch_size": 2, "adapt.optimizer": "muon"},
        {**WIDE, "adapt.batch_size": 32, "adapt.optimizer": "muon"},
        {**WIDE, "adapt.batch_size": 32, "adapt.trainable": "class_embedding"},
    ],
)
def test_other_steps_are_predicted(fields):
    assert predicted_over_compiled(fields) == pytest.approx(1, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(("devices", "fsdp"), [(4, 1), (2, 2), (4, 2), (4, 4)])
@pytest.mark.parametrize("sizes", [MIDDLE, WIDE], ids=["middle", "wide"])
def test_a_device_s_share_is_predicted(sizes, devices, fsdp, optimizer):
    fields = {**sizes, "adapt.batch_size": 16, "adapt.optimizer": optimizer}
    ratio = predicted_over_compiled(fields, devices=devices, fsdp=fsdp)
    assert ratio == pytest.approx(1, abs=0.15)
