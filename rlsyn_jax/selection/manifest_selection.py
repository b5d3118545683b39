"""The nearest-embedding selector on a manifest: the rows it keeps, and figures of them."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlsyn_jax.data.synthetic_writer import IDENTITIES
from rlsyn_jax.evaluation.nearest_real import nearest_real_distances
from rlsyn_jax.selection.nearest_embedding import select, select_per_identity
from rlsyn_jax.training.atomic_files import write_bytes

SIMILARITY, RANK = "nearest_real_similarity", "pick_rank"


@dataclasses.dataclass(frozen=True)
class ManifestSelection:
    """Rows that were kept, and figures of them.

    Attributes:
        table: the kept rows in the manifest's order, with its columns and metadata, and float32
            `nearest_real_similarity`, the cosine to the nearest real embedding of the identity, and
            int32 `pick_rank`, which pick the row was, from 1: of its identity, or of all rows.
        num_rows: rows of the manifest.
        kept_of_identity: {identity: rows kept}, of every identity of the manifest.
        closeness_of_all: mean of that cosine over the manifest's rows.
        closeness: mean of it over the kept rows.
        distance: mean over the kept rows of one minus the cosine to the nearest other one, of its
            identity or of all; None where no row has another one.
    """

    table: pa.Table
    num_rows: int
    kept_of_identity: dict[str, int]
    closeness_of_all: float
    closeness: float
    distance: float | None


def read_manifest_rows(path: str | Path) -> pa.Table:
    """Reads a manifest with the columns identity and file, of a synthetic data set or another.

    Raises:
        ValueError: no Parquet file, a column is missing, or there is no row.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; expected a manifest in Parquet")
    try:
        table = pq.read_table(path)
        table.validate(full=True)  # Texts that are no UTF-8 are found here.
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is no intact Parquet file: {error}") from error
    missing = [name for name in ("identity", "file") if name not in table.column_names]
    if missing:
        raise ValueError(
            f"{path} lacks the columns {missing}; it has {table.column_names}, expected identity "
            "and file"
        )
    for name in ("identity", "file"):
        if table[name].null_count:
            raise ValueError(f"{path} has {table[name].null_count} rows without {name}")
    if not table.num_rows:
        raise ValueError(f"{path} lists no image, so there is nothing to select from")
    return table


def identity_names(table: pa.Table) -> tuple[str, ...] | None:
    """Returns the manifest's identities in the order of their numbers, or None where it has none.

    Raises:
        ValueError: the metadata is damaged.
    """
    content = (table.schema.metadata or {}).get(IDENTITIES)
    if content is None:
        return None
    try:
        return tuple(map(str, json.loads(content)))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"the manifest's identity_names are damaged: {error}") from error


def select_rows(
    table: pa.Table,
    synthetic: np.ndarray,
    real: np.ndarray,
    real_identities: list[str],
    num_selected: int,
    *,
    trade_off: float = 0.5,
    per_identity: bool = True,
) -> ManifestSelection:
    """Keeps rows whose images lie near real ones and differ from each other.

    Args:
        table: of `read_manifest_rows`, n rows.
        synthetic: float [n, d], embeddings of the rows' images, in their order.
        real: float [m, d], of the same network.
        real_identities: m names as in the column identity; others may be among them.
        num_selected: rows kept of each identity, which gives all where it has fewer; or of all.
        trade_off: weight of closeness in [0, 1]; 0 keeps what is farthest from the kept.
        per_identity: pick within each identity, near its own real images; else among all rows, near
            any real image.

    Returns:
        The kept rows, and figures.

    Raises:
        ValueError: numbers of rows that do not fit, an identity without a real embedding, and what
            `select` refuses.
    """
    names = [str(name) for name in table["identity"].to_pylist()]
    synthetic, real = np.asarray(synthetic), np.asarray(real)
    for what, rows, embeddings in (
        ("rows of the manifest", names, synthetic),
        ("real identities", real_identities, real),
    ):
        if embeddings.ndim != 2 or len(rows) != len(embeddings):
            raise ValueError(
                f"there are {len(rows)} {what} and embeddings of the shape {embeddings.shape}; "
                "expected [rows, width], one each in the same order"
            )
    label_of = {name: label for label, name in enumerate(dict.fromkeys(names))}
    with_real = set(real_identities)
    missing = [name for name in label_of if name not in with_real]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(label_of)} identities of the manifest have no real embedding, "
            f"the first being {missing[0]!r}; every one needs at least one"
        )
    labels = np.array([label_of[name] for name in names], np.int32)
    if per_identity:
        known = np.flatnonzero([name in label_of for name in real_identities])
        real = real[known]
        real_labels = np.array([label_of[real_identities[row]] for row in known], np.int32)
        picked = select_per_identity(
            synthetic, labels, real, real_labels, num_selected, trade_off=trade_off
        )
    else:
        real_labels = np.array([label_of.get(name, -1) for name in real_identities], np.int32)
        picked = select(synthetic, real, num_selected, trade_off=trade_off)
    groups = labels if per_identity else np.zeros_like(labels)
    ranks = np.zeros(len(names), np.int32)
    for group in np.unique(groups):
        own = picked[groups[picked] == group]
        ranks[own] = np.arange(1, len(own) + 1)
    similarities = np.empty(len(names), np.float32)
    for label in range(len(label_of)):
        own = labels == label
        distances, _ = nearest_real_distances(synthetic[own], real[real_labels == label])
        similarities[own] = 1 - distances
    kept = np.flatnonzero(ranks)
    counts = np.bincount(labels[kept], minlength=len(label_of))
    return ManifestSelection(
        table=_with_columns(table.take(kept), similarities[kept], ranks[kept]),
        num_rows=len(names),
        kept_of_identity=dict(zip(label_of, counts.tolist())),
        closeness_of_all=float(similarities.mean(dtype=np.float64)),
        closeness=float(similarities[kept].mean(dtype=np.float64)),
        distance=_mean_distance(synthetic[kept], groups[kept]),
    )


def write_manifest(path: str | Path, table: pa.Table) -> None:
    """Writes a manifest atomically.

    Raises:
        StorageError: the disk is full or read-only.
    """
    sink = io.BytesIO()
    pq.write_table(table, sink)
    write_bytes(path, sink.getvalue())


def _with_columns(table: pa.Table, similarities: np.ndarray, ranks: np.ndarray) -> pa.Table:
    """Adds the two columns, in the place of those that an earlier selection left."""
    left = [name for name in (SIMILARITY, RANK) if name in table.column_names]
    table = table.drop_columns(left)
    table = table.append_column(SIMILARITY, pa.array(similarities, pa.float32()))
    return table.append_column(RANK, pa.array(ranks, pa.int32()))


def _mean_distance(embeddings: np.ndarray, groups: np.ndarray) -> float | None:
    """Mean cosine distance to the nearest other embedding of the same group."""
    embeddings = embeddings.astype(np.float64)
    unit = embeddings / np.abs(embeddings).max(axis=1, keepdims=True)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    distances = []
    for group in np.unique(groups):
        own = unit[groups == group]
        if len(own) < 2:
            continue
        for start in range(0, len(own), 1024):
            similarity = own[start : start + 1024] @ own.T  # [block, n]
            rows = np.arange(len(similarity))
            similarity[rows, start + rows] = -np.inf
            distances.append(1 - similarity.max(axis=1))
    return float(np.clip(np.concatenate(distances), 0, 2).mean()) if distances else None
