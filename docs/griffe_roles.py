"""Docstrings as Markdown: the roles in them (``:func:`name```) become links within the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:mod|func|class|meth|data|attr):`([^`]+)`")
_LITERAL = re.compile(r"^(.*?)(\s?)::$", re.MULTILINE)  # what follows is indented: code


class Roles(griffe.Extension):
    """Rewrites the docstring of each object as it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Links what a role names, and marks what is code by its indentation alone."""
        if obj.docstring is None:
            return
        text = _ROLE.sub(_link, obj.docstring.value)
        obj.docstring.value = _LITERAL.sub(lambda found: f"{found[1]}:" if found[1] else "", text)


def _link(found: re.Match[str]) -> str:
    """A link where the site has the object; internal modules it has not."""
    name = found[1]
    if not name.startswith("tersor."):
        return f"`{name}`"
    return f'<autoref identifier="{name}" optional><code>{name}</code></autoref>'
