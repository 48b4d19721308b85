"""The `xlt` command called from an empty folder, a small shelf of data to call it with, and a tiny table."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from xlt.commands.cli import main
from xlt.compose import compose, hydra_ready
from xlt.models.vocabulary import train_tokenizer

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
