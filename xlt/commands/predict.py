"""Annotates texts with modules.

    xlt predict pos.safetensors swa.safetensors --input story.txt
    xlt predict pos.safetensors --input in.conllu --output out.conllu
    cat questions.jsonl | xlt predict runs/4f1c... --from jsonl --to jsonl

MODULES are task modules, language modules, or folders of runs, or the names of repositories of the hub
(ORG/NAME[@REVISION]); their headers say which task, model and language they are for. The labels of the input, if it has
some, are not looked at, and stay where the task does not write.

Formats of the input: text (a sentence on each line), words (the same, split at blanks), conllu, conll, jsonl, tsv, csv,
squad. The ending of a file says the format. CoNLL-U and CoNLL stay as they are, byte for byte, but for the columns of
the task; tags that CoNLL-U has no column for are in MISC (`NER=B-PER`), and labels of sentences in a comment (`# topic
= politics`). Tables and JSON lines get new columns or keys with the name of the task.

An output file has its name when it is complete, and replaces none that exists unless --replace is given. If the command
is killed, the same command continues it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from xlt.commands.ending import guarded, refuse
from xlt.commands.options import Options

_INPUTS = ("text", "words", "conllu", "conll", "jsonl", "tsv", "csv", "squad")
_OUTPUTS = ("conllu", "conll", "jsonl", "tsv", "csv", "text")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    options = parser().parse(arguments)
    guarded(lambda: carry_out(options))


def carry_out(options: argparse.Namespace) -> int:
    """Predicts; returns the exit code.

    Raises:
        UsageError, ModuleFileError, Interrupted: as `xlt.use.predict.predict`.
    """
    from xlt.escapes import say
    from xlt.use.predict import PredictSettings, predict

    settings = PredictSettings(
        modules=options.modules,
        input=options.input,
        output=options.output,
        replace=options.replace,
        language_modules=dict(pairs(options.language_module, "--language-module", "CODE=FILE")),
        model=options.model,
        revision=options.revision,
        task=options.task,
        settings=tuple(options.set),
        input_format=getattr(options, "from"),
        output_format=options.to,
        fields=dict(pairs(options.field, "--field", "PART=COLUMN")),
        language=language_of(options.language, "--language"),
        language_field=options.language_field,
        into=language_of(options.into, "--into"),
        separator={"tab": "\t"}.get(options.separator, options.separator),
        scores=options.scores,
        batch_size=options.batch_size,
        most_new_tokens=options.max_new_tokens,
        precision=options.precision,
        device=options.device,
        threads=options.threads,
        quiet=options.quiet,
        composition=options.composition,
    )
    report = predict(settings)
    if not options.quiet:
        new = report.examples - report.done_before
        before = f", {report.done_before} had been done before" if report.done_before else ""
        rate = f", {new / report.seconds:.3g} a second" if report.seconds > 0 else ""
        say(f"{new} {'example' if new == 1 else 'examples'} in {report.seconds:.1f} s{rate}{before}")
    return 0


def parser() -> Options:
    """Returns the parser of the command's options."""
    options = Options("predict", str(__doc__))
    options.add_argument("modules", nargs="+", metavar="MODULE", help="module file, folder of a run, or ORG/NAME")
    add_model_options(options)
    text = options.add_argument_group("texts")
    text.add_argument("--input", "-i", default="-", metavar="FILE", help="default: standard input (-)")
    text.add_argument("--output", "-o", default="-", metavar="FILE", help="default: standard output (-)")
    add_replace_option(text)
    text.add_argument("--from", choices=_INPUTS, metavar="FORMAT", help="format of the input; see above")
    text.add_argument("--to", choices=_OUTPUTS, metavar="FORMAT", help=f"format of the output: {', '.join(_OUTPUTS)}")
    add_reading_options(text)
    text.add_argument("--into", metavar="CODE", help="language into which a translator translates")
    text.add_argument("--scores", action="store_true", help="write a score into tables, too, as into jsonl")
    text.add_argument("--max-new-tokens", type=int, metavar="N", help="longest text that a decoder writes")
    text.add_argument("--quiet", "-q", action="store_true", help="show no progress and no summary")
    return options


def add_replace_option(group: argparse._ActionsContainer) -> None:
    """Adds the option without which no command replaces a file that exists."""
    group.add_argument("--replace", action="store_true", help="replace the output file if it exists")


def add_reading_options(text: argparse._ArgumentGroup) -> None:
    """Adds the options that say what the columns of a text are."""
    text.add_argument(
        "--field", action="append", default=[], metavar="PART=COLUMN",
        help="column of words, text, pair, ...; for conll, also of the task's labels, by number (words=0 ner=-1)",
    )  # fmt: skip
    text.add_argument("--language", "-l", metavar="CODE", help="language of all texts, for language modules")
    text.add_argument(
        "--language-field", metavar="COLUMN",
        help="column or key with the language of each text; in conllu a comment # COLUMN = CODE",
    )  # fmt: skip
    text.add_argument("--separator", metavar="C", help="between the cells of a table: one character, or tab")


def add_composition_option(group: argparse._ActionsContainer) -> None:
    """Adds the option that says how the given modules are combined."""
    group.add_argument(
        "--composition", metavar="NAME",
        help="how modules are combined: a file of conf/composition, or {operator: ..., of: [language, task]}",
    )  # fmt: skip


def add_model_options(options: Options) -> None:
    """Adds the options that say which model and which modules are used."""
    model = options.add_argument_group("model")
    model.add_argument(
        "--language-module", action="append", default=[], metavar="CODE=FILE",
        help="module of a language, also one of another language, or a generator",
    )  # fmt: skip
    add_composition_option(model)
    model.add_argument("--model", metavar="FOLDER", help="base model, if it is not where the header says")
    model.add_argument("--revision", help="of a base model on the hub")
    model.add_argument("--task", metavar="NAME", help="one of several tasks; or a file of conf/task, for old modules")
    model.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="setting of the task, such as max_length=128"
    )
    model.add_argument("--batch-size", type=int, default=32, metavar="N", help="default: 32")
    model.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="default: fp32")
    model.add_argument("--device", default="auto", help="cpu, cuda, cuda:N, auto, cuda:0+cuda:1")
    model.add_argument("--threads", type=int, metavar="N", help="number of torch threads")


def pairs(words: Sequence[str], option: str, form: str) -> Iterator[tuple[str, str]]:
    """Yields the two sides of each KEY=VALUE; refuses other words, and a key that comes twice."""
    seen = set()
    for word in words:
        name, sign, value = word.partition("=")
        if not (name and sign and value):
            refuse([f"{option} {word}: must have the form {form}"])
        if name in seen:
            refuse([f"{option} {word}: {name} is given twice; give it once"])
        seen.add(name)
        yield name, value


def language_of(code: str | None, option: str) -> str | None:
    """Returns the code given for an option, if it is that of a language; refuses others."""
    from xlt.languages import language_fault

    if code is not None and (fault := language_fault(code)) is not None:
        refuse([f"{option}={code}: {fault}"])
    return code
