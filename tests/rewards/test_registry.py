"""Rewards by name: each wrong part of a name is named, and each wrong output."""

import jax
import jax.numpy as jnp
import pytest

from rlsyn_jax.rewards.registry import BUILT_IN, check_reward_output, resolve_reward


def test_finds_every_built_in_and_other_functions():
    for name in BUILT_IN:
        assert resolve_reward(name).__name__ == name.split(":")[1]
    assert resolve_reward("jax.numpy:tanh") is jnp.tanh


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("rlsyn_jax.rewards.coverage", "one colon"),
        ("a:b:c", "one colon"),
        (":coverage", "one colon"),
        ("rlsyn_jax.rewards.coverage:", "one colon"),
        ("rlsyn_jax.rewards.covrage:f", "module 'rlsyn_jax.rewards.covrage' cannot be imported"),
        ("..coverage:f", "cannot be imported"),
        ("rlsyn_jax.rewards.coverage:nothing", "has no function 'nothing'"),
        ("rlsyn_jax.rewards.coverage:CREDITS", "'CREDITS' is a tuple and cannot be called"),
        (None, "named by a string"),
    ],
)
def test_says_which_part_is_wrong(reference, message):
    with pytest.raises(ValueError, match=message):
        resolve_reward(reference)


def test_a_module_that_fails_while_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_reward_module.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="RuntimeError: no licence") as caught:
        resolve_reward("broken_reward_module:f")
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    "reference",
    [
        "distributional_coverage",
        "rlsyn_jax.rewards.coverage:distributional_coverge",
        "rlsyn_jax.reward.coverage:distributional_coverage",
    ],
)
def test_suggests_the_built_in_that_was_meant(reference):
    meant = "rlsyn_jax.rewards.coverage:distributional_coverage"
    with pytest.raises(ValueError, match=f"Did you mean '{meant}'"):
        resolve_reward(reference)


def test_lists_the_built_ins_where_nothing_is_near():
    with pytest.raises(ValueError) as caught:
        resolve_reward("xyz")
    assert all(name in str(caught.value) for name in BUILT_IN)


def test_accepts_floating_outputs_of_the_right_shape():
    for dtype in (jnp.float32, jnp.bfloat16):
        check_reward_output("mine", jax.ShapeDtypeStruct((2, 3), dtype), (2, 3))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (jax.ShapeDtypeStruct((3, 2), jnp.float32), r"shape \(2, 3\).*got \(3, 2\)"),
        (jax.ShapeDtypeStruct((2,), jnp.float32), r"got \(2,\)"),
        (jax.ShapeDtypeStruct((2, 3), jnp.int32), "floating-point numbers, got int32"),
        ((jax.ShapeDtypeStruct((2, 3), jnp.float32),), "one array.*got a tuple"),
    ],
)
def test_refuses_other_outputs(output, message):
    with pytest.raises(ValueError, match=f"reward 'mine' .*{message}"):
        check_reward_output("mine", output, (2, 3))
