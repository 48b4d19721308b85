"""Training on a CPU: our dropout, and our attention with dropout, in place of torch's where they are faster."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from xlt_kernels.attention_maps import AttentionInputs
from xlt_kernels.dropout import dropout
from xlt_kernels.lean_attention import is_leaner, lean_attention


def fast_training(device: torch.device) -> AbstractContextManager[Any]:
    """While it is entered, models on a CPU train with our dropout and attention, whatever family they are of.

    It is for the forward pass; on other devices it does nothing.
    """
    return _CpuTraining() if device.type == "cpu" else nullcontext()


def as_before() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """For torch's checkpointing, `context_fn`: what is computed again, in the backward pass, draws the same entries."""
    return nullcontext(), _CpuTraining() if _entered.get() else nullcontext()


_entered = ContextVar("_entered", default=False)


class _CpuTraining(TorchFunctionMode):
    def __enter__(self) -> _CpuTraining:
        self._before = _entered.set(True)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _entered.reset(self._before)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            if is_leaner(*_value_and_dropout(*args, **kwargs)) and not _learns_its_mask(*args, **kwargs):
                return lean_attention(*attention_arguments(*args, **kwargs))
        elif func is functional.dropout:
            values, probability, active = _dropout_arguments(*args, **kwargs)
            if active and 0 < probability < 1 and values.is_floating_point():
                return dropout(values, probability)
        return func(*args, **kwargs)


def _learns_its_mask(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
) -> bool:
    """T5's mask is a learned bias, for which `lean_attention` has no gradient."""
    return attn_mask is not None and attn_mask.requires_grad


def attention_arguments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[AttentionInputs, Tensor, float]:
    """The arguments of `scaled_dot_product_attention` as it names them; value and dropout beside."""
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()[None, None]
    if query.shape[1] != key.shape[1]:
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    inputs = AttentionInputs(query, key, query.shape[-1] ** -0.5 if scale is None else scale, attn_mask)
    return inputs, value, dropout_p


def _value_and_dropout(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *_: Any,
    **__: Any,
) -> tuple[Tensor, float]:
    return value, dropout_p


def _dropout_arguments(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> tuple[Tensor, float, bool]:
    """The arguments of `dropout` as it names them: values, probability, and whether a new tensor is wanted of them."""
    return input, p, training and not inplace
