"""Bottleneck adapters (thesis §2.2.1) and invertible adapters (§2.3.4): the networks, and the module made of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from xlt.modules.artefact import ModuleArtefact, ModuleHeader, Undo, check_values
from xlt.modules.insertion import PLACEMENTS, change_input, insert
from xlt.modules.sparse_delta import LM_HEAD_PREFIX, named_tensors

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}
_BOTTLENECK_NAMES = ("down.weight", "down.bias", "up.weight", "up.bias")
_COUPLING_NAMES = tuple(f"{part}.{name}" for part in ("first", "second") for name in _BOTTLENECK_NAMES)


class BottleneckAdapter(nn.Module):
    """The network U a(D h + b) + c, which thesis Eq. 2.8 adds to the residual.

    D is (bottleneck, hidden), U is (output, bottleneck), and a is the activation.

    Args:
        hidden_size, bottleneck_size: at least 1.
        activation: a key of `ACTIVATIONS`.
        output_size: size of the output; None means the hidden size.
    """

    def __init__(self, hidden_size: int, bottleneck_size: int, activation: str, output_size: int | None = None) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, bottleneck_size)
        self.up = nn.Linear(bottleneck_size, hidden_size if output_size is None else output_size)
        self.activation = activation

    def forward(self, hidden: Tensor) -> Tensor:
        """Maps (..., hidden) to (..., output), in the dtype of the weights, or in autocast's."""
        return self.up(ACTIVATIONS[self.activation](self.down(hidden.to(self.down.weight.dtype))))


class InvertibleAdapter(nn.Module):
    """An invertible network of two additive couplings (NICE, Dinh et al., 2015), as in MAD-X (Pfeiffer et al., 2020b).

    It splits x into halves (x1, x2) along the hidden dimension and computes y1 = x1 + F(x2) and y2 = x2 + G(y1). F is
    `first` and G is `second`; each is a linear layer, an activation and a linear layer. The inverse is exact up to
    rounding for any F and G.

    Args:
        hidden_size: at least 2.
        bottleneck_sizes: inner sizes of F and G.
        activation: a key of `ACTIVATIONS`.
    """

    def __init__(self, hidden_size: int, bottleneck_sizes: tuple[int, int], activation: str) -> None:
        super().__init__()
        first_size = hidden_size // 2
        self.sizes = (first_size, hidden_size - first_size)
        self.first = BottleneckAdapter(hidden_size - first_size, bottleneck_sizes[0], activation, first_size)
        self.second = BottleneckAdapter(first_size, bottleneck_sizes[1], activation, hidden_size - first_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Maps x to y; both (..., hidden), of one dtype."""
        first_half, second_half = hidden.split(self.sizes, dim=-1)
        first_half = first_half + self.first(second_half)
        second_half = second_half + self.second(first_half)
        return torch.cat((first_half, second_half), -1).to(hidden.dtype)

    def inverse(self, hidden: Tensor) -> Tensor:
        """Maps y back to x; both (..., hidden), of one dtype."""
        first_half, second_half = hidden.split(self.sizes, dim=-1)
        second_half = second_half - self.second(first_half)
        first_half = first_half - self.first(second_half)
        return torch.cat((first_half, second_half), -1).to(hidden.dtype)


@dataclass(frozen=True)
class Ends:
    """The two places of an invertible adapter in a model.

    Attributes:
        block: path of the first block; the adapter runs before it.
        output: path of the output embeddings, before which the inverse runs; None if the model type has none.
    """

    block: str
    output: str | None


class Adapter(ModuleArtefact):
    """A module of bottleneck adapters, optionally with an invertible adapter.

    The adapters of a language module run before those of a task module, whichever was applied first (thesis §2.3.4).
    The weights of the base model do not change. Where the model has no language-model head, the inverse of the
    invertible adapter, which runs before the output embeddings, is left out.

    Args:
        header: of kind "adapter".
        adapters: path of a module -> the adapter inserted after it.
        placements: path -> one of `PLACEMENTS`, which `insert` explains.
        invertible, ends: an invertible adapter and its places; give both or neither.
        tensors: name -> fully trained tensor (the task head), which replaces the model's.
    Raises:
        ValueError: the header's kind is wrong, a placement is unknown, the paths of adapters and placements differ,
            only one of `invertible` and `ends` is given, or a value is not finite.
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
            raise ValueError(f"kind={header.kind!r}: the header of an Adapter must have kind {self.kind!r}")
        if adapters.keys() != placements.keys() or any(place not in PLACEMENTS for place in placements.values()):
            raise ValueError(f"placements {dict(placements)} do not fit adapters at {', '.join(adapters)}")
        if (invertible is None) != (ends is None):
            raise ValueError("of invertible and ends only one is given: give both or neither")
        self.header = header
        self.adapters, self.placements = dict(adapters), dict(placements)
        self.invertible, self.ends = invertible, ends
        self.tensors = {name: tensor.detach() for name, tensor in (tensors or {}).items()}
        check_values(self.tensors)
        networks = {**self.adapters, **({} if invertible is None else {"invertible": invertible})}
        for path, network in networks.items():
            check_values(
                {f"{path}: {name}": values for name, values in network.requires_grad_(False).state_dict().items()}
            )

    def __repr__(self) -> str:
        more = ", invertible" if self.invertible is not None else ""
        return f"<{self.header}: {len(self.adapters)} adapters{more}, {len(self.tensors)} fully trained tensors>"

    @property
    def num_entries(self) -> int:
        """Number of parameters of all networks; fully trained tensors do not count."""
        networks = [*self.adapters.values(), *([self.invertible] if self.invertible is not None else [])]
        return sum(parameter.numel() for network in networks for parameter in network.parameters())

    def check(self, model: nn.Module) -> None:
        modules = dict(model.named_modules())
        paths = [*self.adapters, *([self.ends.block] if self.ends is not None else [])]
        for path in paths:
            if path not in modules:
                raise ValueError(f"{self.header} does not fit the model: the model has no module {path}")
        model_tensors = named_tensors(model)
        for name, tensor in self.tensors.items():
            target = model_tensors.get(name)
            if target is None or target.shape != tensor.shape or not target.is_floating_point():
                fault = f"the model has no tensor {name!r}"
                if target is not None and target.shape == tensor.shape:
                    fault = f"{name!r} is {target.dtype} in the model, which no module can change"
                elif target is not None:
                    fault = f"{name!r} has shape {tuple(tensor.shape)}, not {tuple(target.shape)}"
                raise ValueError(f"{self.header} does not fit the model: {fault}")
        if self.ends is not None:
            _check_output(self.ends, modules)
        size = getattr(model, "hidden_size", None)
        if self.invertible is not None and size is not None and sum(self.invertible.sizes) != size:
            raise ValueError(
                f"{self.header} does not fit the model: the invertible adapter is for hidden size "
                f"{sum(self.invertible.sizes)}, the model has {size}"
            )
        for path, adapter in self.adapters.items():
            if size is not None and adapter.down.in_features != size:
                raise ValueError(
                    f"{self.header} does not fit the model: the adapter at {path} is for hidden size "
                    f"{adapter.down.in_features}, the model has {size}"
                )
            width = _width(modules[path])
            if width is not None and adapter.down.in_features != width:
                raise ValueError(
                    f"{self.header} does not fit the model: the adapter at {path} is for outputs of width "
                    f"{adapter.down.in_features}, that layer has {width}"
                )

    @torch.no_grad()
    def write_into(self, model: nn.Module) -> Undo:
        self.check(model)
        modules, model_tensors = dict(model.named_modules()), named_tensors(model)
        device = next(model.parameters()).device
        displaced = {name: model_tensors[name].detach().clone() for name in self.tensors}
        below = self.header.language is not None
        removals = [
            insert(modules[path], self.placements[path], adapter.to(_device_of(modules[path], device)), below=below)
            for path, adapter in self.adapters.items()
        ]
        if self.invertible is not None and self.ends is not None:
            removals += insert_invertible(modules, self.ends, self.invertible.to(device))
        for name, tensor in self.tensors.items():
            model_tensors[name].copy_(tensor)

        @torch.no_grad()
        def undo() -> None:
            for remove in removals:
                remove()
            for name, tensor in displaced.items():
                model_tensors[name].copy_(tensor)

        return undo

    def to_tensors(self, value_dtype: torch.dtype | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns layout and tensors.

        The layout is path -> placement and activation, and the places of the invertible adapter. The tensors are
        `adapter:PATH:NAME`, `invertible:NAME` and `whole:NAME`.
        """
        tensors = {f"whole:{name}": tensor for name, tensor in self.tensors.items()}
        layout: dict[str, Any] = {"sites": {}, "invertible": None}
        for path, adapter in self.adapters.items():
            layout["sites"][path] = {"placement": self.placements[path], "activation": adapter.activation}
            tensors.update(_collect_tensors(f"adapter:{path}", adapter, _BOTTLENECK_NAMES, value_dtype))
        if self.invertible is not None and self.ends is not None:
            activation = self.invertible.first.activation
            layout["invertible"] = {"block": self.ends.block, "output": self.ends.output, "activation": activation}
            tensors.update(_collect_tensors("invertible", self.invertible, _COUPLING_NAMES, value_dtype))
        return layout, tensors

    @classmethod
    def from_tensors(cls, header: ModuleHeader, layout: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        remaining = dict(tensors)
        adapters, placements = {}, {}
        for path, site in layout["sites"].items():
            parameters = {name: remaining.pop(f"adapter:{path}:{name}") for name in _BOTTLENECK_NAMES}
            bottleneck, hidden = parameters["down.weight"].shape
            adapters[path] = _load_tensors(
                BottleneckAdapter(hidden, bottleneck, _check_activation(site["activation"])), parameters
            )
            placements[path] = site["placement"]
        invertible, ends = None, None
        if layout["invertible"] is not None:
            parameters = {name: remaining.pop(f"invertible:{name}") for name in _COUPLING_NAMES}
            size = parameters["first.up.weight"].shape[0] + parameters["second.up.weight"].shape[0]
            inner = (parameters["first.down.weight"].shape[0], parameters["second.down.weight"].shape[0])
            invertible = _load_tensors(
                InvertibleAdapter(size, inner, _check_activation(layout["invertible"]["activation"])), parameters
            )
            ends = Ends(layout["invertible"]["block"], layout["invertible"]["output"])
            if not isinstance(ends.block, str) or not isinstance(ends.output, str | None):
                raise ValueError(
                    f"the places {ends.block!r} and {ends.output!r} of the invertible adapter are no paths"
                )
        stray = [name for name in remaining if not name.startswith("whole:")]
        if stray:
            raise ValueError(f"tensor {stray[0]!r} belongs to no adapter of the layout")
        whole = {name.removeprefix("whole:"): tensor for name, tensor in remaining.items()}
        return cls(header, adapters, placements, invertible, ends, whole)


def insert_invertible(modules: Mapping[str, nn.Module], ends: Ends, adapter: InvertibleAdapter) -> list[Undo]:
    """Inserts an invertible adapter before the first block, and its inverse before the output embeddings.

    Args:
        modules: path -> module of the model.
        ends: paths of the two places; the inverse is left out where the model has no language-model head.
        adapter: used itself, not copied.
    Returns:
        Functions that remove what was inserted.
    Raises:
        ValueError: the model has a language-model head, but no output embeddings at the path.
    """
    _check_output(ends, modules)
    removals = [change_input(modules[ends.block], adapter.forward)]
    if ends.output is not None and ends.output in modules:
        removals.append(change_input(modules[ends.output], adapter.inverse))
    return removals


def _width(layer: nn.Module) -> int | None:
    """Returns the width of a layer's output; None for blocks and others that do not say."""
    for name in ("out_features", "normalized_shape", "embedding_dim", "nf"):  # nf: of GPT-2's Conv1D
        width = getattr(layer, name, None)
        if width is not None:
            return width[-1] if isinstance(width, tuple) else int(width)
    return None


def _check_output(ends: Ends, modules: Mapping[str, nn.Module]) -> None:
    """Refuses a model with a language-model head in which the inverse of an invertible adapter has no place."""
    missing = ends.output is not None and ends.output not in modules
    if missing and any(path.startswith(LM_HEAD_PREFIX) for path in modules):
        raise ValueError(f"the model has a language-model head, but no output embeddings at {ends.output}")


def _check_activation(activation: str) -> str:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown: it must be one of {', '.join(ACTIVATIONS)}")
    return activation


def _collect_tensors(
    prefix: str, network: nn.Module, names: tuple[str, ...], dtype: torch.dtype | None
) -> dict[str, Tensor]:
    parameters = network.state_dict()
    return {
        f"{prefix}:{name}": parameters[name].cpu() if dtype is None else parameters[name].cpu().to(dtype)
        for name in names
    }


def _load_tensors(network: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Loads tensors into a network, in their dtype or float32, whichever is wider."""
    check_values(tensors)
    wide = torch.promote_types(next(iter(tensors.values())).dtype, torch.float32)
    network.to(wide).load_state_dict(dict(tensors))
    return network


def _device_of(module: nn.Module, default: torch.device) -> torch.device:
    """Returns the device of a module's parameters, for one without parameters the default."""
    return next((parameter.device for parameter in module.parameters()), default)
