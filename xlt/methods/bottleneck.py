"""Bottleneck adapters: MAD-X's language and task adapters (thesis §2.2.1, §2.3.4), and Houlsby et al.'s (2019)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from xlt.config import RunFacts, key
from xlt.errors import UsageError
from xlt.methods.method import Method, ModuleReport, Phase, Setting, head_parameters, trained_head
from xlt.models.sublayers import Block, find_blocks, output_embeddings
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleArtefact, ModuleHeader
from xlt.modules.adapter import ACTIVATIONS, Adapter, BottleneckAdapter, Ends, InvertibleAdapter, insert_invertible
from xlt.modules.insertion import insert

N = TypeVar("N", bound=nn.Module)
_STANDARD_DEVIATION = 0.02  # AdapterHub's


@dataclass
class BottleneckConfig:
    """Settings of bottleneck adapters."""

    _target_: str = "xlt.methods.bottleneck.Bottleneck"
    name: str = key("name of the method in module headers and tables", name=True)
    reduction_factor: float = key("hidden size / bottleneck size", above=0, hint="thesis §4.4.3: 1 to 32", recipe=True)
    where: str = key(
        "where a block has adapters: after its feed_forward layer (Pfeiffer) or both_sublayers (Houlsby)",
        choices=("feed_forward", "both_sublayers"),
    )
    activation: str = key("activation function of the bottleneck", choices=tuple(ACTIVATIONS))
    invertible: bool = key("whether language modules also have an invertible adapter at the embeddings")
    invertible_reduction_factor: float = key("of the invertible adapter: half the hidden size / inner size", above=0)
    leave_out_last: int = key("number of blocks at the top without adapters; MAD-X 2.0: 1", low=0)
    initialisation: str = key(
        "zero: up-projections are zero, so the output is unchanged; normal: all weights from N(0, 0.02^2)",
        choices=("zero", "normal"),
    )

    def unused(self, facts: RunFacts) -> Iterator[str]:
        """What an invertible adapter is like where there is none."""
        if not facts.adapts_language:
            yield "invertible"
        if not facts.adapts_language or not self.invertible:
            yield "invertible_reduction_factor"


SCHEMA = BottleneckConfig


class Bottleneck(Method):
    """A method that trains bottleneck adapters between the frozen layers of a model.

    A language module has an adapter in every block except the last `leave_out_last` ones and, if `invertible`, an
    invertible adapter before the first block, whose inverse runs before the output embeddings (MAD-X, Pfeiffer et al.,
    2020b). A task module has bottleneck adapters only. It is trained on top of the language module of each batch,
    which does not change.

    The adapters are float32, even if the base is bfloat16 or 4-bit. The task head is trained, too; the language-model
    head stays as it is. A run can start from a module of the same shape, such as one that MAD-G's generator computed
    (MAD-G-ft, thesis §3.5.3).
    """

    starts_from_modules = True
    leaves = Adapter

    @classmethod
    def name_of(cls, config: Any) -> str:
        return str(config.name)

    def __init__(
        self,
        name: str,
        reduction_factor: float,
        where: str,
        activation: str,
        invertible: bool,
        invertible_reduction_factor: float,
        leave_out_last: int,
        initialisation: str,
    ) -> None:
        self.name, self.reduction_factor, self.where, self.activation = name, reduction_factor, where, activation
        self.invertible, self.invertible_reduction_factor = invertible, invertible_reduction_factor
        self.leave_out_last, self.initialisation = leave_out_last, initialisation
        self._invertible: InvertibleAdapter | None = None
        self._ends: Ends | None = None
        self._start: Adapter | None = None

    def start_from(self, module: ModuleArtefact) -> None:
        if not isinstance(module, Adapter):
            raise ValueError(f"{module.header} is no adapter: method {self.name} can start from adapters only")
        self._start = module

    def check_model(self, model: TransferModel, *, adapts_language: bool) -> None:
        adapter_sites(find_blocks(model), self.where, self.leave_out_last)
        inner_size(model, model.hidden_size, self.reduction_factor, "reduction_factor")
        if self.invertible and adapts_language:
            for half in (model.hidden_size // 2, (model.hidden_size + 1) // 2):
                inner_size(model, half, self.invertible_reduction_factor, "invertible_reduction_factor")
        if not (self.invertible and adapts_language) or (path := output_embeddings(model)) is None:
            return
        if (width := model.get_submodule(path).in_features) != model.hidden_size:
            raise UsageError(
                f"method.invertible=true: model {model.base_name} has the hidden size {model.hidden_size}, but its "
                f"output embeddings read vectors of size {width}; set method.invertible=false"
            )

    def attach(self, model: TransferModel, phase: Phase, setting: Setting) -> None:
        self.check_model(model, adapts_language=setting.adapts_language)
        blocks = find_blocks(model)
        self._placements = adapter_sites(blocks, self.where, self.leave_out_last)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("head."))
        self._head, self._total = head_parameters(model), model.pretrained_parameters
        modules, size = dict(model.named_modules()), model.hidden_size
        bottleneck = inner_size(model, size, self.reduction_factor, "reduction_factor")
        self._adapters = {
            path: self._initialise(BottleneckAdapter(size, bottleneck, self.activation), model, setting.random(path))
            for path in self._placements
        }
        if self._start is not None:
            self._start_with(self._start, setting.adapts_language)
        for path, adapter in self._adapters.items():
            insert(modules[path], self._placements[path], adapter, below=setting.adapts_language)
            model.adapters[path.replace(".", "/")] = adapter
        if self.invertible and setting.adapts_language:
            half = (size + 1) // 2
            inner = (int(half / self.invertible_reduction_factor), int(size // 2 / self.invertible_reduction_factor))
            network = InvertibleAdapter(size, inner, self.activation)
            self._invertible = self._initialise(network, model, setting.random("invertible"))
            self._ends = Ends(blocks[0].path, output_embeddings(model))
            if self._start is not None and self._start.invertible is not None:
                _copy_parameters(self._invertible, self._start.invertible, "the invertible adapter")
            insert_invertible(modules, self._ends, self._invertible)
            model.adapters["invertible"] = self._invertible

    def trainable(self) -> dict[str, nn.Parameter]:
        networks: dict[str, nn.Module] = dict(self._adapters)
        if self._invertible is not None:
            networks["invertible"] = self._invertible
        own = {
            f"adapters.{path.replace('.', '/')}.{name}": parameter
            for path, network in networks.items()
            for name, parameter in network.named_parameters()
        }
        return {**own, **self._head}

    def export(self, model: TransferModel, header: ModuleHeader) -> ModuleArtefact:
        header = dataclasses.replace(header, kind=Adapter.kind)
        adapters = {path: _copy(adapter) for path, adapter in self._adapters.items()}
        invertible = None if self._invertible is None else _copy(self._invertible)
        return Adapter(header, adapters, self._placements, invertible, self._ends, trained_head(model))

    def report(self) -> ModuleReport:
        tuned = sum(p.numel() for name, p in self.trainable().items() if name not in self._head)
        return {"tuned_entries": tuned, "density": tuned / self._total}

    @torch.no_grad()
    def _start_with(self, start: Adapter, adapts_language: bool) -> None:
        """Copies the values of a module into the adapters and the head.

        Raises:
            ValueError: the module's adapters have other places, sizes or activations.
        """
        if start.placements != self._placements:
            raise ValueError(
                f"start: the {len(start.placements)} adapters of {start.header} are at other places than the "
                f"{len(self._placements)} of this run; check method.where and method.leave_out_last"
            )
        if (start.invertible is not None) != (self.invertible and adapts_language):
            raise ValueError(f"start: method.invertible={self.invertible} does not fit the start module, {start!r}")
        for path, adapter in self._adapters.items():
            _copy_parameters(adapter, start.adapters[path], f"the adapter at {path}")
        for name, tensor in start.tensors.items():
            self._head[name].copy_(tensor)

    def _initialise(self, network: N, model: TransferModel, generator: torch.Generator) -> N:
        """Draws a network's weights from `generator`, sets its biases to zero, and moves it to the model's device."""
        wide = torch.promote_types(next(model.backbone.parameters()).dtype, torch.float32)
        for name, parameter in network.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * _STANDARD_DEVIATION
            last = name.endswith("up.weight") and self.initialisation == "zero"
            parameter.data = torch.zeros_like(drawn) if last or name.endswith("bias") else drawn
        return network.to(device=model.device, dtype=wide)


def adapter_sites(blocks: Sequence[Block], where: str, leave_out_last: int) -> dict[str, str]:
    """Returns path -> placement of each adapter, lowest block first.

    Args:
        blocks: of the model, lowest first.
        where: "feed_forward" or "both_sublayers".
        leave_out_last: number of blocks at the top without adapters.
    Raises:
        ValueError: no block would have an adapter.
    """
    if leave_out_last >= len(blocks):
        raise UsageError(
            f"method.leave_out_last={leave_out_last}: must be less than the model's number of blocks, {len(blocks)}"
        )
    sites: dict[str, str] = {}
    for block in blocks[: len(blocks) - leave_out_last]:
        if where == "both_sublayers":
            sites |= {block.attention: "branch", block.feed_forward: "branch"}
        elif block.norm is not None:
            sites[block.norm] = "norm"
        else:
            sites[block.path] = "sum"
    return sites


@torch.no_grad()
def inner_size(model: TransferModel, size: int, factor: float, key: str) -> int:
    """Returns the size of a bottleneck: `size / factor`, rounded down.

    Args:
        model: for the message.
        size: of the vectors that the adapter reads.
        factor: the reduction factor.
        key: of the method, which has the factor.
    Raises:
        UsageError: nothing would remain.
    """
    if int(size / factor) < 1:
        raise UsageError(
            f"method.{key}={factor:g}: nothing remains of {size} values of model {model.base_name}; give at most {size}"
        )
    return int(size / factor)


def _copy_parameters(network: nn.Module, start: nn.Module, what: str) -> None:
    """Copies the parameters of `start` into `network`; `what` names the network in error messages."""
    shapes = [tuple(parameter.shape) for parameter in start.parameters()]
    if shapes != [tuple(parameter.shape) for parameter in network.parameters()]:
        raise ValueError(f"start: {what} has another size; check method.reduction_factor")
    if getattr(start, "activation", None) != getattr(network, "activation", None):
        raise ValueError(f"start: {what} has another activation; check method.activation")
    for parameter, value in zip(network.parameters(), start.parameters(), strict=True):
        parameter.copy_(value)


def _copy(network: N) -> N:
    return copy.deepcopy(network).cpu()
