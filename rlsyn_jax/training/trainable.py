"""Which part of a generator trains: a subtree of its own, beside the frozen rest.

Only the trained subtree gets gradients, optimiser moments and an average; `merge` puts the whole
together again inside the compiled step.
"""

from __future__ import annotations

import flax
import jax
import optax

from rlsyn_jax.models.lora import DEFAULT_TARGETS, init_lora, merge_lora

CHOICES = ("class_embedding", "adaln", "lora", "all")
_CLASS_ROWS = "y_embedder/embedding_table"


def split(
    params: dict,
    trainable: str,
    *,
    lora_rank: int = 4,
    lora_targets: tuple[str, ...] = DEFAULT_TARGETS,
    key: jax.Array | None = None,
) -> tuple[dict, dict]:
    """Splits parameters into what trains and what is frozen.

    Args:
        params: a DiT's parameters, nested dict.
        trainable: "class_embedding" (the class table alone), "adaln" (class table and all adaLN
            projections), "lora" (class table and low-rank pairs) or "all".
        lora_rank: rank of the pairs, for "lora".
        lora_targets: names of the dense modules that get pairs, for "lora".
        key: typed random key, for "lora".

    Returns:
        (trained, frozen): trained = {"params": subtree, "lora": pairs or {}}; frozen a subtree.

    Raises:
        ValueError: unknown choice.
    """
    if trainable not in CHOICES:
        raise ValueError(f"trainable is {trainable!r}; it must be one of {CHOICES}")
    flat = flax.traverse_util.flatten_dict(params, sep="/")

    def trains(name: str) -> bool:
        if trainable == "all" or name == _CLASS_ROWS:
            return True
        return trainable == "adaln" and "adaLN_modulation" in name

    trained = {name: value for name, value in flat.items() if trains(name)}
    frozen = {name: value for name, value in flat.items() if not trains(name)}
    lora = {}
    if trainable == "lora":
        lora = init_lora(key, params, rank=lora_rank, targets=lora_targets)
    unflatten = flax.traverse_util.unflatten_dict
    return {"params": unflatten(trained, sep="/"), "lora": lora}, unflatten(frozen, sep="/")


def merge(trained: dict, frozen: dict) -> dict:
    """Returns the whole parameter tree of `split`'s two parts, low-rank pairs added in."""
    flatten = flax.traverse_util.flatten_dict
    flat = {**flatten(frozen, sep="/"), **flatten(trained["params"], sep="/")}
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    return merge_lora(params, trained["lora"]) if trained["lora"] else params


def scale_class_rows(factor: float) -> optax.GradientTransformation:
    """Scales the updates of the class rows, not of the null row, which is the table's last.

    New people's rows must travel as far as the prior's did in all its training, in far fewer steps,
    while the rest of a trained network needs small ones.

    Args:
        factor: above 0.

    Returns:
        A transformation of updates shaped as the trained part of `split`.
    """

    def update(updates, state, params=None):
        del params
        flat = flax.traverse_util.flatten_dict(updates["params"], sep="/")
        rows = flat[_CLASS_ROWS]
        flat[_CLASS_ROWS] = rows.at[:-1].multiply(factor)
        scaled = flax.traverse_util.unflatten_dict(flat, sep="/")
        return {**updates, "params": scaled}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
