"""Training of selected entries in place, which LT-SFT's sparse phase, random SFT and SpIEL have in common.

The model's own weights hold base plus delta. The optimiser gets only the deltas (float32, one per selected entry), so
that its moments have the delta's size and a frozen entry cannot change. The gradient of a linear layer or an embedding
is computed at the selected entries only; the dense gradient of such a weight is never stored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from xlt_kernels.delta_write import gather_entries, restore_entries, write_delta
from xlt_kernels.devices import uses_triton
from xlt_kernels.embedding_rows import sparse_embedding
from xlt_kernels.nf4 import nf4_sparse_linear
from xlt_kernels.nf4_weight import Nf4Weight
from xlt_kernels.sparse_linear import Receiver, sparse_linear
from xlt_kernels.sparse_pattern import SparsePattern

from xlt.models.sublayers import expanding_layers
from xlt.models.transfer import TransferModel, is_transposed
from xlt.modules import Entries


class SparseDeltas:
    """The trainable deltas of a model at selected entries, which are written into its weights in place.

    Args:
        model: all its parameters except the head's are frozen; backward passes give the deltas their gradients.
        indices: tensor name -> (N_i,) sorted int64 flat row-major indices; tensors without indices are ignored.
    """

    def __init__(self, model: TransferModel, indices: Mapping[str, Tensor]) -> None:
        weights = dict(model.named_parameters())
        for name, parameter in weights.items():
            parameter.requires_grad_(name.startswith("head."))
        # Always in the model's order, because a resumed run must sum, clip and step in the same order.
        self.indices = {
            name: indices[name].to(weight.device)
            for name, weight in weights.items()
            if name in indices and indices[name].numel()
        }
        users = _users(model)
        # On a CPU the layouts of a feed-forward network's inner layer save copies for the sampled gradient.
        self._by_token = {
            name
            for name in (expanding_layers(model) if model.device.type == "cpu" else ())
            if weights[name].dtype == torch.float32
        }
        # 4-bit weights cannot hold deltas, which are added whenever such a weight is dequantised.
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
            name: nn.Parameter(
                torch.zeros(flat_indices.numel(), dtype=_master_dtype(weights[name]), device=flat_indices.device)
            )
            for name, flat_indices in self.indices.items()
        }
        self.patterns: dict[str, SparsePattern] = {}
        self._watches: dict[str, _Watch] = {}
        self._receivers: dict[str, Receiver] = {}
        self._undo: list[Callable[[], None]] = []
        for name in self.indices:
            self._connect(name, weights[name], users[id(weights[name])])

    @torch.no_grad()
    def write(self, base: Mapping[str, Tensor] | None = None) -> None:
        """Writes base plus delta to the selected entries; the sum is in the delta's dtype and rounded once.

        Args:
            base: name -> (N_i,) base values of the entries; None means those that the model had at the start.
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
        """Replaces some entries of a tensor: dropped entries get their base values, grown ones start at delta zero.

        Args:
            name: of a linear layer's weight.
            kept: (N,) bool, True for the present entries that stay.
            grown: flat indices of the new entries; as many as are dropped, and none of them present.
        Returns:
            (N,) int64: for each entry in the new order its place in the concatenation of kept and grown entries.
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
        self._set_pattern(name)
        return order

    @torch.no_grad()
    def move_to(self, indices: Mapping[str, Tensor]) -> None:
        """Moves the deltas to as many other entries of each tensor; the weights are the base until the next `write`."""
        for name, flat in indices.items():
            before, self.indices[name] = self.indices[name], flat.to(self.deltas[name].device)
            if name in self._weights:
                restore_entries(self._weights[name], before, self._base[name])
                self._base[name] = gather_entries(self._weights[name], self.indices[name])
            if name in self.patterns:
                self._set_pattern(name)

    def watch(self, name: str, indices: Tensor) -> None:
        """From now on also computes the gradient of a linear layer's weight at other entries.

        Args:
            name: of the weight.
            indices: (M,) ascending flat indices, none of them active.
        """
        self._receivers.pop(name, None)
        self.patterns[name] = self.patterns[name].without_columns()  # steps use those of the watch
        self._watches[name] = _Watch(self.indices[name], indices, self.deltas[name], self._shapes[name])

    def receive(self, name: str, receiver: Receiver) -> None:
        """From now on calls `receiver` with the whole gradient of a linear layer's weight in each backward pass."""
        if self._watches.pop(name, None) is not None:
            self.patterns[name] = self.patterns[name].with_columns()
        self._receivers[name] = receiver

    def stop_watching(self) -> None:
        """Ends every `watch` and `receive`."""
        for name in self._watches:
            self.patterns[name] = self.patterns[name].with_columns()
        self._watches.clear()
        self._receivers.clear()

    def watched(self) -> dict[str, Tensor]:
        """Returns name -> (M,) gradients at watched entries, summed since they were last set to zero."""
        return {name: watch.gradient for name, watch in self._watches.items()}

    def watched_indices(self, name: str) -> Tensor:
        """Returns the (M,) ascending flat indices of a tensor's watched entries, which are made anew at each call."""
        return self._watches[name].indices

    def detach(self) -> None:
        """Restores the model's own forward passes; the weights still hold base plus delta."""
        for undo in self._undo:
            undo()
        self._undo = []

    def entries(self) -> dict[str, Entries]:
        """Returns name -> entries, as a module stores them, on the CPU."""
        return {
            name: Entries(self.indices[name].cpu().long(), delta.detach().cpu().clone(), self._shapes[name])
            for name, delta in self.deltas.items()
        }

    def _connect(self, name: str, weight: nn.Parameter, users: list[tuple[nn.Module, str]]) -> None:
        if len(users) == 1 and users[0][1] == "weight":
            module = users[0][0]
            if type(module) is nn.Linear or is_transposed(module) or name in self._four_bit:
                self._set_pattern(name)
                self._replace_forward(module, functools.partial(self._linear_forward, name, module))
                return
            if type(module) is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq:
                self._set_pattern(name)
                self._replace_forward(module, functools.partial(self._embedding_forward, name, module))
                return
        self._gather_dense_gradient(name, weight, self.deltas[name])

    def _set_pattern(self, name: str) -> None:
        """Makes the pattern of a tensor's indices, and keeps the indices as the pattern has them, usually in int32."""
        self.patterns[name] = SparsePattern.from_indices(self.indices[name], *self._shapes[name])
        self.indices[name] = self.patterns[name].indices

    def _linear_forward(self, name: str, module: Any, x: Tensor) -> Tensor:
        watch, pattern = self._watches.get(name), self.patterns[name]
        delta: Tensor = self.deltas[name]
        receiver = self._receivers.get(name)
        if watch is not None and torch.is_grad_enabled():
            delta, pattern = watch.probe, watch.pattern
            if name in self._four_bit:
                delta = watch.probe_with_values(self.deltas[name])
        if name in self._four_bit:
            return nf4_sparse_linear(x, self._four_bit[name], module.bias, delta, pattern, receiver)
        by_token = name in self._by_token and not torch.is_autocast_enabled("cpu")
        return sparse_linear(x, module.weight, module.bias, delta, pattern, receiver, is_transposed(module), by_token)

    def _embedding_forward(self, name: str, module: nn.Embedding, ids: Tensor) -> Tensor:
        return sparse_embedding(ids, module.weight, self.deltas[name], self.patterns[name], module.padding_idx)

    def _replace_forward(self, module: nn.Module, forward: Callable[..., Tensor]) -> None:
        module.__dict__["forward"] = forward
        self._undo.append(lambda: module.__dict__.pop("forward", None))

    def _gather_dense_gradient(self, name: str, weight: nn.Parameter, delta: nn.Parameter) -> None:
        """Takes the entries' gradient from the dense one; for biases, normalisation and layers of other classes."""
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
    """The joint gradient at the active and the watched entries of a tensor, computed in one pass.

    Args:
        active, watched: (A,) and (M,) ascending flat indices.
        delta: (A,) of the active entries.
        shape: of the tensor.
    """

    def __init__(self, active: Tensor, watched: Tensor, delta: Tensor, shape: torch.Size) -> None:
        union, order = torch.cat([active, watched.to(active)]).sort()
        self.pattern = SparsePattern.from_indices(union, *shape).without_indices()
        # Receives the joint gradient; one value that stands for all has no memory.
        self.probe = nn.Parameter(delta.new_zeros(1).expand(len(union)))
        self.probe.register_post_accumulate_grad_hook(lambda probe: self._distribute(delta))
        self.gradient = delta.new_zeros(len(watched))
        is_watched = order >= len(active)
        # On a GPU a byte an entry says which are watched. On a CPU, where to select by a mask is slow, four say where.
        self._mask = is_watched if uses_triton(delta) else None
        parts = () if uses_triton(delta) else (~is_watched, is_watched)
        self._places = [part.nonzero().view(-1).to(union.dtype) for part in parts]

    @property
    def indices(self) -> Tensor:
        """(M,) ascending flat indices of the watched entries."""
        return self._part(self.pattern.indices, len(self.gradient), watched=True)

    def probe_with_values(self, delta: Tensor) -> Tensor:
        """Returns the probe with the deltas as values, for a 4-bit weight, which does not hold them; others have zero.

        The values are made for each forward pass, so that recomputed activations keep them for one block at a time.
        """
        values = delta.new_zeros(len(self.probe))
        if self._mask is None:
            values.index_copy_(0, self._places[0].long(), delta.detach())
        else:
            values.masked_scatter_(~self._mask, delta.detach())
        return cast(Tensor, _Valued.apply(self.probe, values))

    @torch.no_grad()
    def _distribute(self, delta: Tensor) -> None:
        """Adds the probe's gradient to that of the delta and to that of the watched entries, and resets it.

        It does so in the backward pass, so that the probe of one tensor at a time has a gradient.
        """
        gradient, self.probe.grad = self.probe.grad, None
        assert gradient is not None
        own = self._part(gradient, len(delta), watched=False)
        delta.grad = own if delta.grad is None else delta.grad.add_(own)
        self.gradient += self._part(gradient, len(self.gradient), watched=True)

    def _part(self, values: Tensor, count: int, *, watched: bool) -> Tensor:
        """Returns the `count` values of the watched or of the active entries; the host does not wait for a GPU."""
        if self._mask is None:
            return values.index_select(0, self._places[watched])
        mask = self._mask if watched else ~self._mask
        places = mask.cumsum(0).sub_(1).masked_fill_(~mask, count)  # the other values go to a place of their own
        return values.new_empty(count + 1).scatter_(0, places, values)[:count]


class _Valued(torch.autograd.Function):
    """Gives other values to a tensor; the gradient goes to the tensor."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _master_dtype(weight: Tensor) -> torch.dtype:
    """Returns the dtype of the deltas of `weight`: float32, or float64 if the weight has it."""
    return torch.promote_types(weight.dtype, torch.float32)


def _users(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Returns id of a parameter -> modules that have it and the attribute's name; several if it is tied."""
    users: dict[int, list[tuple[nn.Module, Any]]] = {}
    for module in model.modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            users.setdefault(id(parameter), []).append((module, attribute))
    return users
