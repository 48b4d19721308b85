"""Lets two families run under autocast, whose code in transformers fails there."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


def support_autocast(backbone: nn.Module) -> None:
    """Changes a model of a family that fails under autocast, in place; what other models compute does not change.

    X-MOD writes the output of its adapters into a tensor of their input's dtype: the output gets this dtype. DeBERTa
    (the first version) masks scores of attention with the smallest number of another dtype: its attention is computed
    in the dtype of its weights.
    """
    for module in backbone.modules():
        if type(module).__name__ == "XmodAdapter":
            module.register_forward_hook(_in_dtype_of_input)
        if type(module).__name__ == "DisentangledSelfAttention" and hasattr(module, "q_bias"):
            module.__class__ = _without_autocast(type(module))  # type: ignore[arg-type]
            for layer in module.children():
                if isinstance(layer, nn.Linear):
                    layer.register_forward_hook(_copied)


def _in_dtype_of_input(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.to(arguments[0].dtype)


def _copied(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Copies what DeBERTa changes in place, which autograd forbids for the output of our own linear layers."""
    return output.clone()


@cache
def _without_autocast(of: type[nn.Module]) -> type[nn.Module]:
    """Returns a class of modules as `of`, whose forward pass ignores autocast."""

    def forward(self: nn.Module, hidden_states: Tensor, *arguments: Any, **named: Any) -> Any:
        dtype = next(self.parameters()).dtype

        def wide(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

        with torch.autocast(hidden_states.device.type, enabled=False):
            named = {name: wide(value) for name, value in named.items()}
            return of.forward(self, wide(hidden_states), *map(wide, arguments), **named)

    return type(of.__name__, (of,), {"forward": forward})
