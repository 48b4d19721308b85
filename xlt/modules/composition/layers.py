"""The blocks of one module in place of those of another: layer swapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xlt.config.schema import key, optional
from xlt.modules.artefact import ModuleArtefact
from xlt.modules.composition.arithmetic import BLOCK, block_of, combine, names_of
from xlt.modules.composition.expression import LINEAR, OperatorConfig


@dataclass
class LayersConfig(OperatorConfig):
    """Schema of the operator `layers`."""

    takes = LINEAR
    count = 2

    operator: str = "layers"
    first: int = key("first block, from 0, that is taken from the first module", low=0)
    last: int = key("last block that is taken from the first module", low=0)
    transition: int = optional("blocks on either side that are mixed", 0, low=0)

    @staticmethod
    def model_fault(settings: Mapping[str, Any], blocks: int) -> str | None:
        first, last = settings["first"], settings["last"]
        if first > last:
            return f"first={first}: larger than last={last}"
        return f"last={last}: the model has blocks 0 to {blocks - 1}" if last >= blocks else None


SCHEMA = LayersConfig


def layers(inner: ModuleArtefact, outer: ModuleArtefact, first: int, last: int, transition: int = 0) -> ModuleArtefact:
    """Takes some blocks from one module and everything else from another: layer swapping (Bandarkar et al., 2025).

    Args:
        inner: gives the blocks from `first` to `last`.
        outer: gives the other blocks, embeddings and the rest.
        first, last: numbers of blocks, from 0; both are included.
        transition: number of blocks on either side of these that are mixed: the nearest has most of `inner`.
    Raises:
        ValueError: see `sum_deltas`; the numbers are not those of blocks, or the modules are of an encoder-decoder.
    """
    if not 0 <= first <= last or transition < 0:
        given = f"first={first}, last={last}, transition={transition}"
        raise ValueError(f"{given}: must be 0 <= first <= last and 0 <= transition")
    whole = [name for module in (inner, outer) for name in getattr(module, "tensors", {}) if block_of(name) is not None]
    if whole:
        raise ValueError(f"tensor {whole[0]!r} of a block was trained in full, which layers do not take apart")
    in_blocks = [name for module in (inner, outer) for name in names_of(module) if block_of(name) is not None]
    numbers = {block_of(name) or 0 for name in in_blocks}
    lists = {BLOCK.split(name)[0] for name in in_blocks}
    if len(lists) > 1:
        raise ValueError(f"the modules have several lists of blocks, {', '.join(sorted(lists))}: layers need one list")
    if last > max(numbers, default=-1):
        raise ValueError(f"last={last}: the modules change blocks up to {max(numbers, default='none')} only")

    def factor(number: int, name: str) -> float:
        block = block_of(name)
        share = 0.0
        if block is not None:
            distance = max(first - block, block - last, 0)
            share = max(0.0, 1 - distance / (transition + 1))
        return share if number == 0 else 1 - share

    settings = {"first": first, "last": last, "transition": transition}
    return combine([inner, outer], factor, "layers", settings)


def compute(modules: Sequence[ModuleArtefact], first: int, last: int, transition: int = 0) -> ModuleArtefact:
    """Takes blocks from one module and everything else from another; see `layers`."""
    inner, outer = modules
    return layers(inner, outer, first, last, transition)
