"""How pages write shares in points."""

from __future__ import annotations


def points_text(share: float, form: str = "+.1f") -> str:
    """Returns a share, or a change of one, in points.

    Args:
        share: 1 = 100 points.
        form: of the number, as format() takes it.

    Returns:
        The text; what is negative has a minus sign, as wide as a plus.
    """
    return f"{100 * share:{form}}".replace("-", "−")
