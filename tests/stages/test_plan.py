"""The plan of a run against published sizes, brute force and the predictions it is made of."""

import dataclasses
import re

import jax
import pytest

from rlsyn_jax.config import ConfigError, default_config
from rlsyn_jax.models.dit import DiT, dit_config
from rlsyn_jax.models.dit_flops import forward_flops
from rlsyn_jax.stages.data_counts import count_target
from rlsyn_jax.stages.device_checks import check_devices
from rlsyn_jax.stages.generator import build_generator, init_params
from rlsyn_jax.stages.networks import feature_width
from rlsyn_jax.stages.plan import UTILISATION, iteration_flops, largest_fitting, make_plan
from rlsyn_jax.stages.plan_samples import plan_samples
from rlsyn_jax.stages.plan_text import describe
from rlsyn_jax.stages.policy import policy_settings, predicted_memory
from rlsyn_jax.training.device_kinds import DEVICE_KINDS
from rlsyn_jax.training.meshes import make_mesh


def changed(**fields):
    config = default_config()
    config.update_from_flattened_dict({n.replace("__", "."): v for n, v in fields.items()})
    return config


def large(devices, **fields):
    """DiT-XL/2 for a thousand people."""
    config = changed(devices=devices, general_data__num_identities=1000, **fields)
    config.generator.update(dit_config("DiT-XL/2"))
    config.generator.dtype = "bfloat16"
    config.pretrain.batch_size = config.adapt.batch_size = 256
    config.reinforce.trainable = "lora"
    return config


@pytest.fixture(scope="module")
def on_h100s():
    return make_plan(large("h100x8"))


def test_the_largest_published_size_is_planned_on_named_devices(on_h100s):
    pretrain = on_h100s.stages[0]
    assert pretrain.name == "pretrain" and on_h100s.fsdp == 1 and not on_h100s.problems
    # 675 M by table 1 of Peebles & Xie, 2212.09748; float32, with AdamW's two moments.
    assert pretrain.parameters[0] == pytest.approx(675e6, rel=0.01)
    assert pretrain.parts.parameters == pytest.approx(4 * 675e6, rel=0.01)
    assert pretrain.parts.optimizer == pytest.approx(8 * 675e6, rel=0.01)
    assert pretrain.parts.average == pretrain.parts.parameters
    assert pretrain.per_device == 32
    # 118.6 giga-multiply-adds a pass, three passes' worth, 256 samples.
    assert pretrain.flops == pytest.approx(2 * 3 * 256 * 118.6e9, rel=0.02)
    peak, bandwidth = 989e12, 3.35e12
    expected = pretrain.flops / (8 * UTILISATION * peak) + 2 * 16 * 675e6 / bandwidth
    assert pretrain.seconds(on_h100s.devices, "bfloat16") == pytest.approx(expected, rel=0.01)


def test_the_largest_micro_batch_is_the_last_that_fits(on_h100s):
    batch = on_h100s.stages[0].largest
    for size, fits in ((batch, True), (batch + 1, False)):
        config = large("h100x8")
        config.pretrain.batch_size = 8 * size
        stage = make_plan(config).stages[0]
        assert stage.fits == fits and stage.per_device == size
        assert (1.15 * stage.parts.peak <= 0.75 * 80e9) == fits


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 8, 100, 1023])
def test_bisection_finds_every_limit(limit):
    assert largest_fitting(lambda number: number <= limit) == limit


def test_parameters_are_split_where_they_do_not_fit_whole():
    # Parameters, moments, average, gradients and updates are six copies of 2.7 GB.
    plan = make_plan(large("tpu-v5ex8"))
    assert plan.fsdp == plan.smallest_fsdp == 2
    assert "4 data x 2 fsdp: set --config.fsdp=2; split over 1," in describe(large("tpu-v5ex8"))
    plan = make_plan(large("h100x8", fsdp=4))
    assert (plan.fsdp, plan.smallest_fsdp) == (4, 1)
    assert plan.stages[0].parts.optimizer == pytest.approx(2 * 675e6, rel=0.02)


def test_remat_is_asked_for_where_it_helps():
    text = describe(large("tpu-v5ex8"))
    assert "problem: pretrain does not fit; set --config.remat=blocks, or lower" in text
    assert "remat:  not needed" not in text
    stage = make_plan(large("tpu-v5ex8")).stages[0]
    assert not stage.fits and stage.fits_with_remat and stage.largest < 32 <= stage.with_remat
    assert make_plan(large("tpu-v5ex8", remat="blocks")).stages[0].fits


def test_rows_that_looks_tell_are_a_map_and_embeddings():
    fields = {"pretrain.class_rows": "appearance", "pretrain.source": "train"}
    plans = []
    for people in (100, 20_000):
        config = changed(general_data__num_identities=people, devices="h100x8", **fields)
        plans.append(make_plan(config).stages[0])
    width = feature_width(config, "start")
    params = init_params(config, width + 1, seed=0)
    number = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert [plan.parameters for plan in plans] == 2 * [(number, number)]
    # Two views of each image in float32, and four numbers.
    assert 19_900 * config.general_data.images_per_identity * (2 * width + 4) * 4 == (
        plans[1].parts.parameters - plans[0].parts.parameters
    )


def test_a_cold_start_of_no_updates_is_not_planned_and_shares_no_batch(tmp_path):
    fields = {"adapt.steps": 0, "adapt.class_rows": "embedding", "adapt.batch_size": 5}
    plan = make_plan(changed(devices="h100x8", **fields))
    assert [stage.name for stage in plan.stages] == ["pretrain", "reinforce"]
    assert not plan.problems
    check_devices(changed(**fields), tmp_path, ["adapt"])
    with pytest.raises(ConfigError, match="config.adapt.batch_size is 5; it must be divisible"):
        check_devices(changed(**fields | {"adapt.steps": 1}), tmp_path, ["adapt"])


def test_devices_found_are_planned_as_they_are_checked():
    config = changed(pretrain__source="shipped")
    plan = make_plan(config)
    assert plan.devices.number == 8 and plan.devices.on_cpu
    assert [stage.name for stage in plan.stages] == ["adapt", "reinforce"]
    num_classes, images = count_target(config)
    bank = images, config.recognize.embedding_dim
    assert plan.stages[1].parts == predicted_memory(config, num_classes, bank, make_mesh())
    assert plan.stages[0].seconds(plan.devices, "float32") is None
    assert "time:   not known" in describe(config)


def test_batches_that_devices_cannot_share_are_told():
    text = describe(changed(devices="h100x6"))
    assert "problem: config.pretrain.batch_size is 32; it must be divisible by the" in text
    assert "problem: one iteration has 8 identities x 8 samples = 64" in text
    with pytest.raises(ConfigError, match="config.fsdp is 3; it must divide .* devices, 8"):
        make_plan(changed(devices="h100x8", fsdp=3))


@pytest.mark.parametrize(
    ("fields", "passes_of_update"),
    [
        ({"guidance_scale": 1.0}, 2),
        ({"guidance_scale": 1.0, "trainable": "all"}, 3),
        ({"guidance_scale": 1.5}, 4),
        ({"guidance_scale": 1.5, "unconditional": "detached"}, 3),
        ({"guidance_scale": 1.5, "kl_weight": 0.1, "inner_epochs": 3}, 6),
    ],
)
def test_an_iteration_takes_the_flops_of_its_passes(fields, passes_of_update):
    config = changed(**{f"reinforce__{name}": value for name, value in fields.items()})
    settings, model = policy_settings(config, 20, 2, 1), build_generator(config, 20)
    assert isinstance(model, DiT)
    branches = 1 if settings.guidance_scale == 1 else 2
    passes = 4 * 64 * branches + settings.inner_epochs * 2 * 64 * passes_of_update
    flops = iteration_flops(settings, model, config.reinforce.trainable, 2, 4)
    assert flops == passes * forward_flops(model, settings.image_shape)
    smaller = dataclasses.replace(settings, micro_batch=8)
    assert iteration_flops(smaller, model, config.reinforce.trainable, 2, 4) == flops


@pytest.mark.parametrize(
    ("fields", "passes_of_step"),
    [
        ({"guidance_scale": 1.0}, 1 + 2),
        ({"guidance_scale": 1.5, "trainable": "all"}, 2 + 6),
        ({"guidance_scale": 1.5, "unconditional": "detached"}, 2 + 2 + 2),
    ],
)
def test_an_iteration_through_the_steps_takes_every_one_twice_and_back(fields, passes_of_step):
    fields = {f"reinforce__{name}": value for name, value in fields.items()}
    config = changed(reinforce__algorithm="pathwise", **fields)
    settings, model = policy_settings(config, 20, 1, 1), build_generator(config, 20)
    flops = iteration_flops(settings, model, config.reinforce.trainable, 1, 4)
    assert flops == 4 * 64 * passes_of_step * forward_flops(model, settings.image_shape)


def test_half_of_the_bits_take_half_of_the_activations_on_accelerators():
    parts = [make_plan(changed(devices="h100x8", generator__dtype=d)).stages[0].parts
             for d in ("float32", "bfloat16")]  # fmt: skip
    whole, half = (part.gradients + part.activations for part in parts)
    assert 0.5 < half / whole < 0.7  # Attention maps stay float32.
    assert DEVICE_KINDS["h100"].usable == 0.75 * 80e9


def test_samples_of_every_set_are_counted():
    fields = {"synthesize__candidates": 2, "synthesize__images": 6, "synthesize__num_steps": 5}
    config = changed(devices="h100x2", data__num_identities=30, **fields)
    people = count_target(config)[0]
    plan = plan_samples(config)
    assert plan.drawn == {"cold_start": people * 12, "reinforced": people * 12}
    forward = forward_flops(build_generator(config, people), (32, 32, 3))
    assert plan.flops == people * 24 * 5 * 2 * forward  # Guided.
    devices = make_plan(config).devices
    peak = DEVICE_KINDS["h100"].float32
    assert plan.seconds(devices, "float32") == pytest.approx(plan.flops / (2 * UTILISATION * peak))
    config.update_from_flattened_dict(
        {
            "synthesize.guidance_scale": 1.0,
            "synthesize.best_of": 5,
            "recognize.arms": ("real", "real_best_of"),
            "synthesize.identities": "novel",
            "synthesize.num_novel": 7,
            "synthesize.prior_identities": 9,
        }
    )
    drawn = {"cold_start": 12 * people, "reinforced": 12 * people, "best_of": 30 * people}
    more = plan_samples(config)
    assert more.drawn == {**drawn, "novel": 42, "prior": 108}
    assert more.flops == sum(more.drawn.values()) * 5 * forward
    assert re.search(r"samples: +\d[\d,]* in 5 steps \(cold_start .*prior 108\)", describe(config))


def test_steps_that_cannot_be_chosen_are_a_problem_of_the_plan_and_no_error():
    arms = {"recognize__arms": ("real", "real_best_of")}
    text = describe(changed(devices="h100x1", reinforce__sigma_floor=10.0, **arms))
    assert "problem: " in text and "samples:" not in text


def test_the_command_prints_a_plan_and_writes_nothing(program, tmp_path):
    process = program.python(
        "-m", "rlsyn_jax.main", "--config=configs/quickstart.py", "--plan",
        "--config.devices=h100x8", f"--workdir={tmp_path / 'run'}",
    )  # fmt: skip
    log = program.log_of(process)
    assert process.returncode == 0, log
    assert "h100x8 (named; 55.9 of 74.5 GiB each for JAX)" in log
    rows = dict(re.findall(r"^(\S.*?)  +(\S.*)$", log, re.MULTILINE))
    assert rows["MiB of a device"].split() == ["adapt", "reinforce"]
    assert rows["fits"].split() == ["yes", "yes"] and rows["steps"].split() == ["400", "15"]
    total = [float(rows[name].split()[0]) for name in ("parameters", "optimiser state", "average")]
    assert sum(total) < float(rows["total"].split()[0]) < 200
    assert not (tmp_path / "run").exists()
