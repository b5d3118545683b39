"""Reinforcement through the steps: which rewards it takes, and a run by it."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.config import ConfigError, default_config
from rlsyn_jax.config_checks import validate
from rlsyn_jax.rewards.host_callback import on_host
from rlsyn_jax.rewards.reference_bank import build_reference_bank
from rlsyn_jax.stages import assembled_policy
from rlsyn_jax.stages.assembled_policy import assemble_policy
from rlsyn_jax.stages.generator import init_params
from rlsyn_jax.stages.policy import policy_settings
from rlsyn_jax.stages.reinforce import read_curves
from rlsyn_jax.stages.report import _learning
from rlsyn_jax.stages.trained_rewards import check_rewards, resolve_rewards, trained_rewards
from rlsyn_jax.training.checkpoints import restore_params
from rlsyn_jax.training.meshes import make_mesh


@on_host
def unknown_to_the_compiler(embeddings, features, mask, identities):
    return embeddings[..., 0]


def test_what_a_sample_adds_is_replaced_by_the_set_s_own_reward():
    rewards, _ = resolve_rewards(default_config(), whole_sets=True)
    shared, _ = resolve_rewards(default_config())
    bank = build_reference_bank(np.eye(4), np.arange(4) // 2, 2)
    random = np.random.default_rng(0).normal(size=(2, 5, 4))
    embeddings = jnp.asarray(random / np.linalg.norm(random, axis=-1, keepdims=True))
    for name in ("coverage", "richness"):
        values = np.asarray(rewards[name](embeddings, bank))
        assert (values == values[:, :1]).all() and np.ptp(shared[name](embeddings, bank)) > 0.01
    semantic = [choice["semantic"](embeddings, bank) for choice in (rewards, shared)]
    np.testing.assert_array_equal(*semantic)


def nearest_of_ten(embeddings, bank):
    return jnp.round(10 * embeddings[..., 0])


def test_what_it_does_not_read_is_not_asked_for():
    config = default_config()
    config.reinforce.update({"algorithm": "pathwise", "eta": 0.0, "num_steps": 1})
    validate(config)
    # Ancestral steps have the schedule's noise.
    config.reinforce.update({"algorithm": "ddpo_is", "num_steps": 4, "transition": "ancestral"})
    validate(config)
    config.reinforce.transition = "ddim"
    with pytest.raises(ConfigError, match="the policy needs its noise"):
        validate(config)


def test_a_reward_that_cannot_be_differentiated_is_refused():
    config = default_config()
    config.reinforce.algorithm = "pathwise"
    bank = build_reference_bank(np.eye(32), np.arange(32) // 2, 16)
    cold_start = init_params(config, 16, seed=0)
    for function, said in ((unknown_to_the_compiler, "JVP"), (nearest_of_ten, "gradient is zero")):
        config.rewards.semantic.function = f"{__name__}:{function.__name__}"
        with pytest.raises(ConfigError, match=f"config.rewards.semantic .*{said}"):
            assemble_policy(config, make_mesh(), cold_start, None, {}, bank)


@pytest.mark.parametrize(
    ("algorithm", "field"),
    [
        ("ddpo_is", "reinforce.samples"),
        ("ddpo_is", "synthesize.images"),
        # What trains takes two, but what is drawn is scored by what each sample adds.
        ("pathwise", "synthesize.images"),
    ],
)
def test_too_few_samples_for_a_reward_are_told_by_field(algorithm, field):
    bank = build_reference_bank(np.eye(32), np.arange(32) // 2, 16)
    config = default_config()
    config.update_from_flattened_dict({field: 2, "reinforce.algorithm": algorithm})
    cold_start = init_params(config, 16, seed=0)
    with pytest.raises(ConfigError, match=f"rewards.richness .*, for config.{field} = 2: "):
        assemble_policy(config, make_mesh(), cold_start, None, {}, bank)


def test_what_trains_through_the_steps_takes_two_samples():
    """Only what is drawn is scored by what each sample adds, of which richness needs three."""
    bank = build_reference_bank(np.eye(32), np.arange(32) // 2, 16)
    config = default_config()
    config.reinforce.update({"algorithm": "pathwise", "samples": 2})
    config.synthesize.images = 3
    rewards, weights = trained_rewards(config)
    settings = policy_settings(config, 16, 2, 1)
    check_rewards(config, rewards, weights, bank, settings)


def test_only_rewards_that_are_shared_out_are_told_apart_by_whole_sets(monkeypatch):
    """A reward on the host is then asked once an iteration."""
    told = []
    monkeypatch.setattr(
        assembled_policy, "make_iteration", lambda *_, whole_sets, **__: told.append(whole_sets)
    )
    bank = build_reference_bank(np.eye(32), np.arange(32) // 2, 16)
    for algorithm, expected in (("ddpo_is", {"coverage", "richness"}), ("pathwise", set())):
        config = default_config()
        config.reinforce.algorithm = algorithm
        assemble_policy(config, make_mesh(), init_params(config, 16, seed=0), None, {}, bank)
        assert set(told[-1]) == expected
        assert {f.keywords["credit"] for f in told[-1].values()} <= {"broadcast"}


def test_a_run_writes_checkpoints_and_finite_curves(program, tmp_path):
    fields = {
        "reinforce.algorithm": "pathwise",
        "reinforce.micro_batch": 0,
        "reinforce.iterations": 4,
        "reinforce.learning_rate": 3e-2,
    }
    program.run(tmp_path, "--stages=pretrain,adapt,reinforce", fields=fields)
    records = [record for record in read_curves(tmp_path) if "loss" in record]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert all(np.isfinite([record["loss"], record["gradient_norm"]]).all() for record in records)
    # There are no advantages that the page could draw.
    charts = [chart["alt"] for chart in _learning(tmp_path)["curve_charts"]]
    assert charts == ["Reward curves", "Held-out measures", "Spread of samples"]
    rows, before = (
        restore_params(tmp_path / stage / "model")["y_embedder"]["embedding_table"]
        for stage in ("reinforce", "adapt")
    )
    assert 1e-3 < np.abs(rows - before).max() < 1
