"""Computes one module from several.

    xlt merge average SEED1 SEED2 SEED3 --output pos.safetensors
    xlt merge sum FAO ISL --weights 0.7,0.3 --output nordic.safetensors
    xlt merge minus TASK OTHER --output without.safetensors
    xlt merge layers TASK LANGUAGE --first 4 --last 7 --output new.safetensors
    xlt merge weighted A B --weights '*.layer.[0-5].*=1,0;*=1,1' --output w.st
    xlt merge ties A B C --density 0.5 --output merged.safetensors
    xlt merge dare A B --drop 0.9 --seed 1 --output merged.safetensors

The modules are of one kind and one base model: sparse deltas, low-rank deltas, or adapters (of which there are only
averages and `layers`). `layers` takes the blocks from --first to --last, counted from 0, from the first module, and
everything else from the second; --transition blocks on either side are mixed. `ties` keeps the share --density of each
module's entries and averages those of the elected sign; `dare` drops entries with probability --drop and rescales the
others; `weighted` is a sum whose weights depend on the names of tensors. A head is taken from the one module that has
it; heads of several are averaged if all runs began with one (start=head_first), because independent heads have no
average. The output is a module file like any other: predict, evaluate and export take it, and so do
language_modules.paths and task_modules.paths.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from xlt.commands.ending import guarded
from xlt.commands.options import Options
from xlt.commands.predict import add_replace_option
from xlt.errors import UsageError
from xlt.writers import remove_left_overs

if TYPE_CHECKING:
    from xlt.modules import ModuleArtefact


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    keys = _keys()
    parser = Options("merge", str(__doc__))
    parser.add_argument("operator", choices=tuple(keys), metavar="OPERATOR", help=", ".join(keys))
    parser.add_argument("modules", nargs="+", metavar="MODULE", help="module file, folder of a run, or ORG/NAME")
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="FILE", help="new module file")
    add_replace_option(parser)
    for name, of in _by_key(keys).items():
        about = f"of {', '.join(of)}: {keys[of[0]][name].metadata['help']}"
        parser.add_argument(f"--{name}", type=_value, metavar=name[0].upper(), help=about)
    options = parser.parse(arguments)
    guarded(lambda: merge(options))


def merge(options: argparse.Namespace) -> int:
    """Reads, computes and writes; returns the exit code.

    Raises:
        UsageError, ModuleFileError: the options contradict each other, or the modules cannot be combined.
    """
    if faults := list(_faults(options)):
        raise UsageError(*faults)
    from xlt.data.streams import stream
    from xlt.files import file_digest
    from xlt.modules.composition.expression import computed, operation, operators
    from xlt.use.loading import read_module

    names = [f"module {number}" for number in range(1, len(options.modules) + 1)]
    given = {name: getattr(options, name) for name in _keys()[options.operator] if getattr(options, name) is not None}
    if isinstance(given.get("weights"), (int, float)):
        given["weights"] = [given["weights"]]
    whole = operation({"operator": options.operator, "of": names, **given}, options.operator)
    used = [read_module(path) for path in options.modules]
    seen: dict[str, int] = {}
    for number, one in enumerate(used):
        if (first := seen.setdefault(file_digest(one.path), number)) != number:
            twin = options.modules[first]
            raise UsageError(f"{options.modules[number]}: the same module as {twin}; give each once")
    modules = [one.module for one in used]
    _check_labels(modules[: operators()[options.operator].SCHEMA.heads], options.modules)
    try:
        module = computed(whole, dict(zip(names, modules, strict=True)), stream)
        learned = {code for one in modules if one.header.task == module.header.task for code in _languages(one)}
        if learned and options.operator != "minus":
            module.header.provenance["languages"] = sorted(learned)
        module.check_storable()
    except ValueError as error:
        raise UsageError(f"merge {error}") from error
    remove_left_overs(options.output.absolute().parent)
    module.save(options.output)
    print(f"{module!r} -> {options.output}")
    return 0


def _languages(module: ModuleArtefact) -> list[str]:
    return [str(code) for code in module.header.provenance.get("languages") or ()]


def _check_labels(modules: Sequence[ModuleArtefact], paths: Sequence[str]) -> None:
    """Refuses heads of one task whose labels differ, also in their order; a mean of them would mean nothing."""
    first: dict[str | None, tuple[str, list[Any]]] = {}
    for path, module in zip(paths, modules, strict=False):
        labels = module.header.provenance.get("labels")
        if labels and getattr(module, "tensors", {}):
            where, known = first.setdefault(module.header.task, (path, list(labels)))
            if known != list(labels):
                theirs, ours = (", ".join(map(str, one)) for one in (labels, known))
                raise UsageError(
                    f"{path}: its head has the different labels {theirs:.80}; that of {where} has {ours:.80}"
                )


def _keys() -> dict[str, dict[str, dataclasses.Field[Any]]]:
    """Returns operator -> name -> key of its schema, for all operators whose value is one module."""
    from xlt.modules.composition.expression import operators

    return {
        name: {item.name: item for item in dataclasses.fields(file.SCHEMA) if item.name not in ("operator", "of")}
        for name, file in operators().items()
        if hasattr(file, "compute")
    }


def _by_key(keys: dict[str, dict[str, dataclasses.Field[Any]]]) -> dict[str, list[str]]:
    """Returns name of a key -> the operators that have it."""
    by_key: dict[str, list[str]] = {}
    for operator, own in keys.items():
        for name in own:
            by_key.setdefault(name, []).append(operator)
    return by_key


def _value(text: str) -> Any:
    """Reads a number, numbers with commas between them, or PATTERN=NUMBERS;PATTERN=NUMBERS."""
    if "=" in text:
        parts = [part.rpartition("=") for part in text.split(";")]
        return {pattern: [_number(word, text) for word in numbers.split(",")] for pattern, _, numbers in parts}
    numbers = [_number(word, text) for word in text.split(",")]
    return numbers if "," in text else numbers[0]


def _number(word: str, text: str) -> int | float:
    try:
        return int(word) if word.lstrip("-").isdigit() else float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: must be numbers with commas between them, as 0.7,0.3") from None


def _faults(options: argparse.Namespace) -> Iterator[str]:
    from xlt.modules.composition.expression import operators
    from xlt.use.output import output_fault

    keys = _keys()
    own = keys[options.operator]
    for name in _by_key(keys):
        given = getattr(options, name) is not None
        if name in own and own[name].default == MISSING and not given:
            yield f"--{name}: missing; {options.operator} needs it"
        elif given and name not in own:
            takes = ", ".join(f"--{one}" for one in own) or "none of its own"
            yield f"--{name}: not an option of {options.operator}, which takes {takes}"
    count = operators()[options.operator].SCHEMA.count
    if count not in (None, len(options.modules)):
        yield f"{options.operator}: takes {count} modules, but {len(options.modules)} are given"
    if (fault := output_fault(options.output, replace=options.replace)) is not None:
        yield f"--output={options.output}: {fault}"
