"""Expression richness: do an identity's samples vary a little more than its references?"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlsyn_jax.rewards.reference_bank import ReferenceBank

CREDITS = ("leave_one_out", "broadcast")


def expression_richness(
    embeddings: jax.Array, bank: ReferenceBank, *, expansion: float, tau: float, credit: str
) -> jax.Array:
    """Rewards a total variance of (1 + expansion) times that of the references.

    Equations (6) to (9) of Jia et al., 2604.07884, with S the trace of the covariance of the unit
    features of one identity, of samples (S_g) and of references (S_r):

        R = -((S_g - (1 + expansion) S_r) / tau)^2.

    The whole difference is over tau, as the braces of the paper's source have it. An identity with
    one reference has no S_r; it gets the mean S_r of all identities that have more, and where none
    has, its samples get 0. R belongs to a set, and `credit` shares it out. "leave_one_out" is
    g (R(G) - R(G without j)); the factor g gives the credit the magnitude of R for every group
    size.

    Args:
        embeddings: float [i, g, d], unit norm; g samples of each of i identities.
        bank: references of the same i identities.
        expansion: wanted excess of the samples' variance, above -1.
        tau: tolerance on the variance, above 0.
        credit: "leave_one_out" (needs g >= 3) or "broadcast" (every sample gets R; g >= 2).

    Returns:
        float32 [i, g]; with "broadcast" at most 0.

    Raises:
        ValueError: if expansion, tau or credit is out of range, or g is too small for the credit.
    """
    group = embeddings.shape[1]
    if not expansion > -1:
        raise ValueError(f"the richness reward's expansion must be above -1, got {expansion}")
    if not tau > 0:
        raise ValueError(f"the richness reward's tau must be above 0, got {tau}")
    if credit not in CREDITS:
        raise ValueError(f"the richness reward's credit must be one of {CREDITS}, got {credit!r}")
    needed = 3 if credit == "leave_one_out" else 2
    if group < needed:
        raise ValueError(
            f"the richness reward with credit {credit} needs at least {needed} samples an "
            f"identity, got {group}"
        )
    known = jnp.isfinite(bank.total_variance)[:, None]  # [i, 1]
    target = (1 + expansion) * jnp.where(known, bank.total_variance[:, None], 0)  # [i, 1]
    embeddings = embeddings.astype(jnp.float32)
    # The trace is the sum of squared deviations over B - 1. For unit features it equals
    # B / (B - 1) (1 - |mean|^2), which loses its digits where the samples are nearly alike.
    deviations = embeddings - embeddings.mean(axis=1, keepdims=True)  # [i, g, d]
    squares = jnp.sum(deviations**2, axis=-1)  # [i, g]
    total = squares.sum(axis=1, keepdims=True)  # [i, 1]
    error = (total / (group - 1) - target) / tau
    if credit == "broadcast":
        return jnp.broadcast_to(jnp.where(known, -(error**2), 0), squares.shape)
    # Without j the mean moves as well: the sum of squares falls by g / (g - 1) |x_j - mean|^2.
    remaining = total - group / (group - 1) * squares  # [i, g]
    error_without = (remaining / (group - 2) - target) / tau
    return jnp.where(known, group * (error_without**2 - error**2), 0)
