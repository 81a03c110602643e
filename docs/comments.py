"""An extension of griffe: a field's trailing comment is its documentation, and `>>>` examples are code.

In rph a field says what it is on its own line, `ids: Sequence[str]  # N, unique`, where a reader of the code looks.
"""

from __future__ import annotations

import io
import re
import textwrap
import tokenize
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n(?![ \t]*$).*)*", re.MULTILINE)  # to the next empty line


class Comments(griffe.Extension):
    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        comments = [] if attr.docstring or not attr.lineno else _comments(attr.source)
        if comments:
            attr.docstring = griffe.Docstring(" ".join(comments), parent=attr)

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)


def _comments(source: str) -> list[str]:
    """What the comments of one assignment say, without those that speak to a checker."""
    tokens = tokenize.generate_tokens(io.StringIO(textwrap.dedent(source)).readline)
    texts = [token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT]
    return [text for text in texts if not text.startswith(("type:", "noqa"))]
