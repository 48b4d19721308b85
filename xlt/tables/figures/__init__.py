"""Figures: what the runs of a table look like over steps, entries and seeds. A file of this package is a kind."""

from xlt.tables.figures.figure import FigureConfig, Panel, save_figure, save_panels

__all__ = ["FigureConfig", "Panel", "save_figure", "save_panels"]
