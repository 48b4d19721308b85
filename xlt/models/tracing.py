"""Records the hidden states and attention distributions (or their inputs) of a model's blocks during a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from xlt_kernels.attention_maps import AttentionInputs

from xlt.models.cpu_training import attention_arguments
from xlt.models.sublayers import outermost_blocks
from xlt.models.transfer import TransferModel


@dataclass
class Trace:
    """The record of one forward pass.

    Attributes:
        hidden: the output of the embedding layer, then of each recorded block, (batch, length, hidden) each.
        attention: for each recorded block the inputs of its attention distribution if it used fast attention, else the
            distribution itself before dropout, (batch, heads, length, length).
    """

    hidden: list[Tensor] = field(default_factory=list)
    attention: list[AttentionInputs | Tensor] = field(default_factory=list)


class Tracer:
    """A recorder of hidden states and attention of some blocks of a model.

    It does not change what the model computes. Hooks record hidden states. Attention is recognised by the functions
    that it calls: `scaled_dot_product_attention` or, in families with an attention of their own (DeBERTa), a softmax
    over (batch, heads, length, length). Passes outside `watch` cost a few empty calls only.

    Args:
        model: with a list of blocks.
        blocks: numbers of the blocks to record, from 0, ascending.
    Raises:
        ValueError: the model has no list of blocks, or too few.
    """

    def __init__(self, model: TransferModel, blocks: Sequence[int]) -> None:
        all_blocks = outermost_blocks(model.backbone)
        if blocks and blocks[-1] >= len(all_blocks):
            count = len(all_blocks)
            raise ValueError(f"model {model.base_name} has blocks 0 to {count - 1}: block {blocks[-1]} does not exist")
        self._name, self._backbone = model.base_name, model.backbone
        self._blocks = len(blocks)
        self._trace: Trace | None = None
        self._attention: AttentionInputs | Tensor | None = None
        self._inside = False
        all_blocks[0].register_forward_pre_hook(self._before_first, with_kwargs=True)
        for number in blocks:
            all_blocks[number].register_forward_pre_hook(self._before)
            all_blocks[number].register_forward_hook(self._after)

    @contextmanager
    def watch(self) -> Iterator[Trace]:
        """Yields a trace, which the one pass through the backbone within the context fills.

        Raises:
            ValueError: at the end of the context, if the attention of a block was not recognised, or if there was not
                exactly one pass.
        """
        self._trace = trace = Trace()
        try:
            with _AttentionCalls(self._report):
                yield trace
        finally:
            self._trace = None
        if len(trace.attention) != self._blocks or len(trace.hidden) != self._blocks + 1:
            raise ValueError(
                f"model {self._name}: attention was recognised in {len(trace.attention)} of {self._blocks} blocks in "
                "one pass: load the model with the attention implementation sdpa or eager"
            )

    def _before_first(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._trace is not None:
            self._trace.hidden.append(args[0] if args else kwargs["hidden_states"])

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._inside, self._attention = self._trace is not None, None

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._trace is None:
            return
        self._inside = False
        self._trace.hidden.append(output if isinstance(output, Tensor) else output[0])
        if self._attention is not None:
            self._trace.attention.append(self._attention)
            self._attention = None

    def _report(self, attention: AttentionInputs | Tensor) -> None:
        if self._inside:
            self._attention = attention


class _AttentionCalls(TorchFunctionMode):
    """A mode that reports each attention: the inputs of fast attention, or the result of a softmax of four dimensions.

    Args:
        report: is called with them.
    """

    def __init__(self, report: Callable[[AttentionInputs | Tensor], None]) -> None:
        super().__init__()
        self._report = report

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            self._report(attention_arguments(*args, **kwargs)[0])
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in (functional.softmax, torch.softmax, Tensor.softmax) and result.dim() == 4:
            self._report(result)
        return result
