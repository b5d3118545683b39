"""Renders pages from their templates; pictures come as data URIs, nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2

from rlsyn_jax.report.points_text import points_text


def render_page(content: Mapping[str, Any], template: str = "page.html") -> str:
    """Fills a template of report/.

    Args:
        content: every name the template uses; a missing one is an error, not an empty place.
        template: name of the file; page.html is a run's report.

    Returns:
        A complete HTML document.

    Raises:
        jinja2.UndefinedError: the template uses a name that content lacks.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rlsyn_jax", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    environment.filters["signed"] = points_text
    return environment.get_template(template).render(content)
