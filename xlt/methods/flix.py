"""FLix, featurized low-rank mixtures (Lin et al., 2024): each example uses the low-rank deltas of its own features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xlt.config import RunFacts, key
from xlt.config.data import LANGUAGE
from xlt.errors import UsageError
from xlt.methods.feature_deltas import OFF, ActiveDeltas, Site, split_by_layer
from xlt.methods.method import (
    Method,
    MicroBatch,
    ModuleReport,
    Phase,
    Setting,
    chosen_linear_layers,
    head_parameters,
    refuse_large_rank,
    trained_head,
)
from xlt.models.sublayers import layers_that_read_no_examples
from xlt.models.transfer import TransferModel
from xlt.modules import Feature, FeatureMixture, ModuleArtefact, ModuleHeader
from xlt.modules.feature_mixture import known_values, several_values

_NAME = "features"


@dataclass
class FlixConfig:
    """Settings of FLix."""

    _target_: str = "xlt.methods.flix.Flix"
    ranks: dict[str, int] = key("feature -> rank of the deltas of each of its values; 0: none", recipe=True)
    rank: int = key("rank of the features that `ranks` does not name", low=0)
    zero_factor: str = key("the factor that starts at zero; the other one is drawn", choices=("a", "b"))
    layers: list[str] = key("ends of the names of the blocks' linear layers to adapt, such as query; empty: all")
    feature_dropout: float = key("probability that a feature of an example is off, in training only", low=0, high=1)
    drop_by: str = key(
        "example: each feature of each example is on or off by itself; batch: alike for all of a step",
        choices=("example", "batch"),
    )
    keep_one: bool = key("turn one feature of an example on again, drawn at random, if all would be off")

    def unused(self, facts: RunFacts) -> Iterator[str]:
        """Yields the keys about dropped features if none is dropped."""
        if self.feature_dropout == 0:
            yield from ("drop_by", "keep_one")

    def faults(self, prefix: str) -> Iterator[str]:
        for name, rank in self.ranks.items():
            if rank < 0:
                yield f"{prefix}.ranks.{name}={rank}: must be at least 0"
        if not self.rank and not any(self.ranks.values()):
            yield f"{prefix}.ranks: every rank is 0, so there is nothing to train; give {prefix}.ranks.task=4"
        if self.feature_dropout == 1 and not self.keep_one:
            yield f"{prefix}.feature_dropout=1: every feature is always off; give a smaller one, or keep_one=true"


SCHEMA = FlixConfig


class Flix(Method):
    """A method that trains deltas for each value of each feature: W(x) = W0 + sum_i f_i(x) B_i A_i (Eq. 2).

    The sum is over the features of the example x: its task, its language, and what else its source names. A factor of
    each pair starts at zero, and there is no scale alpha / rank. W(x) itself is never formed. If all examples of a
    batch have the same features, their factors are joined, which costs what LoRA of the sum of their ranks costs;
    otherwise each example gets its own joined factors (a batched product of the same size).

    The values of a feature are those of the training sources. Each value's factors, of all layers together, are one
    flat trainable tensor (in each layer first A, (rank, in), then B, (out, rank)). A value that no example of a step
    uses has no gradient in it: the optimiser changes neither the tensor nor its own state for it, also with weight
    decay.

    Feature dropout (§3.1; 0.7 in §4): each feature of each example of a step is off with this probability, by itself,
    and nothing is rescaled (the paper says no more). With `drop_by=example`, a value that n examples of a step have
    loses the step with probability 0.7 ** n; with `drop_by=batch` it loses 70% of the steps.
    """

    name = "flix"
    leaves = FeatureMixture

    def __init__(
        self,
        ranks: Mapping[str, int],
        rank: int,
        zero_factor: str,
        layers: Sequence[str],
        feature_dropout: float,
        drop_by: str,
        keep_one: bool,
    ) -> None:
        self.ranks, self.rank, self.zero_factor, self.layers = dict(ranks), rank, zero_factor, tuple(layers)
        self.feature_dropout, self.drop_by, self.keep_one = feature_dropout, drop_by, keep_one
        self._active: ActiveDeltas | None = None
        self._untouched: Collection[str] = ()

    def check_model(self, model: TransferModel, *, adapts_language: bool) -> None:
        layers = chosen_linear_layers(self.name, model, self.layers)
        ranks = {f"method.ranks.{name}": rank for name, rank in self.ranks.items()} | {"method.rank": self.rank}
        for given, rank in ranks.items():
            refuse_large_rank(f"{given}={rank}", rank, layers, model)
        if wrong := [name for name in layers_that_read_no_examples(model) if name in layers]:
            ends = dict.fromkeys(name.removesuffix(".weight").rpartition(".")[2] for name in wrong)
            raise UsageError(
                f"method={self.name}: the layers {', '.join(ends)} of model {model.base_name} read positions, which "
                "are the same for all examples; name other layers in method.layers"
            )

    def feature_faults(self, learned: Iterable[Mapping[str, str]], asked: Mapping[str, Mapping[str, str]]) -> list[str]:
        learned = list(learned)
        features = self._features(learned)
        names = {feature.name for feature in features}
        lines = [
            f"method.ranks.{name}: no training source has this feature; they have {', '.join(sorted(names))}"
            for name in self.ranks
            if name not in names
        ]
        if not any(feature.rank for feature in features):
            lines.append(f"method.ranks: every rank of {', '.join(sorted(names))} is 0, so there is nothing to train")
            return lines
        everywhere = {f.name for f in features if f.rank and all(f.name in one for one in learned)} - {LANGUAGE}
        for source, described in asked.items():
            lines += [
                f"{source}.features: no {name}, which every training source has; name it (a new value has no deltas)"
                for name in sorted(everywhere - described.keys())
            ]
            try:
                known_values(features, described)
            except ValueError as error:
                lines.append(f"{source}: {error}")
        return lines

    def whole_fault(self, learned: Iterable[Mapping[str, str]]) -> str | None:
        return several_values(self._features(learned))

    def attach(self, model: TransferModel, phase: Phase, setting: Setting) -> None:
        self.check_model(model, adapts_language=setting.adapts_language)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("head."))
        self._head, self._total = head_parameters(model), model.pretrained_parameters
        self._known = self._features(setting.described)
        layers = chosen_linear_layers(self.name, model, self.layers)
        self._sites = [Site.of(weight, layer) for weight, layer in layers.items()]
        values = [(feature, value) for feature in self._known if feature.rank for value in feature.values]
        self._number = {(feature.name, value): number for number, (feature, value) in enumerate(values)}
        self._rank_of = [feature.rank for feature, _ in values]
        wide = torch.promote_types(next(model.backbone.parameters()).dtype, torch.float32)
        self._flat = nn.ParameterList(
            self._initial(feature.rank, setting.random(_NAME, feature.name, value)).to(model.device, wide)
            for feature, value in values
        )
        model.adapters[_NAME] = self._flat
        for number, site in enumerate(self._sites):
            site.layer.register_forward_hook(self._hook(number))

    def trainable(self) -> dict[str, nn.Parameter]:
        return {**{_tensor_name(number): flat for number, flat in enumerate(self._flat)}, **self._head}

    def examples(self, described: Sequence[Mapping[str, str]], part: MicroBatch | None = None) -> None:
        names = [feature.name for feature in self._known if feature.rank]
        known = [known_values(self._known, one) for one in described]
        numbers = torch.tensor([[self._number.get((name, one.get(name, "")), OFF) for name in names] for one in known])
        if part is not None:
            numbers = self._dropped(numbers.expand(part.count, -1), part.random)
            used = set(numbers.unique().tolist())
            self._untouched = {_tensor_name(number) for number in range(len(self._flat)) if number not in used}
            numbers = numbers[list(part.rows)]
        self._active = ActiveDeltas(numbers, self._factors)

    def loss(self, model: TransferModel, batch: Mapping[str, Tensor], loss: Callable[..., Tensor]) -> Tensor:
        value = loss(model, batch)
        # If all features of a micro-batch are off and there is no head, nothing that is trained has a gradient.
        return value if value.requires_grad else value + torch.zeros_like(value, requires_grad=True)

    def untouched(self) -> Collection[str]:
        return self._untouched

    @torch.no_grad()
    def export(self, model: TransferModel, header: ModuleHeader) -> ModuleArtefact:
        factors: dict[str, dict[str, tuple[Tensor, Tensor]]] = {site.weight: {} for site in self._sites}
        for feature in self._known:
            if not feature.rank:
                continue
            values = [self._factors(self._number[feature.name, value]) for value in feature.values]
            for number, site in enumerate(self._sites):
                a, b = (torch.stack([one[2 * number + side] for one in values]).cpu() for side in (0, 1))
                # The weight of a transposed layer is (in, out), and so is its delta, (B A)^T.
                pair = (b.transpose(1, 2), a.transpose(1, 2)) if site.transposed else (a, b)
                factors[site.weight][feature.name] = pair
        header = dataclasses.replace(header, kind=FeatureMixture.kind)
        return FeatureMixture(header, self._known, factors, trained_head(model))

    def report(self) -> ModuleReport:
        tuned = sum(flat.numel() for flat in self._flat)
        return {"tuned_entries": tuned, "density": tuned / self._total}

    def _features(self, described: Iterable[Mapping[str, str]]) -> list[Feature]:
        """Returns the features of all training sources with their ranks; names and values are sorted."""
        values: dict[str, set[str]] = {}
        for one in described:
            for name, value in one.items():
                values.setdefault(name, set()).add(value)
        return [Feature(name, self.ranks.get(name, self.rank), tuple(sorted(values[name]))) for name in sorted(values)]

    def _initial(self, rank: int, generator: torch.Generator) -> Tensor:
        """Returns the first factors of a value, those of all layers in one flat tensor.

        One factor is zero. The entries of the other are uniform within 1 / sqrt(n), where its vectors have n entries
        (those of A as many as the layer has inputs, those of B as many as it has outputs), as LoRA's A in peft.
        """
        parts = []
        for site in self._sites:
            for factor, shape, entries in zip("ab", site.shapes(rank), (site.inputs, site.outputs), strict=True):
                drawn = (2 * torch.rand(shape, generator=generator) - 1) * entries**-0.5
                parts.append(torch.zeros(shape) if factor == self.zero_factor else drawn)
        return torch.cat([part.reshape(-1) for part in parts])

    def _dropped(self, numbers: Tensor, random: torch.Generator) -> Tensor:
        """Turns features of a step's examples off, and returns their numbers again, with `OFF` where one is off.

        Args:
            numbers: (examples, features) int64, the number of each example's value, `OFF` where it has none.
            random: generator at the beginning of the step's stream.
        """
        if self.feature_dropout == 0:
            return numbers
        if self.drop_by == "example":
            off = torch.rand(numbers.shape, generator=random) < self.feature_dropout
            order = torch.rand(numbers.shape, generator=random)
        else:
            of_value = torch.rand(len(self._flat), generator=random) < self.feature_dropout
            off = of_value[numbers.clamp(min=0)]
            order = torch.rand(numbers.shape[1], generator=random).expand(numbers.shape)
        if self.keep_one:
            none_on = (off | (numbers == OFF)).all(1)
            kept = order.masked_fill(numbers == OFF, -1).argmax(1)
            off[none_on, kept[none_on]] = False
        return numbers.masked_fill(off, OFF)

    def _factors(self, number: int) -> list[Tensor]:
        return split_by_layer(self._flat[number], self._sites, self._rank_of[number])

    def _hook(self, number: int) -> Any:
        def add(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output if self._active is None else self._active.add_to(output, arguments[0], number)

        return add


def _tensor_name(number: int) -> str:
    """Returns the name of the trainable tensor of a value of a feature."""
    return f"adapters.{_NAME}.{number}"
