"""Decides whether an op runs as its Triton kernel or as its plain-torch definition."""

import functools
import importlib.util

from torch import Tensor


def uses_triton(tensor: Tensor) -> bool:
    """Returns whether an op on this tensor runs as a Triton kernel: it does on a GPU if Triton is installed."""
    return tensor.is_cuda and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
