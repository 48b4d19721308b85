"""Figures: pictures of what the runs of a table did. A file of this package is a kind of figure."""

from xlt.tables.figures.figure import FigurePanel, save_figure, save_panels

__all__ = ["FigurePanel", "save_figure", "save_panels"]
