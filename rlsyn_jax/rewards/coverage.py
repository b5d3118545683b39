"""Distributional coverage: do an identity's samples spread over all of its references?"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange

from rlsyn_jax.rewards.reference_bank import ReferenceBank

CREDITS = ("leave_one_out", "broadcast", "per_sample")
_BLOCK = 512  # Vectors compared with all others at a time.


def distributional_coverage(
    embeddings: jax.Array, bank: ReferenceBank, *, sigma: float, alpha: float, credit: str
) -> jax.Array:
    """Rewards samples near the references and apart from one another.

    Equations (4) and (5) of Jia et al., 2604.07884, for the samples G and references B of one
    identity, with k(u, v) = exp(-|u - v|^2 / (2 sigma^2)):

        R(G) = mean_{g in G, r in B} k(g, r) - alpha mean_{g, g' in G} k(g, g').

    The second mean includes g = g', as in equation (5). With alpha = 1/2, R is minus half the
    squared maximum mean discrepancy plus a constant. R belongs to a set, and `credit` shares it
    out. "leave_one_out" asks what sample j adds: g (R(G) - R(G without j)). One sample moves R by
    the order of 1/g, so the factor g gives the credit the magnitude of R for every group size.

    Args:
        embeddings: float [i, g, d], unit norm; g samples of each of i identities.
        bank: references of the same i identities.
        sigma: bandwidth of the kernel, above 0; distances lie in [0, 2].
        alpha: weight of the redundancy term, at least 0.
        credit: "leave_one_out" (needs g >= 2), "broadcast" (every sample gets R(G)), or
            "per_sample" (mean_r k(g_j, r) - alpha mean_g' k(g_j, g'); its mean over j is R(G)).

    Returns:
        float32 [i, g].

    Raises:
        ValueError: if sigma, alpha or credit is out of range, or g is too small for the credit.
    """
    group = embeddings.shape[1]
    if not sigma > 0:
        raise ValueError(f"the coverage reward's sigma must be above 0, got {sigma}")
    if not alpha >= 0:
        raise ValueError(f"the coverage reward's alpha must be at least 0, got {alpha}")
    if credit not in CREDITS:
        raise ValueError(f"the coverage reward's credit must be one of {CREDITS}, got {credit!r}")
    if credit == "leave_one_out" and group < 2:
        raise ValueError(
            f"the coverage reward with credit leave_one_out needs at least 2 samples an identity, "
            f"got {group}"
        )
    embeddings = embeddings.astype(jnp.float32)
    counts = bank.mask.sum(axis=1)[:, None]  # [i, 1]
    closeness = kernel_row_sums(embeddings, bank.features, bank.mask, sigma) / counts  # [i, g]
    everyone = jnp.ones(embeddings.shape[:2], bool)
    row_sums = kernel_row_sums(embeddings, embeddings, everyone, sigma)  # [i, g]
    if credit == "per_sample":
        return closeness - alpha * row_sums / group
    total = row_sums.sum(axis=1, keepdims=True)  # [i, 1]
    mean_closeness = closeness.mean(axis=1, keepdims=True)  # [i, 1]
    if credit == "broadcast":
        return jnp.broadcast_to(mean_closeness - alpha * total / group**2, closeness.shape)
    # Without j: mean closeness (g C - c_j) / (g - 1), and row and column j leave the kernel sum.
    gained = (closeness - mean_closeness) / (group - 1)
    redundancy = total / group**2 - (total - 2 * row_sums + 1) / (group - 1) ** 2
    return group * (gained - alpha * redundancy)


def kernel_row_sums(left: jax.Array, right: jax.Array, mask: jax.Array, sigma: float) -> jax.Array:
    """Returns sum_n mask_n exp(-|u - v_n|^2 / (2 sigma^2)) for every u, equation (4).

    Pairs are formed a block of `right` at a time, so that memory grows with m + n and not with m n.

    Args:
        left: float [i, m, d].
        right: float [i, n, d].
        mask: bool [i, n], what counts.
        sigma: bandwidth, above 0.

    Returns:
        float [i, m].
    """

    def of_block(block, shown):
        return jnp.where(shown[:, None], gaussian_kernel(left, block, sigma), 0).sum(axis=2)

    number = right.shape[1]
    if number <= _BLOCK:
        return of_block(right, mask)
    padding = -number % _BLOCK
    right = jnp.pad(right, ((0, 0), (0, padding), (0, 0)))
    blocks = rearrange(right, "i (k n) d -> k i n d", n=_BLOCK)
    shown = rearrange(jnp.pad(mask, ((0, 0), (0, padding))), "i (k n) -> k i n", n=_BLOCK)

    def add(total, block):
        return total + of_block(*block), None

    return jax.lax.scan(add, jnp.zeros(left.shape[:2]), (blocks, shown))[0]


def gaussian_kernel(left: jax.Array, right: jax.Array, sigma: float) -> jax.Array:
    """Returns exp(-|u - v|^2 / (2 sigma^2)) of all pairs, equation (4).

    Args:
        left: float [i, m, d].
        right: float [i, n, d].
        sigma: bandwidth, above 0.

    Returns:
        [i, m, n] in (0, 1].
    """
    products = jnp.einsum("imd,ind->imn", left, right, precision="highest")
    squares = jnp.sum(left**2, -1)[:, :, None] + jnp.sum(right**2, -1)[:, None]  # [i, m, n]
    return jnp.exp(-jnp.maximum(squares - 2 * products, 0) / (2 * sigma**2))
