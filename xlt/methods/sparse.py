"""Tuning chosen entries in place: what LT-SFT's sparse phase, random SFT and SpIEL have in common.

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
from xlt_kernels.delta_write import gather_entries, restore_entries, write_delta
from xlt_kernels.embedding_rows import sparse_embedding
from xlt_kernels.nf4 import nf4_sparse_linear
from xlt_kernels.nf4_weight import Nf4Weight
from xlt_kernels.sparse_linear import Receiver, sparse_linear
from xlt_kernels.sparse_pattern import SparsePattern

from xlt.models.transfer import TransferModel
from xlt.modules import Entries


class SparseDeltas:
    """Deltas of a model at chosen entries, written into its weights in place.

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
        users = _users(model)
        # Weights in 4 bits hold no deltas: those are added whenever such a weight is dequantised.
        self._four_bit = {
            name: Nf4Weight.of(weights[name], weights[name].quant_state)  # type: ignore[attr-defined]
            for name in self.indices
            if hasattr(weights[name], "quant_state")
        }
        self._weights = {name: weights[name] for name in self.indices if name not in self._four_bit}
        self._shapes = {
            name: self._four_bit[name].shape if name in self._four_bit else weights[name].shape for name in self.indices
        }
        self._base = {name: gather_entries(weight, self.indices[name]) for name, weight in self._weights.items()}
        self.deltas = {
            name: nn.Parameter(torch.zeros(chosen.numel(), dtype=_master_dtype(weights[name]), device=chosen.device))
            for name, chosen in self.indices.items()
        }
        self.patterns: dict[str, SparsePattern] = {}
        self._watches: dict[str, _Watch] = {}
        self._receivers: dict[str, Receiver] = {}
        self._undo: list[Callable[[], None]] = []
        for name in self.indices:
            self._connect(name, weights[name], users[id(weights[name])])

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

    @torch.no_grad()
    def exchange(self, name: str, kept: Tensor, grown: Tensor) -> Tensor:
        """Gives up some entries of a tensor, whose weights are the base again, and takes others, with deltas of zero.

        Args:
            name: of a linear layer's weight.
            kept: (N,) bool, which of the present entries stay.
            grown: flat indices of new entries, as many as are given up; none is a present one.
        Returns:
            (N,) int64: where each entry of the new order stood in (kept entries, grown entries).
        """
        indices = self.indices[name]
        merged, order = torch.cat([indices[kept], grown.to(indices)]).sort()
        self.indices[name] = merged
        if name in self._weights:
            weight, base = self._weights[name], self._base[name]
            restore_entries(weight, indices[~kept], base[~kept])
            self._base[name] = torch.cat([base[kept], gather_entries(weight, grown)])[order]
        delta = self.deltas[name]
        delta.copy_(torch.cat([delta[kept], delta.new_zeros(len(grown))])[order])
        self.patterns[name] = SparsePattern.from_indices(merged, *self._shapes[name])
        return order

    @torch.no_grad()
    def move_to(self, indices: Mapping[str, Tensor]) -> None:
        """Has the deltas at other entries, as many of each tensor; the weights are the base until the next `write`."""
        for name, chosen in indices.items():
            before, self.indices[name] = self.indices[name], chosen.to(self.deltas[name].device)
            if name in self._weights:
                restore_entries(self._weights[name], before, self._base[name])
                self._base[name] = gather_entries(self._weights[name], self.indices[name])
            if name in self.patterns:
                self.patterns[name] = SparsePattern.from_indices(self.indices[name], *self._shapes[name])

    def watch(self, name: str, indices: Tensor) -> None:
        """From now on samples the gradient of a linear layer's weight at other entries too.

        Args:
            name: of the weight.
            indices: (M,) ascending flat indices, none of them active.
        """
        self._receivers.pop(name, None)
        self._watches[name] = _Watch(self.indices[name], indices, self.deltas[name], self._shapes[name])

    def receive(self, name: str, receiver: Receiver) -> None:
        """From now on hands over the whole gradient of a linear layer's weight in each backward pass."""
        self._watches.pop(name, None)
        self._receivers[name] = receiver

    def look_away(self) -> None:
        """Ends every `watch` and `receive`."""
        self._watches.clear()
        self._receivers.clear()

    def after_backward(self) -> None:
        """Brings watched gradients to the deltas and to `watched`; once a micro-batch."""
        for name, watch in self._watches.items():
            watch.share_out(self.deltas[name])

    def watched(self) -> dict[str, Tensor]:
        """Name -> (M,) gradients at watched entries, summed since they were set to zero."""
        return {name: watch.gradient for name, watch in self._watches.items()}

    def detach(self) -> None:
        """Gives the model its own forward passes back; the weights keep base plus delta."""
        for undo in self._undo:
            undo()
        self._undo = []

    def entries(self) -> dict[str, Entries]:
        """The deltas as a module stores them, on the CPU."""
        return {
            name: Entries(self.indices[name].cpu(), delta.detach().cpu().clone(), self._shapes[name])
            for name, delta in self.deltas.items()
        }

    def _connect(self, name: str, weight: nn.Parameter, users: list[tuple[nn.Module, str]]) -> None:
        if len(users) == 1 and users[0][1] == "weight":
            module, chosen = users[0][0], self.indices[name]
            if type(module) is nn.Linear or name in self._four_bit:
                self.patterns[name] = SparsePattern.from_indices(chosen, *self._shapes[name])
                self._replace_forward(module, functools.partial(self._linear_forward, name, module))
                return
            if type(module) is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq:
                self.patterns[name] = SparsePattern.from_indices(chosen, *weight.shape)
                self._replace_forward(module, functools.partial(self._embedding_forward, name, module))
                return
        self._gather_dense_gradient(name, weight, self.deltas[name])

    def _linear_forward(self, name: str, module: Any, x: Tensor) -> Tensor:
        watch, delta, pattern = self._watches.get(name), self.deltas[name], self.patterns[name]
        receiver = self._receivers.get(name)
        if watch is not None and torch.is_grad_enabled():
            delta, pattern = watch.probe, watch.pattern
            if name in self._four_bit:
                watch.copy_values(self.deltas[name])
        if name in self._four_bit:
            return nf4_sparse_linear(x, self._four_bit[name], module.bias, delta, pattern, receiver)
        return sparse_linear(x, module.weight, module.bias, delta, pattern, receiver)

    def _embedding_forward(self, name: str, module: nn.Embedding, ids: Tensor) -> Tensor:
        return sparse_embedding(ids, module.weight, self.deltas[name], self.patterns[name], module.padding_idx)

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


class _Watch:
    """The gradient at active and watched entries together, sampled at once."""

    def __init__(self, active: Tensor, watched: Tensor, delta: Tensor, shape: torch.Size) -> None:
        union, place = torch.cat([active, watched.to(active)]).sort()
        self.pattern = SparsePattern.from_indices(union, *shape)
        self.probe = nn.Parameter(delta.new_zeros(len(union)))  # whose gradient is wanted
        self.gradient = delta.new_zeros(len(watched))
        self._place, self._active = place, len(active)

    @torch.no_grad()
    def copy_values(self, delta: nn.Parameter) -> None:
        """Gives the probe the deltas' values, for a weight that does not hold them; watched entries have none."""
        values = torch.cat([delta, delta.new_zeros(len(self._place) - self._active)])
        self.probe.copy_(values[self._place])

    @torch.no_grad()
    def share_out(self, delta: nn.Parameter) -> None:
        if self.probe.grad is None:
            return
        gradient = torch.empty_like(self.probe.grad)
        gradient[self._place] = self.probe.grad
        self.probe.grad = None
        own, other = gradient.split([self._active, len(gradient) - self._active])
        delta.grad = own.clone() if delta.grad is None else delta.grad.add_(own)
        self.gradient += other


def _master_dtype(weight: Tensor) -> torch.dtype:
    """What deltas of `weight` are kept in: float32, or float64 where the weight is."""
    return torch.promote_types(weight.dtype, torch.float32)


def _users(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Parameter -> the modules that hold it and the attribute's name; several where it is tied."""
    found: dict[int, list[tuple[nn.Module, Any]]] = {}
    for module in model.modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            found.setdefault(id(parameter), []).append((module, attribute))
    return found
