"""Pick synthetic samples that lie near real embeddings and differ from those already picked.

The greedy selector behind "diversity-oriented sample selection via nearest embedding search". It is
not the DOSNES visualisation (doubly stochastic neighbour embedding on spheres), which only draws
embeddings. Every candidate is scored by

    trade_off * closeness + (1 - trade_off) * distance,

where closeness is the cosine to the nearest real embedding and distance is one minus the cosine to
the nearest embedding already picked. The best candidate is picked, the distances are refreshed, and
so on.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

_FULL_PRECISION = jax.lax.Precision.HIGHEST


def select(
    synthetic: ArrayLike,
    real: ArrayLike,
    num_selected: int,
    *,
    trade_off: float = 0.5,
    block_size: int = 8192,
) -> np.ndarray:
    """Pick synthetic embeddings greedily, near the real ones and unlike one another.

    The first pick is the candidate closest to a real embedding, whatever the trade-off. With
    `trade_off` 0 the rest is farthest-point (k-center) greedy from that pick; with `trade_off` 1
    the picks are the candidates ranked by closeness. A tie goes to the lower index. A longer
    selection starts with the shorter one.

    Args:
        synthetic: Candidate embeddings [n, d], any length but zero; normalised inside.
        real: Real embeddings [m, d], any length but zero; normalised inside.
        num_selected: How many to pick, 1..n.
        trade_off: Weight of closeness in [0, 1]; the rest weighs distance to the picks.
        block_size: Rows compared at a time. At most `block_size` squared cosines are held at once.

    Returns:
        Indices into `synthetic` in the order picked, int32 [num_selected], without repeats.

    Raises:
        ValueError: On shapes that do not fit, rows that are zero or not finite, or `num_selected`,
            `trade_off` or `block_size` out of range.
    """
    _check_settings(num_selected, trade_off, block_size)
    synthetic, real = _unit_rows_pair(synthetic, real)
    if num_selected > len(synthetic):
        raise ValueError(
            f"num_selected is {num_selected}, but there are {len(synthetic)} synthetic embeddings; "
            f"it must be in 1..{len(synthetic)}"
        )
    picked = _greedy(
        synthetic,
        real,
        len(synthetic),
        len(real),
        trade_off,
        num_selected=int(num_selected),
        block_size=int(block_size),
    )
    return np.asarray(picked)


def select_per_identity(
    synthetic: ArrayLike,
    synthetic_identities: ArrayLike,
    real: ArrayLike,
    real_identities: ArrayLike,
    num_selected: int,
    *,
    trade_off: float = 0.5,
    block_size: int = 8192,
) -> np.ndarray:
    """Run `select` within every identity, against the real embeddings of that identity only.

    Args:
        synthetic: Candidate embeddings [n, d].
        synthetic_identities: Identity of every candidate, integers [n].
        real: Real embeddings [m, d].
        real_identities: Identity of every real embedding, integers [m]. Identities without a
            candidate are passed over.
        num_selected: How many to pick per identity, at least 1. An identity with fewer candidates
            gives all of them.
        trade_off: As in `select`.
        block_size: As in `select`.

    Returns:
        Indices into `synthetic`, int32 [sum over identities of min(num_selected, candidates)]:
        identities in ascending order, and within each the order picked.

    Raises:
        ValueError: As `select`, on identity arrays that do not fit, and on an identity that has
            candidates but no real embedding.
    """
    _check_settings(num_selected, trade_off, block_size)
    synthetic, real = _unit_rows_pair(synthetic, real)
    synthetic_identities = _identities("synthetic_identities", synthetic_identities, len(synthetic))
    real_identities = _identities("real_identities", real_identities, len(real))
    missing = np.setdiff1d(synthetic_identities, real_identities)
    if len(missing):
        raise ValueError(
            f"{len(missing)} identities have synthetic but no real embeddings, the first being "
            f"{missing[0]}; every synthetic identity needs at least one real embedding"
        )
    synthetic_rows = _rows_by_identity(synthetic_identities)
    real_rows = _rows_by_identity(real_identities)
    picked = []
    for identity, rows in synthetic_rows.items():
        candidates = _pad_to_power_of_two(synthetic[rows])
        references = _pad_to_power_of_two(real[real_rows[identity]])
        order = _greedy(
            candidates,
            references,
            len(rows),
            len(real_rows[identity]),
            trade_off,
            num_selected=min(int(num_selected), len(candidates)),
            block_size=int(block_size),
        )
        picked.append(rows[np.asarray(order)[: min(num_selected, len(rows))]])
    return np.concatenate(picked).astype(np.int32)


@functools.partial(jax.jit, static_argnames=("num_selected", "block_size"))
def _greedy(
    synthetic: jax.Array,
    real: jax.Array,
    num_synthetic: jax.Array,
    num_real: jax.Array,
    trade_off: jax.Array,
    *,
    num_selected: int,
    block_size: int,
) -> jax.Array:
    """Greedy picks among the first `num_synthetic` unit rows; rows past the counts are padding."""
    closeness = _nearest_cosine(synthetic, real, num_real, block_size)  # [n]
    is_candidate = jnp.arange(len(synthetic)) < num_synthetic  # [n]
    first = jnp.argmax(jnp.where(is_candidate, closeness, -jnp.inf)).astype(jnp.int32)

    def pick(step, state):
        picked, available, nearest_picked = state
        latest = picked[step - 1]
        cosine = jnp.dot(synthetic, synthetic[latest], precision=_FULL_PRECISION)  # [n]
        nearest_picked = jnp.maximum(nearest_picked, jnp.clip(cosine, -1.0, 1.0))
        available = available.at[latest].set(False)
        score = trade_off * closeness + (1.0 - trade_off) * (1.0 - nearest_picked)
        best = jnp.argmax(jnp.where(available, score, -jnp.inf)).astype(jnp.int32)
        return picked.at[step].set(best), available, nearest_picked

    picked = jnp.zeros(num_selected, jnp.int32).at[0].set(first)
    nothing_near = jnp.full(len(synthetic), -1.0, jnp.float32)
    picked, _, _ = jax.lax.fori_loop(1, num_selected, pick, (picked, is_candidate, nothing_near))
    return picked


def _nearest_cosine(
    synthetic: jax.Array, real: jax.Array, num_real: jax.Array, block_size: int
) -> jax.Array:
    """Cosine of every synthetic unit row to the nearest of the first `num_real` real ones, [n]."""
    synthetic_blocks = _blocks(synthetic, block_size)  # [blocks, rows, d]
    real_blocks = _blocks(real, block_size)  # [blocks, rows, d]
    is_real = jnp.arange(real_blocks.shape[0] * real_blocks.shape[1]) < num_real
    is_real = is_real.reshape(real_blocks.shape[:2])  # [blocks, rows]

    def of_block(rows):
        def compare(nearest, block):
            references, is_reference = block
            cosine = jnp.dot(rows, references.T, precision=_FULL_PRECISION)  # [rows, references]
            cosine = jnp.where(is_reference, jnp.clip(cosine, -1.0, 1.0), -1.0)
            return jnp.maximum(nearest, cosine.max(axis=1)), None

        nearest = jnp.full(len(rows), -1.0, jnp.float32)
        return jax.lax.scan(compare, nearest, (real_blocks, is_real))[0]

    return jax.lax.map(of_block, synthetic_blocks).reshape(-1)[: len(synthetic)]


def _blocks(rows: jax.Array, block_size: int) -> jax.Array:
    """Rows [n, d] as [blocks, rows, d], padded with zeros to whole blocks."""
    size = min(block_size, len(rows))
    padded = jnp.pad(rows, ((0, -len(rows) % size), (0, 0)))
    return padded.reshape(-1, size, rows.shape[1])


def _pad_to_power_of_two(rows: np.ndarray) -> np.ndarray:
    """Rows padded with zeros to a power of two, so that identities share few compiled shapes."""
    size = 1 << (len(rows) - 1).bit_length()
    return np.pad(rows, ((0, size - len(rows)), (0, 0)))


def _rows_by_identity(identities: np.ndarray) -> dict[int, np.ndarray]:
    """Row indices of every identity, each ascending, identities ascending."""
    order = np.argsort(identities, kind="stable")
    values, starts = np.unique(identities[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:])))


def _identities(name: str, identities: ArrayLike, num_rows: int) -> np.ndarray:
    """Identities as an integer array [num_rows], or a ValueError."""
    identities = np.asarray(identities)
    if identities.shape != (num_rows,) or not np.issubdtype(identities.dtype, np.integer):
        raise ValueError(
            f"{name} has shape {identities.shape} and dtype {identities.dtype}; it must hold "
            f"{num_rows} integers, one per embedding"
        )
    return identities


def _unit_rows_pair(synthetic: ArrayLike, real: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both sets of embeddings as unit rows in float32, or a ValueError."""
    synthetic = _unit_rows("synthetic", synthetic)
    real = _unit_rows("real", real)
    if synthetic.shape[1] != real.shape[1]:
        raise ValueError(
            f"synthetic embeddings have width {synthetic.shape[1]}, real ones {real.shape[1]}; "
            "both must come from the same feature extractor"
        )
    return synthetic, real


def _unit_rows(name: str, embeddings: ArrayLike) -> np.ndarray:
    """Embeddings [n, d] divided by their lengths in float32, or a ValueError."""
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(
            f"{name} has shape {embeddings.shape}; it must be [rows, width] with at least one row "
            "and a width of at least 1"
        )
    if embeddings.dtype != np.float64:
        embeddings = embeddings.astype(np.float32)
    largest = np.abs(embeddings).max(axis=1, keepdims=True)  # [n, 1]
    unusable = np.flatnonzero(~np.isfinite(largest[:, 0]) | (largest[:, 0] == 0))
    if len(unusable):
        raise ValueError(
            f"{name} has {len(unusable)} rows that are zero or not finite, the first being row "
            f"{unusable[0]}; every embedding must be finite and have a direction"
        )
    scaled = (embeddings / largest).astype(np.float32)  # no square can overflow or vanish
    return scaled / np.linalg.norm(scaled, axis=1, keepdims=True)


def _check_settings(num_selected: int, trade_off: float, block_size: int) -> None:
    """Raise a ValueError for a count below 1 or a trade-off outside [0, 1]."""
    for name, value in (("num_selected", num_selected), ("block_size", block_size)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1")
    if not 0.0 <= trade_off <= 1.0:
        raise ValueError(
            f"trade_off is {trade_off}; it must lie in [0, 1], from only distance to only closeness"
        )
