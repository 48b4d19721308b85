"""A page about a table or a sweep: one HTML file that works without a network or an account."""

from xlt.tables.page.page import save_page
from xlt.tables.page.scores import JobScores

__all__ = ["JobScores", "save_page"]
