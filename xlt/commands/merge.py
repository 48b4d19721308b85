"""Computes one module from several.

    xlt merge average SEED1 SEED2 SEED3 --output pos.safetensors
    xlt merge sum FAO ISL --weights 0.7,0.3 --output nordic.safetensors
    xlt merge minus TASK OTHER --output without.safetensors
    xlt merge layers TASK LANGUAGE --first 4 --last 7 --output new.safetensors
    xlt merge ties A B C --density 0.5 --output merged.safetensors
    xlt merge dare A B --drop 0.9 --seed 1 --output merged.safetensors

The modules are of one kind and one base model: sparse deltas, low-rank deltas, or adapters (of which there are only
averages and `layers`). `layers` takes the blocks from --first to --last, counted from 0, from the first module, and
everything else from the second; --transition blocks on either side are mixed. `ties` keeps the share --density of each
module's entries and averages those of the elected sign; `dare` drops entries with probability --drop and rescales the
others. A head is taken from the one module that has it; heads of several are averaged if all runs began with one module
(start.run), because independent heads have no average. The output is a module file like any other: predict, evaluate
and export take it, and so do language_modules.paths and task_modules.paths.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xlt.commands.ending import guarded
from xlt.commands.options import Options
from xlt.errors import UsageError
from xlt.writers import remove_left_overs


class _Operator(NamedTuple):
    """What an operator takes.

    Attributes:
        needed, further: names of options.
        modules: how many there must be; None: one or more.
    """

    needed: tuple[str, ...] = ()
    further: tuple[str, ...] = ()
    modules: int | None = None


_OPERATORS = {
    "sum": _Operator(further=("weights",)),
    "average": _Operator(),
    "minus": _Operator(modules=2),
    "layers": _Operator(needed=("first", "last"), further=("transition",), modules=2),
    "ties": _Operator(further=("density", "weights")),
    "dare": _Operator(needed=("drop",), further=("seed", "weights")),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = Options("merge", str(__doc__))
    parser.add_argument("operator", choices=tuple(_OPERATORS), metavar="OPERATOR", help=", ".join(_OPERATORS))
    parser.add_argument("modules", nargs="+", metavar="MODULE", help="module file, folder of a run, or ORG/NAME")
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="FILE", help="new module file")
    parser.add_argument("--weights", type=_numbers, metavar="W,W,...", help="of sum, ties, dare: one for each module")
    parser.add_argument("--first", type=int, metavar="N", help="of layers: the first block of the first module")
    parser.add_argument("--last", type=int, metavar="N", help="of layers: the last block of the first module")
    parser.add_argument("--transition", type=int, metavar="N", help="of layers: mixed blocks on either side; default 0")
    parser.add_argument("--density", type=float, metavar="D", help="of ties: share of entries that is kept; default 1")
    parser.add_argument("--drop", type=float, metavar="P", help="of dare: probability that an entry is dropped")
    parser.add_argument("--seed", type=int, metavar="N", help="of dare: of its draws; default 0")
    options = parser.parse(arguments)
    guarded(lambda: merge(options))


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: must be numbers with commas between them, as 0.7,0.3") from None


def merge(options: argparse.Namespace) -> int:
    """Reads, computes and writes; returns the exit code.

    Raises:
        UsageError, ModuleFileError: the options contradict each other, or the modules cannot be combined.
    """
    if faults := list(_faults(options)):
        raise UsageError(*faults)
    from xlt.use.loading import read_module

    modules = [read_module(path).module for path in options.modules]
    try:
        module = _compute(options)(modules)
        module.check_storable()
    except ValueError as error:
        raise UsageError(f"merge {options.operator}: {error}") from error
    remove_left_overs(options.output.absolute().parent)
    module.save(options.output)
    print(f"{module!r} -> {options.output}")
    return 0


def _faults(options: argparse.Namespace) -> Iterator[str]:
    operator = _OPERATORS[options.operator]
    takes = (*operator.needed, *operator.further)
    for name in dict.fromkeys(name for one in _OPERATORS.values() for name in (*one.needed, *one.further)):
        given = getattr(options, name) is not None
        if name in operator.needed and not given:
            yield f"--{name}: missing; {options.operator} needs it"
        elif given and name not in takes:
            yield f"--{name}: not an option of {options.operator}, which takes {_listed(takes)}"
    if operator.modules is not None and len(options.modules) != operator.modules:
        yield f"{options.operator}: takes {operator.modules} modules, but {len(options.modules)} are given"
    if options.output.exists():
        yield f"--output={options.output}: exists already; give a new file"
    elif not options.output.parent.is_dir():
        yield f"--output={options.output}: there is no folder {options.output.parent}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"--{name}" for name in names) or "none of its own"


def _compute(options: argparse.Namespace) -> Callable[[Sequence[Any]], Any]:
    from xlt.data.streams import stream
    from xlt.modules import composition

    if options.operator == "minus":
        return lambda modules: composition.minus(modules[0], modules[1])
    if options.operator == "layers":
        first, last, transition = options.first, options.last, options.transition or 0
        return lambda modules: composition.layers(modules[0], modules[1], first, last, transition)
    if options.operator == "average":
        return composition.average
    if options.operator == "ties":
        density = 1.0 if options.density is None else options.density
        return functools.partial(composition.ties, density=density, weights=options.weights)
    if options.operator == "dare":
        random = functools.partial(stream, options.seed or 0)
        return functools.partial(composition.dare, drop=options.drop, random=random, weights=options.weights)
    return functools.partial(composition.sum_deltas, weights=options.weights)
