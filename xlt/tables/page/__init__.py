"""A page about a table or a sweep: one HTML file that needs nothing else, for who has no account anywhere."""

from xlt.tables.page.page import save_page

__all__ = ["save_page"]
