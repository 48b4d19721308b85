"""The parts of a schema: keys with help and range, and the function that finds all faults of a config."""

from __future__ import annotations

import copy
import dataclasses
import math
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from xlt.errors import UsageError
from xlt.repositories import module_path

_LARGEST_INT = 2**63 - 1
_LARGEST_FLOAT = 3.4028234e38
_LONGEST_VALUE = 300

QUOTE_IT = "must be text; YAML reads yes, no, on, off, true and false as booleans, so put the text in quotes"


def key(
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
    file: bool = False,
    module: bool = False,
    name: bool = False,
    hint: str = "",
    recipe: bool = False,
    no_module: str = "",
    known_by: str = "",
) -> Any:
    """Declares a required config key with its line of help and its range.

    Args:
        help: one line for the reader of the schema.
        low, high: inclusive bounds of a number.
        above: exclusive lower bound.
        choices: the allowed strings.
        file: the value is a local path that must exist.
        module: the value is a module file, which must exist, or the name of a repository of the hub that has one.
        name: the value is a name, or a list of at least one name in which none is repeated. A name is not empty, and
            has no blanks at its ends and no control characters.
        hint: added to the message when the value is out of range ("thesis range 0.0025 to 0.08").
        recipe: only for keys of a method: the value depends on the task. The language runs of a task run take the
            other keys of the method from it, but this key from the recipe of their own task (conf/recipes).
        no_module: why no value of the key can change the module that a run makes. A key with a reason is not part of
            the run's identity; every other key is.
        known_by: what the identity contains instead of the value: for example the content of a file, or the
            fingerprint of a run.
    """
    metadata = dict(help=help, low=low, high=high, above=above, choices=choices, file=file, name=name, hint=hint)
    origin = dict(module=module, recipe=recipe, no_module=no_module, known_by=known_by)
    return field(default=MISSING, metadata=metadata | origin)


def optional(help: str, default: Any, **rules: Any) -> Any:
    """Declares a config key that a file may omit, with its default; see `key` for its range."""
    return field(default_factory=lambda: copy.deepcopy(default), metadata=key(help, **rules).metadata)


@dataclass(frozen=True)
class RunFacts:
    """Facts about a run, by which a schema decides which of its keys the run does not use.

    The schema's method `unused(self, facts: RunFacts)` yields the names of these keys.

    Attributes:
        adapts_language: the run makes a language module, not a task module.
        has_head: a head is trained on top of the pre-trained model.
        validates_at_random: each validation batch is drawn at random, as the masks of masked language modelling are.
    """

    adapts_language: bool
    has_head: bool
    validates_at_random: bool


def used_keys(config: Any, facts: RunFacts | None = None) -> list[str]:
    """Returns the keys of a config object whose values are part of a run's identity, in order.

    Args:
        config: an instance of a schema dataclass.
        facts: about the run; needed only if the schema has a method `unused`.
    """
    unused = set(config.unused(facts)) if hasattr(config, "unused") else set()
    return [
        item.name
        for item in dataclasses.fields(config)
        if item.name not in unused and not item.metadata.get("no_module") and not item.metadata.get("known_by")
    ]


@lru_cache(maxsize=1024)
def fields_of(kind: Any) -> tuple[dataclasses.Field[Any], ...]:
    """Returns the fields of a dataclass; none if it is another class. A large table asks a million times."""
    return dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()


def faults(config: Any, prefix: str = "") -> Iterator[str]:
    """Yields a line for every fault of a composed config object: ranges, choices, missing files, contradictions.

    Args:
        config: an instance of a schema dataclass, or any value that may contain one.
        prefix: key of the object in the whole config.
    """
    if isinstance(config, dict):
        for name, value in config.items():
            yield from faults(value, f"{prefix}.{name}" if prefix else str(name))
        return
    if isinstance(config, (list, tuple)):
        for number, value in enumerate(config):
            yield from faults(value, f"{prefix}[{number}]")
        return
    if (fault := _number_fault(config)) is not None:
        yield f"{prefix}={_shown(config)}: {fault}"
        return
    kind: Any = type(config)
    broken = False
    for item in fields_of(kind):
        name = f"{prefix}.{item.name}" if prefix else item.name
        value = getattr(config, item.name, MISSING)
        if isinstance(value, str) and value == MISSING:
            broken = True
            yield f"{name}: a value is required ({item.metadata.get('help', 'see conf/')}); give {name}=..."
        elif (fault := _range_fault(value, item.metadata)) is not None:
            broken = True
            yield f"{name}={_shown(value)}: {fault}"
        elif value is not None and type(value) not in (str, bool):
            yield from faults(value, name)
    if not broken and dataclasses.is_dataclass(kind) and hasattr(config, "faults"):
        yield from config.faults(prefix)


def _range_fault(value: Any, rules: Any) -> str | None:
    if value is None or not rules:
        return None
    hint = f"; {rules['hint']}" if rules["hint"] else ""
    if rules["choices"] is not None and value not in rules["choices"]:
        return f"must be one of {', '.join(rules['choices'])}"
    if isinstance(value, int) and (fault := _number_fault(value)) is not None:
        return f"{fault}{hint}"  # before the comparisons, because it is too large for a float
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high, above = rules["low"], rules["high"], rules["above"]
        inside = (low is None or value >= low) and (high is None or value <= high) and (above is None or value > above)
        if not inside:  # true for NaN as well, because every comparison with NaN is false
            if low is None and above is None:
                return f"must be at most {high}{hint}"
            left = f"({above}" if above is not None else f"[{low}"
            return (
                f"must be in {left}, {high}]{hint}"
                if high is not None
                else (f"must be above {above}{hint}" if above is not None else f"must be at least {low}{hint}")
            )
        if (fault := _number_fault(value)) is not None:
            return f"{fault}{hint}"
    if rules["file"] and not Path(str(value)).expanduser().exists():
        return "no such file"
    if rules["module"]:
        return module_fault(str(value))
    if rules["name"]:
        return _names_fault([str(name) for name in value]) if isinstance(value, list) else name_fault(value)
    return None


def module_fault(path: str) -> str | None:
    """Returns why there is no module file of a path or of the name of a repository; None if there is one."""
    try:
        file = module_path(path)
    except UsageError as error:
        return error.lines[0].removeprefix(f"{path}: ")
    if file.is_dir():
        return "is a folder; give the .safetensors file in it"
    return None if file.exists() else "no such file; a module is a .safetensors file that a run left, or ORG/NAME"


def _number_fault(value: Any) -> str | None:
    """Returns why a value is a number that torch could not hold; None if it is no number, or a usual one."""
    if isinstance(value, int) and abs(value) > _LARGEST_INT:
        return f"must be at most {_LARGEST_INT}, as an integer of 64 bits is"
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if isinstance(value, float) and abs(value) > _LARGEST_FLOAT:
        return f"must be at most {_LARGEST_FLOAT:.3g}, as a number of float32 is"
    return None


def _shown(value: Any) -> str:
    """Returns a value for a message; a long one, such as an integer of thousands of digits, is cut."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST_INT:
        return f"an integer of {value.bit_length()} bits"
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def name_fault(name: str) -> str | None:
    """Returns why a text is no name for module files, tables and dashboards; None if it is one."""
    if not name.strip():
        return "empty; give a name"
    if name != name.strip():
        return "must have no blanks at its ends"
    controls = any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in name)
    return "must have no line breaks or other control characters" if controls else None


def _names_fault(names: list[str]) -> str | None:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        return f"{', '.join(map(repr, repeated))} more than once; each must be another one"
    faults = (f"{name!r} {fault}" for name in names if (fault := name_fault(name)) is not None)
    return next(faults, None if names else "empty; give at least one")
