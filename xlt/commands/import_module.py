"""Converts published modules to our format, and our adapters to AdapterHub's.

    xlt import FOLDER --model MODEL --language swa --output swa.safetensors
    xlt import DIFF.bin --model MODEL --task ner --output ner.safetensors
    xlt import swa.safetensors --model MODEL --name swa --output FOLDER

FOLDER can also be a repository of the hub, ORG/NAME or ORG/NAME@REVISION.

The input's format decides what happens. A folder with `adapter_config.json` is an adapter of AdapterHub or a LoRA of
peft; `pytorch_diff.bin` (DIFF.bin above, or a folder with it) is a sparse fine-tuning of composable-sft. They become a
module file. One of our own module files becomes a folder that the `adapters` library loads. Nothing is unpickled.

MODEL must be the base model that the module was trained on. Neither published format names it, and a module file can be
used with no other base model afterwards. For instance:

    xlt experiment=pos +language_modules.paths.swa=swa.safetensors ...
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from xlt.commands.ending import guarded
from xlt.commands.options import Options
from xlt.commands.predict import add_replace_option
from xlt.errors import UsageError
from xlt.languages import language_fault
from xlt.repositories import is_repository, published_folder
from xlt.writers import remove_left_overs


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = Options("import", str(__doc__))
    parser.add_argument(
        "given", type=Path, help="folder, file or repository of a published module, or one of our module files"
    )
    parser.add_argument("--model", required=True, help="folder or hub id of the base model")
    parser.add_argument("--revision", help="of a hub model: branch, tag or commit")
    parser.add_argument("--language", help="ISO 639-3 code of a language module's language")
    parser.add_argument("--task", help="name of a task module's task")
    parser.add_argument("--name", help="the adapter's name at AdapterHub; required to write one")
    parser.add_argument(
        "--without-head",
        action="store_true",
        help="leave out a task head, which AdapterHub's format cannot hold, and which peft's may have",
    )
    parser.add_argument("--output", type=Path, required=True, help="module file, or folder for AdapterHub's format")
    add_replace_option(parser)
    options = parser.parse(arguments)
    guarded(lambda: convert(options))


def convert(options: argparse.Namespace) -> int:
    """Reads, converts and writes a module; returns the exit code.

    Raises:
        UsageError, ModuleFileError: the options contradict each other, or the input cannot be converted.
    """
    from xlt.engine.peft_folders import is_peft
    from xlt.engine.published import read_published
    from xlt.models.loading import load_pretrained, quiet_libraries
    from xlt.models.sublayers import find_blocks
    from xlt.modules import load_module, write_adapter_hub
    from xlt.modules.adapter import Adapter
    from xlt.use.model_faults import check_revision

    ours = options.given.is_file() and options.given.suffix == ".safetensors"
    if faults := list(_faults(options, ours)):
        raise UsageError(*faults)
    check_revision(options.model, options.revision)
    if is_repository(str(options.given)):
        options.given = published_folder(str(options.given))
    if options.without_head and not ours and not is_peft(options.given):
        raise UsageError(f"--without-head: has no effect: {options.given} is no folder of peft, nor one of our modules")
    remove_left_overs(options.output.absolute().parent)
    quiet_libraries()
    if ours:
        module = load_module(options.given)
        if not isinstance(module, Adapter):
            raise UsageError(
                f"{options.given}: {module.header} is not an adapter; AdapterHub's format holds adapters only"
            )
        model = load_pretrained(options.model, options.revision)
        write_adapter_hub(
            module,
            options.output,
            name=options.name,
            model=model,
            blocks=find_blocks(model),
            without_head=options.without_head,
        )
    else:
        module = read_published(
            options.given,
            load_pretrained(options.model, options.revision),
            language=options.language,
            task=options.task,
            without_head=options.without_head,
        )
        module.save(options.output)
    print(f"{module!r} -> {options.output}")
    return 0


def _faults(options: argparse.Namespace, ours: bool) -> list[str]:
    """One line for each fault of the options; called before a model is loaded."""
    from xlt.use.output import output_fault, output_folder_fault

    lines = []
    if not options.given.exists() and not is_repository(str(options.given)):
        lines.append(f"{options.given}: no such file or folder")
    elif ours and options.name is None:
        lines.append(f"{options.given}: one of our modules; give --name, the adapter's name at AdapterHub")
    elif not ours and (options.language is None) == (options.task is None):
        lines.append(f"{options.given}: give either --language or --task; the file does not say what the module is for")
    idle = {"language": options.language, "task": options.task} if ours else {"name": options.name}
    kind = "one of our modules, which says it" if ours else "no module of ours; only AdapterHub's format has a name"
    lines += [f"--{name}: has no effect: {options.given} is {kind}" for name, value in idle.items() if value]
    if options.language is not None and (fault := language_fault(options.language)) is not None:
        lines.append(f"--language={options.language}: {fault}")
    if ours:
        fault = output_folder_fault(options.output)
        if options.replace:
            lines.append("--replace: AdapterHub's format is a folder, and no folder is replaced; remove it first")
    elif options.output.is_dir():
        fault = f"this is a folder; give a file, for instance {options.output}/swa.safetensors"
    else:
        fault = output_fault(options.output, replace=options.replace)
    if fault is not None:
        lines.append(f"--output={options.output}: {fault}")
    return lines
