"""HTML with every text escaped: text becomes markup only through `tag` and `joined`."""

from __future__ import annotations

import html

_VOID = {"meta", "link", "input"}


class Markup(str):
    """Text that is HTML already."""


Child = str | None
Attribute = str | int | float | bool | None


def tag(element: str, *children: Child, **attributes: Attribute) -> Markup:
    """Returns an element. Children that are not `Markup` are escaped; None is left out.

    Args:
        element: its name.
        children: markup or text.
        attributes: `class_` stands for `class`, `stroke_width` for `stroke-width`; True is a bare attribute, None and
            False are left out.
    """
    shown = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        word = key.rstrip("_").replace("_", "-")
        shown += f" {word}" if value is True else f' {word}="{html.escape(str(value))}"'
    if element in _VOID:
        return Markup(f"<{element}{shown}>")
    return Markup(f"<{element}{shown}>{joined(*children)}</{element}>")


def joined(*children: Child) -> Markup:
    """Returns the children one after the other, escaped as in `tag`."""
    return Markup("".join(c if isinstance(c, Markup) else html.escape(c) for c in children if c is not None))
