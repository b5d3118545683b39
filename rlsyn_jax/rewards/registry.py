"""Reward functions by name: find the function a config names, and check what it returns."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

BUILT_IN = (
    "rlsyn_jax.rewards.semantic_consistency:semantic_consistency",
    "rlsyn_jax.rewards.coverage:distributional_coverage",
    "rlsyn_jax.rewards.richness:expression_richness",
)


def resolve_reward(reference: str) -> Callable:
    """Imports a reward function.

    Args:
        reference: "package.module:function", of this package or of any other.

    Returns:
        The function: (embeddings [i, g, d], bank of the same i identities, **options) -> [i, g].

    Raises:
        ValueError: says which part is wrong: the colon, the module, the function or that it
            cannot be called. Names the built-in reward meant, or lists them.
    """
    if not isinstance(reference, str):
        raise ValueError(f"a reward is named by a string, got {reference!r}. {_suggestion('')}")
    module_name, colon, function_name = reference.partition(":")
    if not (colon and module_name and function_name) or ":" in function_name:
        raise ValueError(
            f"reward {reference!r} must read package.module:function, with one colon. "
            f"{_suggestion(reference)}"
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # A module may fail in any way while it is imported.
        raise ValueError(
            f"reward {reference!r}: module {module_name!r} cannot be imported "
            f"({type(error).__name__}: {error}). {_suggestion(reference)}"
        ) from error
    if not hasattr(module, function_name):
        raise ValueError(
            f"reward {reference!r}: module {module_name!r} has no function {function_name!r}. "
            f"{_suggestion(reference)}"
        )
    function = getattr(module, function_name)
    if not callable(function):
        raise ValueError(
            f"reward {reference!r}: {function_name!r} is a {type(function).__name__} and cannot "
            f"be called. {_suggestion(reference)}"
        )
    return function


def check_reward_output(name: str, shape_dtype: Any, expected_shape: tuple[int, ...]) -> None:
    """Checks that a reward gives one floating number for each sample.

    Args:
        name: of the reward, for the message.
        shape_dtype: jax.ShapeDtypeStruct of the reward's output, from jax.eval_shape.
        expected_shape: (identities, samples an identity).

    Raises:
        ValueError: if the output is not one array, or its shape or dtype is wrong.
    """
    if not isinstance(shape_dtype, jax.ShapeDtypeStruct | jax.Array):
        raise ValueError(
            f"reward {name!r} must return one array of shape {tuple(expected_shape)}, got a "
            f"{type(shape_dtype).__name__}"
        )
    if tuple(shape_dtype.shape) != tuple(expected_shape):
        raise ValueError(
            f"reward {name!r} must return one number for each sample, shape "
            f"{tuple(expected_shape)} (identities, samples), got {tuple(shape_dtype.shape)}"
        )
    if not jnp.issubdtype(shape_dtype.dtype, jnp.floating):
        raise ValueError(
            f"reward {name!r} must return floating-point numbers, got {shape_dtype.dtype}"
        )


def _suggestion(reference: str) -> str:
    """Names the built-in reward nearest to the reference by function or in whole, else all."""
    wanted = reference.rpartition(":")[2].rpartition(".")[2]
    by_function = {built_in.rpartition(":")[2]: built_in for built_in in BUILT_IN}
    near = difflib.get_close_matches(wanted, by_function, n=1)
    if near:
        return f"Did you mean {by_function[near[0]]!r}?"
    near = difflib.get_close_matches(reference, BUILT_IN, n=1, cutoff=0.8)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Built in: {', '.join(BUILT_IN)}."
