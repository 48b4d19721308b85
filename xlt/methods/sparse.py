"""Tuning chosen entries in place: what LT-SFT's sparse phase and random SFT have in common.

The model's own weights hold base plus delta; the optimiser sees the deltas alone (float32, one per chosen entry), so
that its moments have the delta's size and a frozen entry cannot move. The gradient of a linear layer or an embedding
is sampled at the chosen entries; the dense gradient of such a weight is never stored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from xlt_kernels.delta_write import gather_entries, write_delta
from xlt_kernels.embedding_rows import sparse_embedding
from xlt_kernels.sparse_linear import SparsePattern, sparse_linear

from xlt.models.transfer import TransferModel
from xlt.modules import Entries


class SparseDeltas:
    """Deltas of a model at fixed entries, written into its weights in place.

    Args:
        model: all its parameters but the head's are frozen; gradients reach the deltas.
        indices: tensor name -> (N_i,) sorted int64 flat indices; empty ones are passed over.
    """

    def __init__(self, model: TransferModel, indices: Mapping[str, Tensor]) -> None:
        weights = dict(model.named_parameters())
        for name, parameter in weights.items():
            parameter.requires_grad_(name.startswith("head."))
        # In the model's order, whatever that of `indices`: a resumed run must sum, clip and step in the same order.
        self.indices = {
            name: indices[name].to(weight.device)
            for name, weight in weights.items()
            if name in indices and indices[name].numel()
        }
        self._weights = {name: weights[name] for name in self.indices}
        self._base = {name: gather_entries(weights[name], chosen) for name, chosen in self.indices.items()}
        self.deltas = {
            name: nn.Parameter(
                torch.zeros(chosen.numel(), dtype=_master_dtype(self._weights[name]), device=chosen.device)
            )
            for name, chosen in self.indices.items()
        }
        self._undo: list[Callable[[], None]] = []
        users = _users(model)
        for name, weight in self._weights.items():
            self._connect(name, weight, users[id(weight)])

    @torch.no_grad()
    def write(self, base: Mapping[str, Tensor] | None = None) -> None:
        """Rewrites the chosen entries: base plus delta in the delta's dtype, rounded once.

        Args:
            base: name -> (N_i,) the entries' base values; None: those the model had at the start.
        """
        values = self._base if base is None else base
        for name, weight in self._weights.items():
            write_delta(weight, self.indices[name], values[name], self.deltas[name])

    def add_l1(self, scale: float) -> None:
        """Adds the gradient of `scale * sum |delta|` (thesis §4.3.1, with scale = lambda / N)."""
        for delta in self.deltas.values():
            if delta.grad is not None:
                delta.grad.add_(torch.sign(delta.detach()), alpha=scale)

    def detach(self) -> None:
        """Gives the model its own forward passes back; the weights keep base plus delta."""
        for undo in self._undo:
            undo()
        self._undo = []

    def entries(self) -> dict[str, Entries]:
        """The deltas as a module stores them, on the CPU."""
        return {
            name: Entries(self.indices[name].cpu(), delta.detach().cpu().clone(), self._weights[name].shape)
            for name, delta in self.deltas.items()
        }

    def _connect(self, name: str, weight: nn.Parameter, users: list[tuple[nn.Module, str]]) -> None:
        delta = self.deltas[name]
        if len(users) == 1 and users[0][1] == "weight":
            module, chosen = users[0][0], self.indices[name]
            if type(module) is nn.Linear:
                pattern = SparsePattern.from_indices(chosen, *weight.shape)
                self._replace_forward(module, functools.partial(_linear_forward, module, delta, pattern))
                return
            if type(module) is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq:
                pattern = SparsePattern.from_indices(chosen, *weight.shape)
                self._replace_forward(module, functools.partial(_embedding_forward, module, delta, pattern))
                return
        self._gather_dense_gradient(name, weight, delta)

    def _replace_forward(self, module: nn.Module, forward: Callable[..., Tensor]) -> None:
        module.__dict__["forward"] = forward
        self._undo.append(lambda: module.__dict__.pop("forward", None))

    def _gather_dense_gradient(self, name: str, weight: nn.Parameter, delta: nn.Parameter) -> None:
        """For biases, normalisation and weights of other layers: take the entries out of the dense gradient."""
        weight.requires_grad_(True)

        def gather(parameter: Tensor) -> None:
            assert parameter.grad is not None
            sampled = gather_entries(parameter.grad, self.indices[name]).to(delta.dtype)
            delta.grad = sampled if delta.grad is None else delta.grad.add_(sampled)
            parameter.grad = None

        handle = weight.register_post_accumulate_grad_hook(gather)
        self._undo.append(handle.remove)
        self._undo.append(lambda: weight.requires_grad_(False))  # type: ignore[arg-type]


def _master_dtype(weight: Tensor) -> torch.dtype:
    """What deltas of `weight` are kept in: float32, or float64 where the weight is."""
    return torch.promote_types(weight.dtype, torch.float32)


def _linear_forward(module: nn.Linear, delta: nn.Parameter, pattern: SparsePattern, x: Tensor) -> Tensor:
    return sparse_linear(x, module.weight, module.bias, delta, pattern)


def _embedding_forward(module: nn.Embedding, delta: nn.Parameter, pattern: SparsePattern, ids: Tensor) -> Tensor:
    return sparse_embedding(ids, module.weight, delta, pattern, module.padding_idx)


def _users(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Parameter -> the modules that hold it and the attribute's name; several where it is tied."""
    found: dict[int, list[tuple[nn.Module, Any]]] = {}
    for module in model.modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            found.setdefault(id(parameter), []).append((module, attribute))
    return found
