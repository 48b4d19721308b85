"""The `xlt` command called from an empty folder, small data and input files for it, and a tiny table."""

from __future__ import annotations

import logging
import pickle
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from xlt.commands.cli import main
from xlt.compose import compose, hydra_ready
from xlt.models.loading import load_pretrained
from xlt.models.vocabulary import train_tokenizer
from xlt.modules import Entries, ModuleHeader, SparseDelta

TREEBANKS = {
    "eng": "UD_English-EWT",
    "sme": "UD_North_Sami-Giella",
    "myv": "UD_Erzya-JR",
    "glv": "UD_Manx-Cadhan",
    "bam": "UD_Bambara-CRB",
    "fao": "UD_Faroese-FarPaHC",
}
TEXTS = {"eng": "en", "sme": "sme", "myv": "myv", "glv": "gv", "bam": "bm", "fao": "fo"}


# A recipe that has nothing by method: with LT-SFT the dense phase is as long as the other.
_TINY = [
    "recipe=nano_distil",
    "train.max_steps=4",
    "train.evaluate_every_steps=2",
    "train.batch_size=8",
    "threads=1",
]
_MODEL = [
    *_TINY,
    "model.random.layers=1",
    "model.random.hidden_size=32",
    "model.random.heads=2",
    "model.random.intermediate_size=64",
    "model.random.vocabulary=400",
    "data.held_out_fraction=0.1",
]
_LANGUAGE = [*_TINY, "data.sources.text.cap=30"]
_KEPT = {"eng", "fao"}
_TWO_STEPS = "train: {max_steps: 2, evaluate_every_steps: 1}\n"
_WEIGHT = "backbone.encoder.layer.0.attention.self.query.weight"
_EXPERIMENT = """\
# @package _global_
defaults:
  - /source@data.sources.eng: ud_eng
  - /source@data.validation.eng: ud_eng
  - /source@data.evaluation.fao: ud_fao
  - override /tracker: silent
{choices}
  - _self_
experiment_name: {name}
task: {{max_length: 40}}
data:
  validation: {{eng: {{split: dev}}}}
  evaluation: {{fao: {{split: test}}}}
device: cpu
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, what it printed, and what it left in the folder it was called from."""

    code: int
    out: str
    lines: list[str]
    left: list[str]


def write_treebank(file: Path, sentences: int = 8, tag: str = "NOUN") -> None:
    """A CoNLL-U file of three-word sentences."""
    file.parent.mkdir(parents=True, exist_ok=True)
    blocks = []
    for number in range(sentences):
        words = [("the", "DET"), (f"cat{number}", tag), ("sat", "VERB")]
        blocks.append("".join(f"{i}\t{w}\t_\t{t}\t_\t_\t0\t_\t_\t_\n" for i, (w, t) in enumerate(words, start=1)))
    file.write_text("\n".join(blocks) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Treebanks and text as experiment=pos wants them, a few sentences each."""
    folder = tmp_path_factory.mktemp("data")
    for language, treebank in TREEBANKS.items():
        for split in ("train", "dev", "test"):
            file = folder / "ud" / treebank / f"{language}_x-ud-{split}.conllu"
            write_treebank(file)
            # Splits of one content would be taken for one split.
            file.write_text(f"# {split}\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "mono").mkdir()
    for code in TEXTS.values():
        text = "".join(f"the {code} cat sat on mat {number}\n" for number in range(20))
        (folder / "mono" / f"{code}.txt").write_text(text, encoding="utf-8")
    return folder


def write_experiment(configs: Path, name: str, choices: Sequence[str], settings: str) -> Path:
    """Writes an experiment of POS from English, evaluated on Faroese, to a folder of configs.

    Args:
        configs: the folder, for `--config-dir`; made if it does not exist.
        name: of the experiment.
        choices: further lines of its defaults list, as `override /method: bitfit`.
        settings: further YAML.
    Returns:
        `configs`.
    """
    folder = configs / "experiment"
    folder.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(f"  - {choice}" for choice in choices)
    (folder / f"{name}.yaml").write_text(_EXPERIMENT.format(name=name, choices=lines) + settings, encoding="utf-8")
    return configs


@pytest.fixture(scope="session")
def input_files(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, data_dir: Path) -> dict[str, Path]:
    """Good and bad files and folders, by the names that tests of wrong input give them in braces."""
    folder = tmp_path_factory.mktemp("inputs")
    files: dict[str, Path] = {"data": data_dir, "model": tiny_bert, "configs": folder / "configs"}
    write_experiment(folder / "configs", "right", ["override /recipe: nano_distil"], _TWO_STEPS)

    def module(name: str, **header: Any) -> None:
        files[name] = folder / f"{name}.st"
        base = {"kind": "sparse_delta", "method": "lt_sft", "base_model": "tiny", "base_hash": base_hash}
        entries = {_WEIGHT: Entries(torch.tensor([0, 5]), torch.tensor([0.1, 0.2]), torch.Size([32, 32]))}
        SparseDelta(ModuleHeader(**{**base, **header}), entries, {}).save(files[name])

    def file(name: str, content: bytes) -> None:
        files[name.partition(".")[0]] = folder / name
        (folder / name).write_bytes(content)

    base_hash = load_pretrained(str(tiny_bert)).base_hash
    module("module", language="eng", provenance={"experiment": "x" * 400})
    module("other_base", language="eng", base_hash="b1", base_model="another")
    module("other_language", language="deu")
    module("task_module", task="pos")
    good = files["module"].read_bytes()
    file("truncated.st", good[: len(good) // 2])
    file("flipped.st", good[:-3] + bytes([good[-3] ^ 4]) + good[-2:])
    file("pickled.st", pickle.dumps({"a": [1, 2]}))
    torch.save({"a": torch.ones(3)}, folder / "zipped.st")
    safetensors.torch.save_file({"a": torch.ones(3)}, folder / "plain.st")
    files |= {name: folder / f"{name}.st" for name in ("zipped", "plain")}

    word = "{}\t{}\t_\t{}\t_\t_\t0\t_\t_\t_\n"
    first = word.format(1, "the", "DET").encode()
    file("broken.conllu", first + b"2\tcat\t_\tNOUN\t_\t_\t0\t_\t_\n\n")
    file("misnumbered.conllu", first + word.format(3, "cat", "NOUN").encode() + b"\n")
    file("unseen.conllu", first + word.format(2, "cat", "NOPE").encode() + b"\n")
    file("void.conllu", b"# a comment\n\n\n")
    file("latin.conllu", first + word.format(2, "cát", "NOUN").encode("latin-1") + b"\n")
    file("single.conllu", first + b"\n")
    file("lines.txt", b"the cat sat\non the mat\n")
    for name in ("empty", "weightless", "speechless"):
        files[name] = folder / name
        files[name].mkdir()
    shutil.copy(tiny_bert / "config.json", files["weightless"])
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_bert / name, files["speechless"])
    return files


def _list(words: list[str]) -> str:
    return "[" + ",".join(f"'{word}'" for word in words) + "]"


@pytest.fixture(scope="session")
def nano_table() -> Callable[[Path], list[str]]:
    """`nano_table(output_dir)`: words of a table of LT-SFT with and without language modules, English and Faroese."""
    with hydra_ready():
        evaluation = set(compose(["experiment=nano_fields"]).data.evaluation)
        seen = list(compose(["experiment=nano_pretrain"]).data.sources)
    model = [
        *_MODEL,
        *(f"data.sources.{name}.cap=20" for name in seen[:8]),
        *(f"~data.sources.{name}" for name in seen[8:]),
    ]
    return lambda output_dir: [
        "table=quickstart",
        "seeds=[1]",
        "launcher.workers=1",
        f"output_dir={output_dir}",
        "~table.parts.fields.systems.full",
        "~table.parts.fields.systems.bitfit",
        "~table.parts.fields.systems.random_sft",
        "~table.parts.fields.systems.mad_x",
        "table.columns=[eng,fao]",
        "table.average=[fao]",
        *_TINY,
        f"model.run.overrides={_list(model)}",
        f"language_modules.overrides={_list(_LANGUAGE)}",
        *(f"~data.evaluation.{name}" for name in sorted(evaluation - _KEPT)),
        *(f"data.evaluation.{name}.cap=10" for name in sorted(_KEPT)),
        "data.sources.eng.cap=30",
        "data.validation.eng.cap=10",
    ]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """`command("seed=1", ...)`: calls `xlt` in this process, from an empty folder."""
    folder = tmp_path / "called-from"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.delenv("XLT_TRACEBACK", raising=False)
    logging.getLogger("hydra._internal.hydra").disabled = False  # as a command before it in this process leaves it

    def call(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["xlt", *map(str, words)])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        assert isinstance(code, int)
        return Ended(code, said.out, said.err.splitlines(), left)

    return call


@pytest.fixture
def tiny_llama(tmp_path: Path) -> Path:
    """A folder with a tiny Llama and a tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = train_tokenizer(["where sat the cat rat mat hat", "on a bat vat"], 300)
    tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    folder = tmp_path / "llama"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
