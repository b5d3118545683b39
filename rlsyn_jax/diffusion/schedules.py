"""Noise schedules: how much of the image is left at each timestep.

x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise, t = 0 .. T - 1 (Ho et al., 2006.11239).
"""

from __future__ import annotations

import numpy as np


def linear_alpha_bars(num_timesteps: int = 1000) -> np.ndarray:
    """Returns alpha_bar [T] of the linear beta schedule, 1e-4 to 0.02 at T = 1000 (DDPM, DiT)."""
    scale = 1000 / num_timesteps
    betas = np.linspace(scale * 1e-4, min(scale * 0.02, 0.999), num_timesteps, dtype=np.float64)
    return np.cumprod(1 - betas)


def cosine_alpha_bars(num_timesteps: int = 1000) -> np.ndarray:
    """Returns alpha_bar [T] of the squared cosine (Nichol & Dhariwal, 2102.09672, eq 17)."""

    def level(t):
        return np.cos((t / num_timesteps + 0.008) / 1.008 * np.pi / 2) ** 2

    steps = np.arange(num_timesteps, dtype=np.float64)
    betas = np.minimum(1 - level(steps + 1) / level(steps), 0.999)
    return np.cumprod(1 - betas)


SCHEDULES = {"linear": linear_alpha_bars, "cosine": cosine_alpha_bars}


def make_alpha_bars(name: str, num_timesteps: int = 1000) -> np.ndarray:
    """Returns alpha_bar, float64 [num_timesteps], strictly falling in (0, 1).

    Raises:
        ValueError: unknown schedule, or fewer than two timesteps.
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown noise schedule {name!r}; one of {sorted(SCHEDULES)}")
    if num_timesteps < 2:
        raise ValueError(f"a schedule needs at least 2 timesteps, got {num_timesteps}")
    return SCHEDULES[name](num_timesteps)
