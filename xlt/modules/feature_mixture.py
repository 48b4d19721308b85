"""The module of FLix (Lin et al., 2024): low-rank deltas for each feature of an example, such as task and language."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from xlt.config.data import LANGUAGE, TASK
from xlt.modules.artefact import ModuleArtefact, ModuleHeader, Undo, check_values
from xlt.modules.low_rank import LowRankDelta


@dataclasses.dataclass(frozen=True)
class Feature:
    """A kind of feature, such as `language`.

    Attributes:
        name: of the feature.
        rank: of the deltas of each of its values; 0: it has none.
        values: the known values, such as languages, in the order of the factors.
    """

    name: str
    rank: int
    values: tuple[str, ...]


def known_values(features: Sequence[Feature], asked: Mapping[str, str]) -> dict[str, str]:
    """Returns name -> value of the features that have deltas, for an example with some features.

    The task must be known, because nothing can stand in for it. An unknown value of another feature, such as a new
    language, has no deltas: then the other features' deltas alone are used (Lin et al., 2024, §3.2).

    Args:
        features: of the module.
        asked: name -> value, of the example.
    Raises:
        ValueError: a feature's name or the task is unknown, or the task is not given, or no feature has deltas.
    """
    by_name = {feature.name: feature for feature in features}
    names = ", ".join(by_name)
    for name, value in asked.items():
        if name not in by_name:
            raise ValueError(f"{name}={value}: there is no feature of this name; there are {names}")
    task = by_name.get(TASK)
    if task is not None and task.rank and asked.get(TASK) not in task.values:
        given = f"{TASK}={asked[TASK]}: this task is unknown" if TASK in asked else f"{TASK}: not given"
        raise ValueError(f"{given}; the known ones are {', '.join(task.values)}")
    known = {
        name: asked[name]
        for name, feature in by_name.items()
        if feature.rank and name in asked and asked[name] in feature.values
    }
    if not known:
        given = ", ".join(f"{name}={value}" for name, value in asked.items()) or "none"
        raise ValueError(f"no deltas for these features ({given}); there are deltas for values of {names}")
    return known


def several_values(features: Sequence[Feature]) -> str | None:
    """Returns why deltas of these features are no single module; None if every feature with deltas has one value."""
    several = [feature for feature in features if feature.rank and len(feature.values) > 1]
    names = "; ".join(f"{feature.name}: {', '.join(feature.values)}" for feature in several)
    return f"it has deltas for several features ({names:.200}), of which each example has its own" if several else None


class FeatureMixture(ModuleArtefact):
    """A module with low-rank deltas for each value of each feature: W(x) = W0 + sum_i f_i(x) B_i A_i (Eq. 2).

    `for_features(task="ner", language="hau")` returns the `LowRankDelta` of examples with these features, which can be
    applied, composed and stored as any other module. The mixture itself can be applied only if each feature has one
    value, so that all examples have the same features.

    Args:
        header: of kind "feature_mixture".
        features: the features, at least one of them with a rank above 0.
        factors: name of a weight (rows, columns) -> for each feature with a rank above 0, by name, A (values, rank,
            columns) and B (values, rows, rank).
        tensors: name -> fully trained tensor.
    Raises:
        ValueError: the header's kind is wrong, a name is there twice, shapes do not fit, or a value is not finite.
    """

    kind: ClassVar[str] = "feature_mixture"

    def __init__(
        self,
        header: ModuleHeader,
        features: Sequence[Feature],
        factors: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]],
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        if header.kind != self.kind:
            raise ValueError(f"kind={header.kind!r}: the header of this module must have kind {self.kind!r}")
        _check_features(features)
        ranked = {feature.name: feature for feature in features if feature.rank}
        for weight, by_name in factors.items():
            if by_name.keys() != ranked.keys():
                raise ValueError(f"{weight!r} has factors of {sorted(by_name)}: they must be of {sorted(ranked)}")
            sizes = set()
            for name, (a, b) in by_name.items():
                count, rank = len(ranked[name].values), ranked[name].rank
                if a.dim() != 3 or b.dim() != 3 or a.shape[:2] != (count, rank) or b.shape[::2] != (count, rank):
                    raise ValueError(
                        f"{weight!r} has for {name} factors A of shape {tuple(a.shape)} and B of {tuple(b.shape)}: "
                        f"they must be ({count}, {rank}, columns) and ({count}, rows, {rank})"
                    )
                sizes.add((b.shape[1], a.shape[2]))
                check_values({f"A of {name} for {weight}": a, f"B of {name} for {weight}": b})
            if len(sizes) > 1:
                raise ValueError(f"{weight!r} has factors for weights of shapes {sorted(sizes)}: they must be equal")
        check_values(tensors or {})
        self.header, self.features = header, tuple(features)
        self.factors = {
            weight: {name: (a.detach(), b.detach()) for name, (a, b) in by_name.items()}
            for weight, by_name in factors.items()
        }
        self.tensors = {name: tensor.detach() for name, tensor in (tensors or {}).items()}

    def __repr__(self) -> str:
        about = ", ".join(f"{len(f.values)} of {f.name} (rank {f.rank})" for f in self.features)
        return f"<{self.header}: {about}; {len(self.factors)} weights, {len(self.tensors)} fully trained tensors>"

    def for_features(self, **features: str) -> LowRankDelta:
        """Returns the module for examples with some features.

        Args:
            features: name -> value. The task must be a known one. An unknown value of another feature has no deltas.
        Raises:
            ValueError: see `known_values`.
        """
        try:
            known = known_values(self.features, features)
        except ValueError as error:
            raise ValueError(f"{self.header}: {error}") from error
        places = {feature.name: feature.values for feature in self.features}
        numbers = {name: places[name].index(value) for name, value in known.items()}
        factors = {
            weight: (
                torch.cat([by_name[name][0][number] for name, number in numbers.items()]),
                torch.cat([by_name[name][1][number] for name, number in numbers.items()], dim=1),
            )
            for weight, by_name in self.factors.items()
        }
        provenance = {**self.header.provenance, "features": known}
        header = dataclasses.replace(self.header, kind=LowRankDelta.kind, provenance=provenance)
        return LowRankDelta(header, factors, 1.0, self.tensors)

    def for_language(self, language: str) -> ModuleArtefact:
        """Returns the module of a language, if this is no task module.

        Raises:
            ValueError: the language is unknown, or another feature has several values.
        """
        if self.header.task is not None:
            return self
        others = {feature.name: feature.values[0] for feature in self.features if feature.name != LANGUAGE}
        several = [f.name for f in self.features if f.rank and f.name != LANGUAGE and len(f.values) > 1]
        languages = next((feature.values for feature in self.features if feature.name == LANGUAGE), ())
        if several or language not in languages:
            about = f"several values of {several[0]}" if several else f"deltas for {', '.join(languages) or 'none'}"
            raise ValueError(f"{self.header} cannot be the module of language {language}: it has {about}")
        module = self.for_features(**others, **{LANGUAGE: language})
        module.header = dataclasses.replace(module.header, language=language)
        return module

    def whole_fault(self) -> str | None:
        return several_values(self.features)

    def check(self, model: nn.Module) -> None:
        self._only().check(model)

    def write_into(self, model: nn.Module) -> Undo:
        return self._only().write_into(model)

    def to_tensors(self, value_dtype: torch.dtype | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns layout and tensors.

        The layout has name, rank and values of each feature. The tensors are `a:NUMBER:WEIGHT` and `b:NUMBER:WEIGHT`,
        with the number of the feature, and `whole:NAME`.
        """
        numbers = {feature.name: number for number, feature in enumerate(self.features)}
        tensors = {f"whole:{name}": tensor for name, tensor in self.tensors.items()}
        for weight, by_name in self.factors.items():
            for name, pair in by_name.items():
                for role, factor in zip("ab", pair, strict=True):
                    stored = factor if value_dtype is None else factor.to(value_dtype)
                    tensors[f"{role}:{numbers[name]}:{weight}"] = stored
        layout = [{"name": f.name, "rank": f.rank, "values": list(f.values)} for f in self.features]
        return {"features": layout}, tensors

    @classmethod
    def from_tensors(cls, header: ModuleHeader, layout: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        features = [Feature(one["name"], one["rank"], tuple(one["values"])) for one in layout["features"]]
        whole, parts = {}, dict[str, dict[str, dict[str, Tensor]]]()
        for key, tensor in tensors.items():
            role, _, rest = key.partition(":")
            if role == "whole":
                whole[rest] = tensor
                continue
            number, _, weight = rest.partition(":")
            if role not in ("a", "b"):
                raise ValueError(f"tensor {key!r} is unknown: names must begin with a, b or whole")
            parts.setdefault(weight, {}).setdefault(features[int(number)].name, {})[role] = tensor
        factors = {
            weight: {name: (pair["a"], pair["b"]) for name, pair in by_name.items()}
            for weight, by_name in parts.items()
        }
        return cls(header, features, factors, whole)

    def _only(self) -> LowRankDelta:
        """Returns the module of the only combination of features there is.

        Raises:
            ValueError: a feature has several values.
        """
        if (fault := several_values(self.features)) is not None:
            raise ValueError(f"{self.header}: {fault}; apply the module that for_features(NAME=VALUE, ...) returns")
        return self.for_features(**{feature.name: feature.values[0] for feature in self.features if feature.values})


def _check_features(features: Sequence[Feature]) -> None:
    """Checks names, ranks and values of the features of a module, which may come from a file.

    Raises:
        ValueError: one of them is none, or is there twice.
    """
    names = [feature.name for feature in features]
    for feature in features:
        words = (feature.name, *feature.values)
        if not all(isinstance(word, str) and word for word in words):
            raise ValueError(f"feature {feature.name!r} has the values {feature.values!r}: all must be names")
        if not isinstance(feature.rank, int) or isinstance(feature.rank, bool) or feature.rank < 0:
            raise ValueError(f"feature {feature.name!r} has rank {feature.rank!r}: it must be an integer of at least 0")
        if not feature.values or len(set(feature.values)) < len(feature.values):
            raise ValueError(f"feature {feature.name!r} has no value, or one twice: {', '.join(feature.values)}")
    if len(set(names)) < len(names) or not any(feature.rank for feature in features):
        raise ValueError(f"features {', '.join(names) or 'none'}: none may be there twice, and one must have a rank")
