"""The sum of modules with weights for kinds of tensors, such as those of some layers or of all attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from xlt.config.schema import key
from xlt.modules.artefact import ModuleArtefact
from xlt.modules.composition.arithmetic import combine, names_of, weights_of
from xlt.modules.composition.expression import LINEAR, OperatorConfig


@dataclass
class WeightedConfig(OperatorConfig):
    """Schema of the operator `weighted`."""

    takes = LINEAR

    operator: str = "weighted"
    weights: dict[str, Any] = key("pattern of names of tensors -> a weight for each module; the first that fits counts")

    def faults(self, prefix: str) -> Iterator[str]:
        yield from super().faults(prefix)
        for pattern, weights in self.weights.items():
            numbers = isinstance(weights, list) and all(_is_number(weight) for weight in weights)
            if not numbers or len(weights) != len(self.of):
                needed = f"{len(self.of)} numbers, one for each module"
                yield f"{prefix}.weights.{pattern}={weights}: must be a list of {needed}"
        if not any(weight != 0 for weights in self.weights.values() if isinstance(weights, list) for weight in weights):
            yield f"{prefix}.weights={self.weights}: nothing would be left; give a weight that is not 0"


SCHEMA = WeightedConfig


def weighted(modules: Sequence[ModuleArtefact], weights: Mapping[str, Sequence[float]]) -> ModuleArtefact:
    """Computes the sum of modules, with weights that depend on the name of a tensor or on the path of an adapter.

    Args:
        modules: at least one, all of one kind and base model.
        weights: pattern of names, as of files (`*.layer.[0-5].*`, `*attention*`, `*`) -> a weight for each module. Of
            the patterns that a name fits, the first counts.
    Raises:
        ValueError: see `sum_deltas`; or a name fits no pattern, or a pattern is that of no name.
    """
    by_pattern = {pattern: weights_of(modules, of_modules) for pattern, of_modules in weights.items()}
    names = list(dict.fromkeys(name for module in modules for name in names_of(module)))
    chosen = {name: next((pattern for pattern in by_pattern if fnmatchcase(name, pattern)), None) for name in names}
    if without := [name for name, pattern in chosen.items() if pattern is None]:
        raise ValueError(f"no pattern fits {without[0]!r}; '*' fits all names")
    if unused := [pattern for pattern in by_pattern if pattern not in chosen.values()]:
        raise ValueError(f"pattern {unused[0]!r} has no tensor; the modules change {', '.join(names[:3])}, ...")

    def factor(number: int, name: str) -> float:
        pattern = chosen.get(name) or next((one for one in by_pattern if fnmatchcase(name, one)), None)
        if pattern is None:  # a head, or an invertible adapter
            raise ValueError(f"no pattern fits {name!r}; '*' fits all names")
        return by_pattern[pattern][number]

    return combine(modules, factor, "weighted", {"weights": by_pattern})


compute = weighted


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
