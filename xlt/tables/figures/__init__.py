"""Figures, which show results of a table's runs. Each file of this package is a kind of figure."""

from xlt.tables.figures.figure import FigurePanel, save_figure, save_panels

__all__ = ["FigurePanel", "save_figure", "save_panels"]
