"""Figures: what the runs of a table look like over steps, entries and seeds. A file of this package is a kind."""

from xlt.results.figures.figure import FigureConfig, save_figure

__all__ = ["FigureConfig", "save_figure"]
