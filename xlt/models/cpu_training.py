"""Faster training on a CPU, by dropout and attention of `xlt_kernels` in place of torch's where they are faster."""

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
    """Returns a context in which models of any family use the faster dropout and attention on a CPU.

    Use it around the forward pass. On other devices it does nothing.
    """
    return _CpuTraining() if device.type == "cpu" else nullcontext()


def checkpoint_contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Returns the contexts of forward pass and recomputation, for `context_fn` of torch's activation checkpointing.

    With these the recomputation in the backward pass draws the same dropout masks as the forward pass.
    """
    return nullcontext(), _CpuTraining() if _is_active.get() else nullcontext()


_is_active = ContextVar("_is_active", default=False)


class _CpuTraining(TorchFunctionMode):
    """Replaces calls of torch's attention and dropout by faster functions with the same arguments."""

    def __enter__(self) -> _CpuTraining:
        self._token = _is_active.set(True)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _is_active.reset(self._token)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            if is_leaner(*_value_and_dropout(*args, **kwargs)) and not _learns_its_mask(*args, **kwargs):
                return lean_attention(*attention_arguments(*args, **kwargs))
        elif func is functional.dropout:
            values, probability, active = _dropout_arguments(*args, **kwargs)
            if active and 0 < probability < 1 and values.is_floating_point():
                order = _order_in_memory(values)
                return dropout(values.permute(order), probability).permute(_inverse(order))
        elif func is functional.gelu and not args[0].is_contiguous():
            # torch's fast kernel takes contiguous tensors only; the other takes eight times as long
            order = _order_in_memory(args[0])
            return func(args[0].permute(order), *args[1:], **kwargs).permute(_inverse(order))
        return func(*args, **kwargs)


def _order_in_memory(values: Tensor) -> list[int]:
    """Returns the dimensions, the one with the widest stride first; in their order if `values` is contiguous."""
    dimensions = list(range(values.dim()))
    if values.is_contiguous():
        return dimensions
    return sorted(dimensions, key=values.stride().__getitem__, reverse=True)


def _inverse(order: list[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def _learns_its_mask(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
) -> bool:
    """Returns whether the mask is a learned bias, as in T5; `lean_attention` computes no gradient for it."""
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
    """Converts the arguments of `scaled_dot_product_attention` to those of `lean_attention`.

    Returns:
        query, key, scale and mask; value; and the dropout probability.
    """
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
    """Reads torch's arguments of `dropout`: values, probability, and whether it applies and returns a new tensor."""
    return input, p, training and not inplace
