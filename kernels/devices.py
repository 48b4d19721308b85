"""Which of an op's two ways runs: its Triton kernel, or its plain-torch definition."""

import functools
import importlib.util

from torch import Tensor


def uses_triton(tensor: Tensor) -> bool:
    """Whether an op on this tensor runs as a Triton kernel: on a GPU, where Triton is installed."""
    return tensor.is_cuda and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
