"""Writes modules for other libraries.

    xlt export pos.safetensors swa.safetensors --output swahili-tagger
    xlt export lora.safetensors --to peft --output folder
    xlt export pos.safetensors --to plain --output pos-plain.safetensors
    xlt export swa.safetensors --to composable-sft --output pytorch_diff.bin

--to transformers (the default) merges the base model and the modules into a checkpoint with the class of the task, its
labels, and the tokenizer; `pipeline` of transformers loads it; --composition combines the modules otherwise than as
their sum. --to peft writes LoRA and (IA)^3 modules as a folder of
the peft library. --to composable-sft writes a sparse delta as pytorch_diff.bin of that library, and --to plain as a
safetensors file of indices and values, which docs/module_file.md describes. --to hub uploads a module with a model card
to a repository (--output ORG/NAME), and --to card only writes the card, made from the module's header and the files of
its run. `xlt import` writes adapters in AdapterHub's format.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from xlt.commands.ending import guarded
from xlt.commands.options import Options
from xlt.commands.predict import add_composition_option, add_replace_option, pairs


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    options = parser().parse(arguments)
    guarded(lambda: carry_out(options))


def carry_out(options: argparse.Namespace) -> int:
    """Exports and says what was written; returns the exit code.

    Raises:
        UsageError, ModuleFileError: as `xlt.use.export.export`.
    """
    from xlt.use.export import ExportSettings, export

    settings = ExportSettings(
        modules=options.modules,
        output=options.output,
        to=options.to,
        language=options.language,
        language_modules=dict(pairs(options.language_module, "--language-module", "CODE=FILE")),
        model=options.model,
        revision=options.revision,
        task=options.task,
        settings=tuple(options.set),
        replace=options.replace,
        composition=options.composition,
    )
    print(export(settings))
    return 0


def parser() -> Options:
    """Returns the parser of the command's options."""
    options = Options("export", str(__doc__))
    options.add_argument("modules", nargs="+", metavar="MODULE", help="module file, folder of a run, or ORG/NAME")
    options.add_argument("--output", "-o", required=True, metavar="PATH", help="new folder; with --to plain a file")
    add_replace_option(options)
    options.add_argument(
        "--to",
        choices=(formats := ("transformers", "peft", "composable-sft", "plain", "hub", "card")),
        default="transformers",
        metavar="FORMAT",
        help=f"{', '.join(formats[:-1])} or {formats[-1]}, see above",
    )
    options.add_argument("--language", "-l", metavar="CODE", help="language whose module is merged")
    options.add_argument(
        "--language-module", action="append", default=[], metavar="CODE=FILE",
        help="module of a language, also one of another language, or a generator",
    )  # fmt: skip
    add_composition_option(options)
    options.add_argument("--model", metavar="FOLDER", help="base model, if it is not where the header says")
    options.add_argument("--revision", help="of a base model on the hub")
    options.add_argument("--task", metavar="NAME", help="one of several tasks; or a file of conf/task, for old modules")
    options.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="setting of the task, such as max_length=128"
    )
    return options
