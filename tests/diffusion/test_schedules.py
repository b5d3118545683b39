"""Noise schedules against the papers' formulas."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsyn_jax.diffusion.schedules import SCHEDULES, make_alpha_bars


def test_linear_schedule_has_ddpm_s_betas():
    left, expected = 1.0, []
    for t in range(1000):
        left *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999)
        expected.append(left)
    np.testing.assert_allclose(make_alpha_bars("linear", 1000), expected, rtol=1e-10)


def test_linear_schedule_of_fewer_steps_destroys_as_much():
    whole, short = make_alpha_bars("linear", 1000), make_alpha_bars("linear", 250)
    np.testing.assert_allclose(np.log(short), np.log(whole[3::4]), rtol=0.03, atol=1e-3)


@pytest.mark.parametrize("steps", [50, 1000])
def test_cosine_schedule_is_equation_17(steps):
    def f(t):
        return math.cos((t / steps + 0.008) / (1 + 0.008) * math.pi / 2) ** 2

    alpha_bars = make_alpha_bars("cosine", steps)
    expected = [f(t) / f(0) for t in range(1, steps)]
    np.testing.assert_allclose(alpha_bars[:-1], expected, rtol=1e-9)
    # The last beta is clipped at 0.999, as the paper says.
    assert alpha_bars[-1] / alpha_bars[-2] == pytest.approx(0.001)


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(SCHEDULES)), steps=st.integers(2, 1500))
def test_signal_falls_strictly_between_one_and_zero(name, steps):
    alpha_bars = make_alpha_bars(name, steps)
    assert alpha_bars.shape == (steps,) and alpha_bars.dtype == np.float64
    assert 1 > alpha_bars[0] and alpha_bars[-1] > 0
    assert (np.diff(alpha_bars) < 0).all()


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"'sigmoid'; one of \['cosine', 'linear'\]"):
        make_alpha_bars("sigmoid")
    with pytest.raises(ValueError, match="at least 2 timesteps, got 1"):
        make_alpha_bars("linear", 1)
