"""MAD-G, which trains one generator of language adapters on many languages at once (thesis chapter 3)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xlt.config import RunFacts, key
from xlt.data.typology import load_typology
from xlt.methods.bottleneck import Bottleneck, adapter_sites, inner_size
from xlt.methods.method import Method, ModuleReport, Phase, Setting
from xlt.models.sublayers import find_blocks
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleArtefact, ModuleHeader
from xlt.modules.adapter import ACTIVATIONS
from xlt.modules.generator import AdapterGenerator, Generator
from xlt.modules.insertion import insert

_NAME = "generator"


@dataclass
class MadGConfig:
    """Settings of MAD-G."""

    _target_: str = "xlt.methods.mad_g.MadG"
    reduction_factor: float = key("hidden size / bottleneck size of the adapters", above=0, recipe=True)
    language_size: int = key("size of a language embedding (d_l)", low=1)
    layer_size: int | None = key("size of a layer embedding (d_b), which makes MAD-G-LS; null: MAD-G without", low=1)
    activation: str = key("activation function of the bottleneck", choices=tuple(ACTIVATIONS))
    leave_out_last: int = key("number of blocks at the top without adapters", low=0)
    typology: str | None = key("file with URIEL's vectors (.npz); null: those of the urielplus package", file=True)

    def unused(self, facts: RunFacts) -> Iterator[str]:
        """What a generator is like in a run that trains an adapter for a task."""
        if not facts.adapts_language:
            yield from ("language_size", "typology")


SCHEMA = MadGConfig


class MadG(Method):
    """A method that trains a generator, which computes every block's adapter from a language's vector.

    Thesis §3.3.1, §3.3.2. A run over texts of many languages, with one language per batch, results in the generator; a
    run over one language results in that language's adapter. The model itself stays frozen. For a task the method
    trains MAD-X's task adapter (§3.4.3), on top of generated language adapters (`language_modules.generator`).
    """

    leaves = Generator

    @classmethod
    def name_of(cls, config: Any) -> str:
        return _name(config.layer_size)

    def __init__(
        self,
        reduction_factor: float,
        language_size: int,
        layer_size: int | None,
        activation: str,
        leave_out_last: int,
        typology: str | None,
    ) -> None:
        self.name = _name(layer_size)
        self.reduction_factor, self.activation, self.leave_out_last = reduction_factor, activation, leave_out_last
        self.language_size, self.layer_size, self.path = language_size, layer_size, typology
        self._task_method: Bottleneck | None = None
        self._projections: list[tuple[Tensor, Tensor]] = []
        self._vector: Tensor | None = None

    def language_faults(self, languages: Iterable[str]) -> list[str]:
        typology = load_typology(self.path)
        return [typology.fault(language) for language in sorted(set(languages)) if language not in typology]

    def check_model(self, model: TransferModel, *, adapts_language: bool) -> None:
        adapter_sites(find_blocks(model), "feed_forward", self.leave_out_last)
        inner_size(model, model.hidden_size, self.reduction_factor, "reduction_factor")

    def attach(self, model: TransferModel, phase: Phase, setting: Setting) -> None:
        if not setting.adapts_language:
            self._task_method = Bottleneck(
                self.name, self.reduction_factor, "feed_forward", self.activation, False, 1, self.leave_out_last, "zero"
            )
            self._task_method.attach(model, phase, setting)
            return
        self._typology, self._languages = load_typology(self.path), setting.languages
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self._total = model.pretrained_parameters
        self._sites = adapter_sites(find_blocks(model), "feed_forward", self.leave_out_last)
        size, features = model.hidden_size, len(self._typology.features)
        bottleneck = inner_size(model, size, self.reduction_factor, "reduction_factor")
        self._network = AdapterGenerator(
            features, len(self._sites), size, bottleneck, self.language_size, self.layer_size
        )
        self._network.draw(setting.random(_NAME), self._typology.ones())
        wide = torch.promote_types(next(model.backbone.parameters()).dtype, torch.float32)
        self._network.to(device=model.device, dtype=wide)
        model.adapters[_NAME] = self._network
        modules = dict(model.named_modules())
        for number, (path, placement) in enumerate(self._sites.items()):
            insert(modules[path], placement, self._adapter(number), below=True)

    def trainable(self) -> dict[str, nn.Parameter]:
        if self._task_method is not None:
            return self._task_method.trainable()
        return {f"adapters.{_NAME}.{name}": parameter for name, parameter in self._network.named_parameters()}

    def language(self, code: str) -> None:
        if self._task_method is None:
            self._vector = self._typology.vectors([code])[0].to(self._network.embed)

    def write(self, base: Mapping[str, Tensor] | None = None) -> None:
        self._projections = []  # computed again when they are needed

    def loss(self, model: TransferModel, batch: Mapping[str, Tensor], loss: Callable[..., Tensor]) -> Tensor:
        if self._vector is not None:
            self._generate(self._vector)  # before the blocks run, because checkpointing may run them twice
        return loss(model, batch)

    def _generate(self, vector: Tensor) -> None:
        with torch.autocast(vector.device.type, enabled=False):
            self._projections = self._network(vector)

    def export(self, model: TransferModel, header: ModuleHeader) -> ModuleArtefact:
        if self._task_method is not None:
            return self._task_method.export(model, header)
        network, features = copy.deepcopy(self._network).cpu(), self._typology.features
        codes = self._languages if len(self._languages) == 1 else self._typology.languages
        table = self._typology.vectors(codes).bool()
        header = dataclasses.replace(header, kind=Generator.kind)
        generator = Generator(header, network, self._sites, self.activation, features, codes, table)
        return generator.for_language(codes[0]) if len(codes) == 1 else generator

    def report(self) -> ModuleReport:
        if self._task_method is not None:
            return self._task_method.report()
        tuned = sum(parameter.numel() for parameter in self._network.parameters())
        return {"tuned_entries": tuned, "density": tuned / self._total}

    def _adapter(self, number: int) -> Callable[[Tensor], Tensor]:
        def adapter(hidden: Tensor) -> Tensor:
            if self._vector is None:  # the engine has announced no language yet
                return torch.zeros_like(hidden)
            if not self._projections:
                self._generate(self._vector)
            down, up = self._projections[number]
            return functional.linear(ACTIVATIONS[self.activation](functional.linear(hidden.to(down), down)), up)

        return adapter


def _name(layer_size: int | None) -> str:
    """The method's name: MAD-G-LS has vectors of layers."""
    return "mad_g" if layer_size is None else "mad_g_ls"
