"""Tests of what only a GPU can show. `XLT_GPU_DEVICE=cpu` runs them on the CPU instead, which tests the tests.

`XLT_GPU_DEVICE=second_device` runs them on the CPU as on a device of its own (see `tests/second_device.py`); the
ordinary suite does so with the trainings.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.second_device import NAME, second_device


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in Path(item.path).parents:
            item.add_marker(pytest.mark.gpu)


def pytest_configure() -> None:
    if os.environ.get("XLT_GPU_DEVICE") == NAME:
        second_device()  # before the first backward of this process


@pytest.fixture(scope="session")
def device() -> torch.device:
    name = os.environ.get("XLT_GPU_DEVICE", "cuda")
    if name == NAME:
        return second_device()
    named = torch.device(name)
    if named.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device; XLT_GPU_DEVICE=cpu runs these tests on the CPU")
    return named
