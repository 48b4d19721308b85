"""One line of bitsandbytes is left out; its other warnings are shown."""

from __future__ import annotations

import logging

import pytest

from xlt.execution.quiet import quiet_all


def test_only_the_line_about_an_optional_package_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    monkeypatch.setattr(logger, "disabled", False)  # Hydra, which another test may have used, disables loggers
    monkeypatch.setattr(logger, "level", logging.WARNING)
    shown: list[str] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: shown.append(record.getMessage()))
    logger.addHandler(handler)
    try:
        quiet_all()
        quiet_all()
        logger.warning(
            "Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please make sure", "get_kernel"
        )
        logger.warning("Failed to load the library: %s", "no such file")
    finally:
        logger.removeHandler(handler)
    assert shown == ["Failed to load the library: no such file"]
