"""Names that changed, so that who uses an old one is told the new one."""

from __future__ import annotations

RENAMED_TABLES: dict[str, str] = {}
"""Old name after `table=` or `figure=` -> what to write now."""
