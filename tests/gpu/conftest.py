"""Tests of what only a GPU can show. `XLT_GPU_DEVICE=cpu` runs them on the CPU instead, which tests the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in Path(item.path).parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device() -> torch.device:
    named = torch.device(os.environ.get("XLT_GPU_DEVICE", "cuda"))
    if named.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device; XLT_GPU_DEVICE=cpu runs these tests on the CPU")
    return named
