"""Bottleneck adapters (thesis §2.2.1) and invertible ones at the embeddings (§2.3.4): the networks and the module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from xlt.modules.artefact import ModuleArtefact, ModuleHeader, Undo
from xlt.modules.insertion import PLACEMENTS, before, insert
from xlt.modules.sparse_delta import LM_HEAD_PREFIX, named_tensors

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}
_BOTTLENECK = ("down.weight", "down.bias", "up.weight", "up.bias")
_COUPLED = tuple(f"{part}.{name}" for part in ("first", "second") for name in _BOTTLENECK)


class BottleneckAdapter(nn.Module):
    """U a(D h + b) + c, what Eq. 2.8 adds to the residual; D (bottleneck, hidden), U (output, bottleneck).

    Args:
        hidden_size, bottleneck_size: at least 1.
        activation: a key of `ACTIVATIONS`.
        output_size: where it is not the hidden size.
    """

    def __init__(self, hidden_size: int, bottleneck_size: int, activation: str, output_size: int | None = None) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, bottleneck_size)
        self.up = nn.Linear(bottleneck_size, hidden_size if output_size is None else output_size)
        self.activation = activation

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., hidden) -> (..., hidden), in the dtype of the weights unless autocast says otherwise."""
        return self.up(ACTIVATIONS[self.activation](self.down(hidden.to(self.down.weight.dtype))))


class InvertibleAdapter(nn.Module):
    """Two additive couplings (NICE, Dinh et al., 2015), as in MAD-X (Pfeiffer et al., 2020b).

    With x = (x1, x2) halved along the hidden dimension: y1 = x1 + F(x2), y2 = x2 + G(y1). F is `first`, G `second`,
    each a linear layer, an activation and a linear layer. The inverse is exact up to rounding, whatever F and G are.

    Args:
        hidden_size: at least 2.
        bottleneck_sizes: inner sizes of F and G.
        activation: a key of `ACTIVATIONS`.
    """

    def __init__(self, hidden_size: int, bottleneck_sizes: tuple[int, int], activation: str) -> None:
        super().__init__()
        one = hidden_size // 2
        self.sizes = (one, hidden_size - one)
        self.first = BottleneckAdapter(hidden_size - one, bottleneck_sizes[0], activation, one)
        self.second = BottleneckAdapter(one, bottleneck_sizes[1], activation, hidden_size - one)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., hidden) -> (..., hidden)."""
        one, other = hidden.split(self.sizes, dim=-1)
        one = one + self.first(other)
        other = other + self.second(one)
        return torch.cat((one, other), -1).to(hidden.dtype)

    def inverse(self, hidden: Tensor) -> Tensor:
        """(..., hidden) -> (..., hidden): what `forward` made this of."""
        one, other = hidden.split(self.sizes, dim=-1)
        other = other - self.second(one)
        one = one - self.first(other)
        return torch.cat((one, other), -1).to(hidden.dtype)


@dataclass(frozen=True)
class Ends:
    """Where an invertible adapter stands: paths of the first block, and of the output embeddings if there are any."""

    block: str
    output: str | None


class Adapter(ModuleArtefact):
    """Bottleneck adapters by the path of the module they stand behind, and perhaps an invertible one at the ends.

    A language module's stand below, a task module's above, whichever was applied first (thesis §2.3.4). Nothing of the
    base model is changed. The inverse at the output embeddings is left out where the model has no language-model head.

    Args:
        header: with kind "adapter".
        adapters: path -> network.
        placements: path -> one of `PLACEMENTS`, see `insert`.
        invertible, ends: both or neither.
        tensors: name -> tensor stored whole (the task head); replaces the model's.
    Raises:
        ValueError: a wrong kind, an unknown placement, or paths that differ.
    """

    kind: ClassVar[str] = "adapter"

    def __init__(
        self,
        header: ModuleHeader,
        adapters: Mapping[str, BottleneckAdapter],
        placements: Mapping[str, str],
        invertible: InvertibleAdapter | None = None,
        ends: Ends | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        if header.kind != self.kind:
            raise ValueError(f"kind={header.kind!r}: the header of an Adapter must say {self.kind!r}")
        if adapters.keys() != placements.keys() or any(place not in PLACEMENTS for place in placements.values()):
            raise ValueError(f"placements {dict(placements)} do not fit adapters at {', '.join(adapters)}")
        if (invertible is None) != (ends is None):
            raise ValueError("an invertible adapter needs to know its ends, and nothing else has any")
        self.header = header
        self.adapters, self.placements = dict(adapters), dict(placements)
        self.invertible, self.ends = invertible, ends
        self.tensors = {name: tensor.detach() for name, tensor in (tensors or {}).items()}
        for network in (*self.adapters.values(), *([invertible] if invertible is not None else [])):
            network.requires_grad_(False)

    def __repr__(self) -> str:
        more = ", invertible" if self.invertible is not None else ""
        return f"<{self.header}: {len(self.adapters)} adapters{more}, {len(self.tensors)} whole>"

    @property
    def num_entries(self) -> int:
        """Parameters of all networks, without the fully trained tensors."""
        networks = [*self.adapters.values(), *([self.invertible] if self.invertible is not None else [])]
        return sum(parameter.numel() for network in networks for parameter in network.parameters())

    def check(self, model: nn.Module) -> None:
        modules = dict(model.named_modules())
        wanted = [*self.adapters, *([self.ends.block] if self.ends is not None else [])]
        for path in wanted:
            if path not in modules:
                raise ValueError(f"{self.header} does not fit the model: there is no {path}")
        available = named_tensors(model)
        for name, tensor in self.tensors.items():
            if name not in available or available[name].shape != tensor.shape:
                there = f"has shape {tuple(available[name].shape)}" if name in available else "is not there"
                raise ValueError(f"{self.header} does not fit the model: {name!r} {there}, not {tuple(tensor.shape)}")
        size = getattr(model, "hidden_size", None)
        for path, adapter in self.adapters.items():
            if size is not None and adapter.down.in_features != size:
                made = f"made for hidden size {adapter.down.in_features}, not {size}"
                raise ValueError(f"{self.header} does not fit the model: the adapter at {path} is {made}")

    @torch.no_grad()
    def write_into(self, model: nn.Module) -> Undo:
        self.check(model)
        modules, available = dict(model.named_modules()), named_tensors(model)
        device = next(model.parameters()).device
        saved = {name: available[name].detach().clone() for name in self.tensors}
        below = self.header.language is not None
        undone = [
            insert(modules[path], self.placements[path], adapter.to(device), below=below)
            for path, adapter in self.adapters.items()
        ]
        if self.invertible is not None and self.ends is not None:
            undone += insert_invertible(modules, self.ends, self.invertible.to(device))
        for name, tensor in self.tensors.items():
            available[name].copy_(tensor)

        @torch.no_grad()
        def undo() -> None:
            for take_out in undone:
                take_out()
            for name, tensor in saved.items():
                available[name].copy_(tensor)

        return undo

    def to_tensors(self, value_dtype: torch.dtype | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Layout: path -> placement and activation, and the ends; tensors `adapter:PATH:NAME`, `invertible:NAME`,
        `whole:NAME`."""
        tensors = {f"whole:{name}": tensor for name, tensor in self.tensors.items()}
        layout: dict[str, Any] = {"sites": {}, "invertible": None}
        for path, adapter in self.adapters.items():
            layout["sites"][path] = {"placement": self.placements[path], "activation": adapter.activation}
            tensors.update(_stored(f"adapter:{path}", adapter, _BOTTLENECK, value_dtype))
        if self.invertible is not None and self.ends is not None:
            activation = self.invertible.first.activation
            layout["invertible"] = {"block": self.ends.block, "output": self.ends.output, "activation": activation}
            tensors.update(_stored("invertible", self.invertible, _COUPLED, value_dtype))
        return layout, tensors

    @classmethod
    def from_tensors(cls, header: ModuleHeader, layout: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        left = dict(tensors)
        adapters, placements = {}, {}
        for path, site in layout["sites"].items():
            own = {name: left.pop(f"adapter:{path}:{name}") for name in _BOTTLENECK}
            bottleneck, hidden = own["down.weight"].shape
            adapters[path] = _filled(BottleneckAdapter(hidden, bottleneck, _known(site["activation"])), own)
            placements[path] = site["placement"]
        invertible, ends = None, None
        if layout["invertible"] is not None:
            own = {name: left.pop(f"invertible:{name}") for name in _COUPLED}
            size = own["first.up.weight"].shape[0] + own["second.up.weight"].shape[0]
            inner = (own["first.down.weight"].shape[0], own["second.down.weight"].shape[0])
            invertible = _filled(InvertibleAdapter(size, inner, _known(layout["invertible"]["activation"])), own)
            ends = Ends(layout["invertible"]["block"], layout["invertible"]["output"])
        stray = [name for name in left if not name.startswith("whole:")]
        if stray:
            raise ValueError(f"unexpected tensor {stray[0]!r}")
        whole = {name.removeprefix("whole:"): tensor for name, tensor in left.items()}
        return cls(header, adapters, placements, invertible, ends, whole)


def insert_invertible(modules: Mapping[str, nn.Module], ends: Ends, adapter: InvertibleAdapter) -> list[Undo]:
    """Puts an invertible adapter before the first block, and its inverse before the output embeddings.

    Args:
        modules: path -> module of the model.
        ends: paths of the two; the latter is skipped where the model has no language-model head.
        adapter: as it is, not copied.
    Returns:
        What takes them out again.
    """
    undone = [before(modules[ends.block], adapter.forward)]
    if ends.output is not None and ends.output in modules:
        undone.append(before(modules[ends.output], adapter.inverse))
    elif ends.output is not None and any(path.startswith(LM_HEAD_PREFIX) for path in modules):
        raise ValueError(f"the model has a language-model head without {ends.output}")
    return undone


def _known(activation: str) -> str:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
    return activation


def _stored(prefix: str, network: nn.Module, names: tuple[str, ...], dtype: torch.dtype | None) -> dict[str, Tensor]:
    own = network.state_dict()
    return {f"{prefix}:{name}": own[name].cpu() if dtype is None else own[name].cpu().to(dtype) for name in names}


def _filled(network: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Gives a network these weights, in their dtype but at least float32."""
    wide = torch.promote_types(next(iter(tensors.values())).dtype, torch.float32)
    network.to(wide).load_state_dict(dict(tensors))
    return network
