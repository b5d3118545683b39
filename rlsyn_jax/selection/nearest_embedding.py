"""Pick synthetic samples that lie near real embeddings and differ from those already picked.

The greedy selector behind "diversity-oriented sample selection via nearest embedding search". It is
not the DOSNES visualisation (doubly stochastic neighbour embedding on spheres), which only draws
embeddings. Every candidate is scored by

    trade_off * closeness + (1 - trade_off) * distance,

where closeness is the cosine to the nearest real embedding and distance is one minus the cosine to
the nearest embedding already picked. The best candidate is picked, the distances are refreshed, and
so on. Everything is exact: closeness is a matrix product in blocks, which no array of all pairs
outlives, and a pick reads every candidate once. Candidates may be split over the devices of a mesh,
which exchange one candidate each a pick; small identities are picked from side by side.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike

from rlsyn_jax.selection.unit_rows import checked_pair, place_unit_rows, unit_rows
from rlsyn_jax.training.meshes import batch_sharding, make_mesh, place, replicated

_FULL_PRECISION = jax.lax.Precision.HIGHEST
_BATCH = PartitionSpec(("data", "fsdp"))
# Real embeddings compared at a time: with 2,048 candidates the cosines are 4 MiB, which stay in a
# processor's cache until their maximum is taken; and how many of them share one maximum: few, since
# those around the highest are read once more, from all over the block.
_REAL_BLOCK = 512
_PART = 8
_GROUP_ELEMENTS = 2**25  # Numbers of the embeddings of identities that are picked from together.


def select(
    synthetic: ArrayLike,
    real: ArrayLike,
    num_selected: int,
    *,
    trade_off: float = 0.5,
    block_size: int = 2048,
    mesh: Mesh | None = None,
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
        block_size: Candidates compared at a time, with at most 512 real embeddings.
        mesh: Devices over which candidates are split; default the first one. Picks depend on their
            number only where scores differ by a rounding error.

    Returns:
        Indices into `synthetic` in the order picked, int32 [num_selected], without repeats.

    Raises:
        ValueError: On shapes that do not fit, rows that are zero or not finite, or `num_selected`,
            `trade_off` or `block_size` out of range.
    """
    _check_settings(num_selected, trade_off, block_size)
    synthetic, real = checked_pair(synthetic, real)
    num_synthetic = len(synthetic)
    if num_selected > num_synthetic:
        raise ValueError(
            f"num_selected is {num_selected}, but there are {num_synthetic} synthetic embeddings; "
            f"it must be in 1..{num_synthetic}"
        )
    mesh = _mesh(mesh)
    rows, block = _padded_length(num_synthetic, block_size, mesh)
    pick = _pick_over_devices(mesh, int(num_selected), block)
    picked = pick(
        place_unit_rows(synthetic, rows, mesh),
        place(unit_rows(real), replicated(mesh)),
        num_synthetic,
        trade_off,
    )
    return np.asarray(picked)


def nearest_real(
    synthetic: ArrayLike,
    real: ArrayLike,
    *,
    block_size: int = 2048,
    mesh: Mesh | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the real embedding nearest to every synthetic one, by comparing all of them.

    Args:
        synthetic: Embeddings [n, d], any length but zero; normalised inside.
        real: Real embeddings [m, d], any length but zero; normalised inside.
        block_size: As in `select`.
        mesh: Devices over which the synthetic embeddings are split; default the first one.

    Returns:
        (cosine to the nearest real embedding, float32 [n] in [-1, 1]; its index into `real`, int32
        [n], the lowest of equally near ones).

    Raises:
        ValueError: On shapes that do not fit, rows that are zero or not finite, or a `block_size`
            below 1.
    """
    _check_settings(1, 0.0, block_size)
    synthetic, real = checked_pair(synthetic, real)
    mesh = _mesh(mesh)
    rows, block = _padded_length(len(synthetic), block_size, mesh)
    cosine, index = _search_over_devices(mesh, block)(
        place_unit_rows(synthetic, rows, mesh),
        place(unit_rows(real), replicated(mesh)),
    )
    return np.asarray(cosine)[: len(synthetic)], np.asarray(index)[: len(synthetic)]


def select_per_identity(
    synthetic: ArrayLike,
    synthetic_identities: ArrayLike,
    real: ArrayLike,
    real_identities: ArrayLike,
    num_selected: int,
    *,
    trade_off: float = 0.5,
    block_size: int = 2048,
    mesh: Mesh | None = None,
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
        mesh: Devices over which identities are split, and the candidates of those that are too
            large to share a program; default the first one.

    Returns:
        Indices into `synthetic`, int32 [sum over identities of min(num_selected, candidates)]:
        identities in ascending order, and within each the order picked.

    Raises:
        ValueError: As `select`, on identity arrays that do not fit, and on an identity that has
            candidates but no real embedding.
    """
    _check_settings(num_selected, trade_off, block_size)
    synthetic, real = checked_pair(synthetic, real)
    synthetic_identities = _identities("synthetic_identities", synthetic_identities, len(synthetic))
    real_identities = _identities("real_identities", real_identities, len(real))
    missing = np.setdiff1d(synthetic_identities, real_identities)
    if len(missing):
        raise ValueError(
            f"{len(missing)} identities have synthetic but no real embeddings, the first being "
            f"{missing[0]}; every synthetic identity needs at least one real embedding"
        )
    mesh = _mesh(mesh)
    synthetic_rows = _rows_by_identity(synthetic_identities)
    real_rows = _rows_by_identity(real_identities)
    # Sizes are rounded up to powers of two, so that identities share few compiled programs.
    by_sizes: dict[tuple[int, int], list[int]] = {}
    for identity, rows in synthetic_rows.items():
        sizes = _power_of_two(len(rows)), _power_of_two(len(real_rows[identity]))
        by_sizes.setdefault(sizes, []).append(identity)
    picked: dict[int, np.ndarray] = {}
    for sizes, identities in by_sizes.items():
        limit = _GROUP_ELEMENTS // (sum(sizes) * synthetic.shape[1]) // mesh.size
        if limit < 1:
            for identity in identities:
                rows = synthetic_rows[identity]
                picked[identity] = rows[
                    select(
                        synthetic[rows],
                        real[real_rows[identity]],
                        min(num_selected, len(rows)),
                        trade_off=trade_off,
                        block_size=block_size,
                        mesh=mesh,
                    )
                ]
            continue
        number = mesh.size * min(limit, _power_of_two(-(-len(identities) // mesh.size)))
        pick = _pick_side_by_side(mesh, min(int(num_selected), sizes[0]), int(block_size))
        for first in range(0, len(identities), number):
            group = identities[first : first + number]
            candidates = _stacked(synthetic, synthetic_rows, group, number, sizes[0])
            references = _stacked(real, real_rows, group, number, sizes[1])
            counts = np.ones(number, np.int32)
            counts[: len(group)] = [len(synthetic_rows[identity]) for identity in group]
            parts = place((candidates, references, counts), batch_sharding(mesh))
            for identity, order in zip(group, np.asarray(pick(*parts, trade_off))):
                rows = synthetic_rows[identity]
                picked[identity] = rows[order[: min(num_selected, len(rows))]]
    return np.concatenate([picked[identity] for identity in synthetic_rows]).astype(np.int32)


@functools.lru_cache(maxsize=64)
def _pick_over_devices(mesh: Mesh, num_selected: int, block_size: int) -> Callable:
    """Returns the jitted greedy picks of candidates that are split over a mesh."""

    def pick(synthetic, real, num_synthetic, trade_off):
        return _greedy(
            synthetic,
            real,
            num_synthetic,
            trade_off,
            num_selected=num_selected,
            block_size=block_size,
            axes=mesh.axis_names,
        )

    whole = PartitionSpec()
    # Every device comes to the same picks, which the type system cannot see from an all_gather.
    return jax.jit(
        jax.shard_map(
            pick,
            mesh=mesh,
            in_specs=(_BATCH, whole, whole, whole),
            out_specs=whole,
            check_vma=False,
        )
    )


@functools.lru_cache(maxsize=64)
def _pick_side_by_side(mesh: Mesh, num_selected: int, block_size: int) -> Callable:
    """Returns the jitted greedy picks of identities [identities, rows, d] split over a mesh."""

    def pick(synthetic, real, num_synthetic, trade_off):
        greedy = functools.partial(_greedy, num_selected=num_selected, block_size=block_size)
        return jax.vmap(greedy, in_axes=(0, 0, 0, None))(synthetic, real, num_synthetic, trade_off)

    return jax.jit(
        jax.shard_map(
            pick,
            mesh=mesh,
            in_specs=(_BATCH, _BATCH, _BATCH, PartitionSpec()),
            out_specs=_BATCH,
            check_vma=False,
        ),
        out_shardings=replicated(mesh),
    )


@functools.lru_cache(maxsize=64)
def _search_over_devices(mesh: Mesh, block_size: int) -> Callable:
    """Returns the jitted nearest cosine and index of rows that are split over a mesh."""

    def search(synthetic, real):
        return _nearest(synthetic, real, block_size, with_index=True)

    return jax.jit(
        jax.shard_map(
            search,
            mesh=mesh,
            in_specs=(_BATCH, PartitionSpec()),
            out_specs=(_BATCH, _BATCH),
            check_vma=False,
        ),
        out_shardings=replicated(mesh),
    )


def _greedy(
    synthetic: jax.Array,
    real: jax.Array,
    num_synthetic: jax.Array,
    trade_off: jax.Array,
    *,
    num_selected: int,
    block_size: int,
    axes: tuple[str, ...] = (),
) -> jax.Array:
    """Greedy picks among the first `num_synthetic` unit rows; rows past it are padding.

    With `axes` the rows are this device's part, and picks are made over all devices' parts.
    """
    closeness, _ = _nearest(synthetic, real, block_size, with_index=False)  # [n]
    first_row = jax.lax.axis_index(axes) * len(synthetic) if axes else 0
    rows = first_row + jnp.arange(len(synthetic), dtype=jnp.int32)
    is_candidate = rows < num_synthetic  # [n]

    def best(score):
        """Returns row among all devices' rows, and embedding, of the highest score."""
        local = jnp.argmax(score)
        own = score[local], rows[local], synthetic[local]
        if not axes:
            return own[1:]
        # [devices]; the first of equal maxima is on the device with the lower rows.
        scores, winners, embeddings = jax.lax.all_gather(own, axes)
        device = jnp.argmax(scores)
        return winners[device], embeddings[device]

    first, embedding = best(jnp.where(is_candidate, closeness, -jnp.inf))

    def pick(step, state):
        picked, embedding, available, nearest_picked = state
        cosine = jnp.dot(synthetic, embedding, precision=_FULL_PRECISION)  # [n]
        nearest_picked = jnp.maximum(nearest_picked, jnp.clip(cosine, -1.0, 1.0))
        available = available & (rows != picked[step - 1])
        score = trade_off * closeness + (1.0 - trade_off) * (1.0 - nearest_picked)
        winner, embedding = best(jnp.where(available, score, -jnp.inf))
        return picked.at[step].set(winner), embedding, available, nearest_picked

    picked = jnp.zeros(num_selected, jnp.int32).at[0].set(first)
    nothing_near = jnp.full(len(synthetic), -1.0, jnp.float32)
    state = picked, embedding, is_candidate, nothing_near
    return jax.lax.fori_loop(1, num_selected, pick, state)[0]


def _nearest(
    synthetic: jax.Array, real: jax.Array, block_size: int, *, with_index: bool
) -> tuple[jax.Array, jax.Array]:
    """Cosine of every unit row to the nearest real one, and its index.

    Without the index, which takes a second look at some cosines, zeros stand in its place.
    """
    num_rows, width = synthetic.shape
    size = min(block_size, num_rows)
    padded = jnp.pad(synthetic, ((0, -num_rows % size), (0, 0)))
    num_real = len(real)
    blocks = -(-num_real // _REAL_BLOCK)
    real_size = -(-num_real // blocks)
    part = min(_PART, real_size)
    real_size += -real_size % part
    # Whole blocks by copies of the first one, which are no nearer than it is: a mask over the
    # cosines would cost another pass over them.
    copies = jnp.broadcast_to(real[:1], (blocks * real_size - num_real, width))
    references = jnp.concatenate([real, copies])  # [m, d]

    def of_block(rows):
        columns = rows.T  # [d, rows]

        def compare(state, start):
            nearest, index = state
            block = jax.lax.dynamic_slice_in_dim(references, start, real_size)
            # Rows come last: a maximum over another axis is taken of many rows at a time.
            cosine = jnp.dot(block, columns, precision=_FULL_PRECISION)  # [references, rows]
            cosine = cosine.reshape(-1, part, size)
            highest_of_parts = cosine.max(axis=1)  # [parts, rows]
            highest = highest_of_parts.max(axis=0)
            if with_index:
                # The cosines are read once; then only the part with the maximum is.
                best = _first(highest_of_parts == highest)  # [rows]
                inside = cosine[best, :, jnp.arange(size)].T  # [part, rows]
                place = start + best * part + _first(inside == highest)
                index = jnp.where(highest > nearest, place, index)
            return (jnp.maximum(nearest, highest), index), None

        start = jnp.full(size, -2.0, jnp.float32), jnp.zeros(size, jnp.int32)
        starts = jnp.arange(0, len(references), real_size, dtype=jnp.int32)
        (nearest, index), _ = jax.lax.scan(compare, start, starts)
        return jnp.clip(nearest, -1.0, 1.0), jnp.where(index < num_real, index, 0)

    blocks = padded.reshape(-1, size, width)
    nearest, index = jax.lax.map(of_block, blocks)
    return nearest.reshape(-1)[:num_rows], index.reshape(-1)[:num_rows]


def _first(is_found: jax.Array) -> jax.Array:
    """Place of the first true value of every column, int32 [n] of [m, n]."""
    places = jnp.arange(len(is_found), dtype=jnp.int32)[:, None]
    return jnp.where(is_found, places, len(is_found)).min(axis=0)


def _mesh(mesh: Mesh | None) -> Mesh:
    return make_mesh(devices=jax.local_devices()[:1]) if mesh is None else mesh


def _padded_length(num_rows: int, block_size: int, mesh: Mesh) -> tuple[int, int]:
    """Rows with padding, whole blocks on every device, and the block's size."""
    own = -(-num_rows // mesh.size)
    blocks = -(-own // block_size)
    block = -(-own // blocks)
    return mesh.size * blocks * block, block


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not below a number."""
    return 1 << (number - 1).bit_length()


def _stacked(
    embeddings: np.ndarray,
    rows: dict[int, np.ndarray],
    identities: list[int],
    number: int,
    size: int,
) -> np.ndarray:
    """Unit embeddings [number, size, d] of some identities, filled up by copies of their first."""
    stacked = np.zeros((number, size, embeddings.shape[1]), np.float32)
    for row, identity in enumerate(identities):
        own = rows[identity]
        stacked[row, : len(own)] = unit_rows(embeddings[own])
        stacked[row, len(own) :] = stacked[row, 0]
    return stacked


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


def _check_settings(num_selected: int, trade_off: float, block_size: int) -> None:
    """Raise a ValueError for a count below 1 or a trade-off outside [0, 1]."""
    for name, value in (("num_selected", num_selected), ("block_size", block_size)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1")
    if not 0.0 <= trade_off <= 1.0:
        raise ValueError(
            f"trade_off is {trade_off}; it must lie in [0, 1], from only distance to only closeness"
        )
