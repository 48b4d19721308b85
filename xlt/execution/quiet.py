"""Keeps what libraries write without need out of the progress lines; their other warnings stay."""

from __future__ import annotations

import logging

from xlt.models.loading import quiet_libraries

_BITSANDBYTES = "bitsandbytes.backends.cpu.ops"
_OPTIONAL = "Failed to load CPU gemm_4bit_forward from kernels-community"


def quiet_all() -> None:
    """Quietens transformers, and a line of bitsandbytes about an optional package, whose absence changes nothing.

    peft imports bitsandbytes, also for a model that has no 4-bit weights.
    """
    quiet_libraries()
    logging.getLogger(_BITSANDBYTES).addFilter(_is_of_use)


def _is_of_use(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_OPTIONAL)
