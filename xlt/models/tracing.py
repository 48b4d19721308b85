"""What a model's blocks compute on the way: hidden states, and the attention distributions or what they are made of."""

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
    """One pass through a model.

    Attributes:
        hidden: (batch, length, hidden) each: the output of the embedding layer, then of each block asked for.
        attention: of each block asked for: inputs of its distribution where it took the fast path, else the
            distribution itself, (batch, heads, length, length), before dropout.
    """

    hidden: list[Tensor] = field(default_factory=list)
    attention: list[AttentionInputs | Tensor] = field(default_factory=list)


class Tracer:
    """Watches chosen blocks of a model; passes outside of `watch` cost nothing more than a few empty calls.

    What the model computes is not changed: hidden states are taken by hooks, and attention is recognised by the
    functions that it calls, `scaled_dot_product_attention` or, for families with an attention of their own (DeBERTa), a
    softmax over (batch, heads, length, length). No block that is not asked for leaves anything.

    Args:
        model: with its blocks in a list.
        blocks: numbers from 0, ascending.
    Raises:
        ValueError: the model has no blocks in a list, or fewer.
    """

    def __init__(self, model: TransferModel, blocks: Sequence[int]) -> None:
        found = outermost_blocks(model.backbone)
        if blocks and blocks[-1] >= len(found):
            raise ValueError(f"{model.base_name} has {len(found)} blocks, block {blocks[-1]} is asked for")
        self._name, self._backbone = model.base_name, model.backbone
        self._blocks = len(blocks)
        self._trace: Trace | None = None
        self._attention: AttentionInputs | Tensor | None = None
        self._inside = False
        found[0].register_forward_pre_hook(self._before_first, with_kwargs=True)
        for number in blocks:
            found[number].register_forward_pre_hook(self._before)
            found[number].register_forward_hook(self._after)

    @contextmanager
    def watch(self) -> Iterator[Trace]:
        """Fills the trace it gives with the one pass through the backbone that is made meanwhile.

        Raises:
            ValueError: on leaving, if the attention of a block was not recognised, or there was not one pass.
        """
        self._trace = trace = Trace()
        try:
            with _AttentionCalls(self._saw):
                yield trace
        finally:
            self._trace = None
        if len(trace.attention) != self._blocks or len(trace.hidden) != self._blocks + 1:
            raise ValueError(
                f"{self._name}: attention seen in {len(trace.attention)} of {self._blocks} blocks in one pass; "
                "its attention implementation hides it (use sdpa or eager)"
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

    def _saw(self, attention: AttentionInputs | Tensor) -> None:
        if self._inside:
            self._attention = attention


class _AttentionCalls(TorchFunctionMode):
    """Hands over the inputs of each fast attention, and each distribution that a softmax makes of four dimensions.

    Args:
        saw: is told.
    """

    def __init__(self, saw: Callable[[AttentionInputs | Tensor], None]) -> None:
        super().__init__()
        self._saw = saw

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            self._saw(attention_arguments(*args, **kwargs)[0])
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in (functional.softmax, torch.softmax, Tensor.softmax) and result.dim() == 4:
            self._saw(result)
        return result
