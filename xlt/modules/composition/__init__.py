"""Operators that compute one module from several; an expression over modules applies them one after the other."""

from xlt.modules.composition.sum import sum_deltas

__all__ = ["sum_deltas"]
