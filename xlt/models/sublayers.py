"""Finds where the sub-layers of a Transformer's blocks end by observing a forward pass, not by the model family."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xlt.models.transfer import TransferModel, is_layer_norm


@dataclass(frozen=True)
class Block:
    """One Transformer block, described by paths of modules in the model.

    Attributes:
        path: of the block.
        attention, feed_forward: paths of the modules whose outputs are added to the sub-layers' inputs (a linear layer
            or the dropout after it).
        norm: path of the layer normalisation whose output is the block's (post-norm, as in BERT); None if the block
            ends with the sum (pre-norm, as in Llama).
    """

    path: str
    attention: str
    feed_forward: str
    norm: str | None


def find_blocks(model: TransferModel) -> list[Block]:
    """Finds the blocks of a model, lowest first; of an encoder-decoder the encoder's before the decoder's.

    The attention of a decoder's block is the cross-attention. The function runs the backbone on two tokens, in
    evaluation mode.

    Raises:
        ValueError: the model has no list of blocks, or a block does not consist of two sub-layers.
    """
    paths = {module: f"backbone.{path}" for path, module in model.backbone.named_modules()}
    backbone: Any = model.backbone
    halves = [backbone.encoder, backbone.decoder] if model.decodes else [backbone]
    blocks = [block for half in halves for block in outermost_blocks(half)]
    trace = _Trace()
    training = model.training
    handles = [module.register_forward_hook(trace) for block in blocks for module in block.modules()]
    model.eval()
    try:
        with torch.no_grad():
            ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if model.decodes:
                inputs["decoder_input_ids"] = ids
            model.backbone.forward(**inputs)  # `forward`, so that hooks on the backbone do not run
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return [_block(block, trace.called, paths, model.base_name) for block in blocks]


class _Trace:
    """A hook that records modules with their outputs, in the order in which they return.

    It keeps the outputs, so that no memory address is used twice.
    """

    def __init__(self) -> None:
        self.called: list[tuple[nn.Module, Tensor | None]] = []

    def __call__(self, module: nn.Module, _: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple) else output
        self.called.append((module, first if isinstance(first, Tensor) else None))


def outermost_blocks(backbone: nn.Module) -> list[nn.Module]:
    """Returns the longest list of modules that contain a layer normalisation; of equally long ones the first.

    Raises:
        ValueError: there is no such list.
    """
    lists = [list(module) for module in backbone.modules() if isinstance(module, nn.ModuleList) and len(module) > 0]
    block_lists = [modules for modules in lists if any(is_layer_norm(module) for module in modules[0].modules())]
    if not block_lists:
        raise ValueError(f"{type(backbone).__name__} has no list of blocks: such models are not supported here")
    return max(block_lists, key=len)


def _block(
    block: nn.Module, called: Iterable[tuple[nn.Module, Tensor | None]], paths: dict[nn.Module, str], name: str
) -> Block:
    inside = set(block.modules())
    returned = dict(called)[block]
    assert returned is not None
    leaves = [(module, out) for module, out in called if module in inside and next(module.children(), None) is None]
    norms = [number for number, (module, _) in enumerate(leaves) if is_layer_norm(module)]
    ends = [number for number in norms if leaves[number][1] is not None and _same(leaves[number][1], returned)]
    if ends:
        inner = [number for number in norms if number < ends[0]][-1:]
        last = ends[0] - 1
    else:
        inner, last = norms[-1:], len(leaves) - 1
    if not inner or not 0 < inner[0] <= last:
        raise ValueError(
            f"{name}: in block {paths[block]} the ends of attention and feed-forward layer were not found: "
            "such models are not supported here"
        )
    norm = paths[leaves[ends[0]][0]] if ends else None
    return Block(paths[block], paths[leaves[inner[0] - 1][0]], paths[leaves[last][0]], norm)


def _same(a: Tensor | None, b: Tensor) -> bool:
    return a is not None and a.data_ptr() == b.data_ptr() and a.shape == b.shape


def output_embeddings(model: TransferModel) -> str | None:
    """Returns the path of the linear layer that computes logits over the vocabulary; None if there is none."""
    if model.lm_head is None:
        return None
    for path, module in model.lm_head.named_modules():
        if isinstance(module, nn.Linear) and module.weight.shape[0] == model.vocabulary:
            return f"lm_head.{path}".rstrip(".")
    return None
