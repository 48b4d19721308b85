"""A model whose blocks lie on several devices, for one that does not fit on a single one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from xlt.models.sublayers import outermost_blocks
from xlt.models.transfer import TransferModel


def spread_blocks(model: TransferModel, devices: Sequence[torch.device]) -> None:
    """Moves a model's blocks to devices, the lowest to the first, and as many to each as to the others or one fewer.

    Embeddings, the last normalisation and the heads are on the first device, where inputs and outputs are, too: tied
    embeddings can be in one place only. A block takes its inputs to its own device, and the last one takes its output
    back. The devices compute one after the other, so that several have the memory of several and the speed of one.

    Args:
        model: one half of an encoder-decoder, or any other model; nobody may move it afterwards.
        devices: at least one; the first can be that of the model.
    Raises:
        UsageError: the model has no list of blocks.
    """
    model.to(devices[0])
    blocks = outermost_blocks(model.backbone)
    for number, block in enumerate(blocks):
        block.to(devices[number * len(devices) // len(blocks)])
        block.register_forward_pre_hook(_take_inputs, with_kwargs=True)
    blocks[-1].register_forward_hook(lambda _module, _inputs, output: _moved(output, devices[0]))


def _take_inputs(block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
    device = next(block.parameters()).device
    return _moved(inputs, device), _moved(named, device)


def _moved(values: Any, device: torch.device) -> Any:
    return tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, values)
