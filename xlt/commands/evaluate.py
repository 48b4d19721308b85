"""Scores modules on labelled data.

    xlt evaluate pos.safetensors fao.safetensors --input fao=test.conllu
    xlt evaluate pos.safetensors --source ud_fao data_dir=DATA

MODULES are task modules, language modules, or folders of runs, as for xlt predict. Data are labelled files (--input) or
data sets of conf/source (--source), of which the test split is read. Words with = are overrides of the data sets:
`data_dir=DATA`, `data.evaluation.ud_eng.split=dev`. Files can also be outputs of xlt predict, for instance with
corrections: tags in MISC of CoNLL-U, labels in comments, or in a column with the name of the task.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from xlt.commands.ending import guarded
from xlt.commands.options import Options
from xlt.commands.predict import add_model_options, add_replace_option, language_of, pairs


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    options = parser().parse(arguments)
    guarded(lambda: carry_out(options))


def carry_out(options: argparse.Namespace) -> int:
    """Evaluates and prints the scores; returns the exit code.

    Raises:
        UsageError, ModuleFileError: as `xlt.use.evaluate.evaluate`.
    """
    from xlt.compose import command_line
    from xlt.errors import UsageError
    from xlt.files import write_json
    from xlt.use.evaluate import EvaluateSettings, as_table, evaluate
    from xlt.use.output import output_fault

    modules = [word for word in options.modules if "=" not in word]
    overrides = [word for word in options.modules if "=" in word]
    if not modules:
        raise UsageError("MODULE: give the file of a task module, or the folder of a run")
    if options.output is not None:
        fault = output_fault(Path(options.output), replace=options.replace)
        if fault is not None:
            raise UsageError(f"--output={options.output}: {fault}")
    settings = EvaluateSettings(
        modules=modules,
        inputs=options.input,
        sources=options.source,
        overrides=overrides,
        predictions=options.predictions,
        replace=options.replace,
        language_modules=dict(pairs(options.language_module, "--language-module", "CODE=FILE")),
        model=options.model,
        revision=options.revision,
        task=options.task,
        settings=tuple(options.set),
        input_format=getattr(options, "from"),
        fields=dict(pairs(options.field, "--field", "PART=COLUMN")),
        language=options.language,
        language_field=options.language_field,
        into=language_of(options.into, "--into"),
        separator=options.separator,
        batch_size=options.batch_size,
        precision=options.precision,
        device=options.device,
        threads=options.threads,
        composition=options.composition,
    )
    with command_line(overrides):
        scores = evaluate(settings)
    if options.json:
        print(json.dumps([dataclasses.asdict(one) for one in scores], ensure_ascii=False))
    else:
        print("\n".join(as_table(scores)))
    if options.output is not None:
        write_json(Path(options.output), [dataclasses.asdict(one) for one in scores])
    return 0


def parser() -> Options:
    """Returns the parser of the command's options."""
    options = Options("evaluate", str(__doc__))
    options.add_argument(
        "modules", nargs="+", metavar="MODULE", help="module file, or folder of a run; KEY=VALUE is an override"
    )
    add_model_options(options)
    data = options.add_argument_group("data")
    data.add_argument(
        "--input", "-i", action="append", default=[], metavar="[CODE=]FILE", help="labelled file, with its language"
    )
    data.add_argument("--source", action="append", default=[], metavar="NAME", help="data set: a file of conf/source")
    data.add_argument(
        "--from", choices=("conllu", "conll", "jsonl", "tsv", "csv", "squad"), metavar="FORMAT",
        help="format of the files: conllu, conll, jsonl, tsv, csv, squad",
    )  # fmt: skip
    data.add_argument(
        "--field", action="append", default=[], metavar="PART=COLUMN",
        help="column of words, text, pair, label, or of the labels of words",
    )  # fmt: skip
    data.add_argument("--language", "-l", metavar="CODE", help="language of all files, and of data sets of many")
    data.add_argument(
        "--language-field", metavar="COLUMN",
        help="column or key with the language of each example; in conllu a comment # COLUMN = CODE",
    )  # fmt: skip
    data.add_argument("--into", metavar="CODE", help="language into which a translator translates")
    data.add_argument("--separator", metavar="C", help="between the cells of csv: one character, or tab")
    data.add_argument("--predictions", metavar="FILE", help="JSON lines: gold and predicted, for each example")
    data.add_argument("--output", "-o", metavar="FILE", help="JSON file for the scores")
    add_replace_option(data)
    data.add_argument("--json", action="store_true", help="print the scores as JSON")
    return options
