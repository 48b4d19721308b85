"""Operators that compute one module from several; an expression over modules applies them one after the other."""

from xlt.modules.composition.arithmetic import average, layers, minus, sum_deltas
from xlt.modules.composition.merging import dare, ties

__all__ = ["average", "dare", "layers", "minus", "sum_deltas", "ties"]
