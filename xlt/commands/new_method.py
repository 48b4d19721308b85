"""Writes the files of a new method: one Python file, one YAML file, and a test.

    xlt new-method top_layers                  # into the folder top_layers
    xlt new-method top_layers --folder mine    # into another, with its methods
    xlt new-method top_layers --package        # also what installs it

The folder is a plug-in: `xlt --plugins FOLDER experiment=nano_fields method=NAME` trains the method at once, and
`pytest FOLDER` tests it. The method is an example, which trains the top blocks of the model: change it into yours. If
the folder is installed (`pip install ./FOLDER`, with --package), the method needs no option. No file is overwritten.
"""

from __future__ import annotations

import argparse
import keyword
import re
from collections.abc import Sequence
from pathlib import Path

from xlt.commands.ending import guarded
from xlt.commands.options import Options
from xlt.errors import UsageError
from xlt.files import atomic_text
from xlt.plug_ins import fault_of_name

_METHOD = """\
from dataclasses import dataclass

from xlt.config import key
from xlt.methods.dense import DenseMethod, tunable_names
from xlt.models.sublayers import outermost_blocks


@dataclass
class {Name}Config:
    _target_: str = "xlt.methods.{name}.{Name}"
    layers: int = key("how many blocks are trained, counted from the top", low=1)


SCHEMA = {Name}Config  # the keys of method={name}


class {Name}(DenseMethod):
    name = "{name}"

    def __init__(self, layers):
        self.layers = layers

    def attach(self, model, phase, setting):  # called before training: choose what is trained
        blocks = outermost_blocks(model.backbone)[-self.layers :]
        top = {{id(parameter) for block in blocks for parameter in block.parameters()}}
        parameters = dict(model.named_parameters())
        names = tunable_names(model, adapts_language=setting.adapts_language, freeze_layer_norm=False)
        self.train_tensors(model, [name for name in names if id(parameters[name]) in top])  # freezes all others
"""
_CONFIG = """\
defaults: [base_{name}, _self_]
layers: 2
"""
_TEST = '''\
"""Trains a tiny model with method {name} for three steps, and looks at the module that it leaves."""

from pathlib import Path

import pytest
import torch

import xlt
from xlt.config import RandomModelConfig
from xlt.models.loading import load_pretrained, random_pretrained, save_checkpoint
from xlt.models.vocabulary import train_tokenizer
from xlt.plug_ins import use_plug_ins

PLUG_IN = Path(__file__).parent.parent
LINES = [f"the cat sat on mat number {{number}}" for number in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a text and a tiny model of three blocks."""
    folder = tmp_path_factory.mktemp("{name}")
    (folder / "text.txt").write_text("\\n".join(LINES) + "\\n", encoding="utf-8")
    shape = RandomModelConfig("bert", 3, 32, 2, 64, 64, 300, dropout=0.0)
    tokenizer = train_tokenizer(LINES, shape.vocabulary)
    save_checkpoint(random_pretrained(shape, tokenizer, seed=1), tokenizer, folder / "model")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """A finished run: a language module, learned from the text."""
    use_plug_ins([str(PLUG_IN)])
    return xlt.train(
        "experiment=language",
        "language=eng",
        "method={name}",
        "recipe=nano_language",
        f"model.path={{folder / 'model'}}",
        f"data.sources.text.path={{folder / 'text.txt'}}",
        f"output_dir={{folder / 'outputs'}}",
        "task.max_length=32",
        "train.max_steps=3",
        "tracker=silent",
        "device=cpu",
    )


def test_the_module_changes_what_the_method_trains_and_is_removed_bit_for_bit(folder, run):
    model = load_pretrained(str(folder / "model"))
    before = {{name: parameter.detach().clone() for name, parameter in model.named_parameters()}}
    stack = xlt.ModuleStack(model)
    stack.set([xlt.load_module(run.module)])
    after = {{name: parameter for name, parameter in model.named_parameters() if name in before}}
    moved = {{name for name, parameter in after.items() if not torch.equal(parameter, before[name])}}
    assert moved
    assert not any("layer.0." in name for name in moved)  # the lowest block is not trained
    stack.set([])
    assert all(torch.equal(parameter, before[name]) for name, parameter in after.items())
'''
_PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "xlt-{project}"
version = "0.1.0"
description = "A plug-in of xlt"
requires-python = ">=3.11"
dependencies = ["xlt"]

[project.entry-points."xlt.plug_ins"]
{package} = "{package}"

[tool.setuptools]
packages = ["{package}"]
package-dir = {{ {package} = "." }}

[tool.setuptools.package-data]
{package} = ["methods/*.py", "tasks/*.py", "readers/*.py", "transforms/*.py", "figures/*.py", "conf/*/*.yaml"]
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = Options("new-method", str(__doc__))
    parser.add_argument("name", metavar="NAME", help="of the method: lower-case letters, digits and _")
    parser.add_argument("--folder", type=Path, help="of the plug-in; default: NAME")
    parser.add_argument("--package", action="store_true", help="also write pyproject.toml, so that it can be installed")
    options = parser.parse(arguments)
    guarded(lambda: write_method(options))


def write_method(options: argparse.Namespace) -> int:
    """Writes the files and says how to use them; returns the exit code.

    Raises:
        UsageError: the name cannot be a method's, or a file exists; then nothing is written.
    """
    from xlt.console import Terminal

    name, folder = str(options.name), Path(options.folder or options.name).expanduser()
    if (fault := _name_fault(name)) is not None:
        raise UsageError(f"{name}: {fault}")
    files = files_of_method(name)
    if options.package:
        files["pyproject.toml"] = _project(folder)
        files["__init__.py"] = ""
    if there := [str(folder / path) for path in files if (folder / path).exists()]:
        raise UsageError(
            *(f"{file}: exists, and no file is overwritten; give another NAME or --folder" for file in there)
        )
    if (wrong := next((path for path in (folder, *folder.parents) if path.exists()), None)) and not wrong.is_dir():
        raise UsageError(f"--folder={folder}: {wrong} is no folder")
    console = Terminal()
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_text(folder / path) as file:
            file.write(text)
        console.print(f"{folder / path}", soft_wrap=True)
    place = folder if folder.is_absolute() else f"./{folder}"  # pip takes a bare word for a name in a registry
    use = f"pip install {place}; xlt" if options.package else f"xlt --plugins {folder}"
    console.print(f"\ntrain it:  {use} experiment=nano_fields method={name}", soft_wrap=True)
    console.print(f"test it:   pytest {folder}", soft_wrap=True)
    return 0


def files_of_method(name: str) -> dict[str, str]:
    """Returns path in the plug-in's folder -> text, for the files of a new method."""
    values = {"name": name, "Name": "".join(word.capitalize() for word in name.split("_"))}
    return {
        f"methods/{name}.py": _METHOD.format(**values),
        f"conf/method/{name}.yaml": _CONFIG.format(**values),
        f"tests/test_{name}.py": _TEST.format(**values),
    }


def _project(folder: Path) -> str:
    package = re.sub(r"[^0-9a-z]+", "_", folder.absolute().name.lower()).strip("_")
    package = f"xlt_{package}" if not package.startswith("xlt_") else package
    return _PROJECT.format(package=package, project=package.removeprefix("xlt_").replace("_", "-"))


def _name_fault(name: str) -> str | None:
    """Returns why a method cannot have this name; None if it can."""
    if re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) is None or keyword.iskeyword(name):
        return "not a name of a method; give lower-case letters, digits and _, a letter first: top_layers"
    return fault_of_name("methods", name)
