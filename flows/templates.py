"""Templates of pages: a name that is missing is an error, and HTML is escaped, Markdown not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def template(path: Path, *filters: Callable[..., Any]) -> Any:
    """The Jinja template in this file, with functions as filters under their own names."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=path.suffix == ".html",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update({function.__name__: function for function in filters})
    return environment.get_template(path.name)
