"""Renders the report's page from its template; pictures come as data URIs, nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2


def render_page(content: Mapping[str, Any]) -> str:
    """Fills report/page.html.

    Args:
        content: every name the template uses; a missing one is an error, not an empty place.

    Returns:
        A complete HTML document.

    Raises:
        jinja2.UndefinedError: the template uses a name that content lacks.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    environment.filters["signed"] = lambda value: f"{100 * value:+.1f}".replace("-", "−")
    template = (resources.files("rlsyn_jax") / "report" / "page.html").read_text("utf-8")
    return environment.from_string(template).render(content)
