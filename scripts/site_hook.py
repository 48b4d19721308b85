"""What `mkdocs` does with a page first: the site has mkdocstrings where docs/reference/python.md has the source itself.

On the disk everybody can read the page as it is. mkdocs.yml names this file.
"""

from __future__ import annotations

import re
from typing import Any

_OBJECT = re.compile(r"^<!-- (::: [\w.]+) -->$.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces what stands between the comments of an object by the directive in the first of them."""
    return _OBJECT.sub(r"\1", markdown)
