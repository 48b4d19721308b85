"""Modules of a tiny model with heads of random values, as runs leave them, for every task that predicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import LABELS, sentences
from xlt.data.encoding import Encoder
from xlt.engine.build import build_task, with_head
from xlt.models.loading import load_pretrained, load_tokenizer
from xlt.modules import Entries, ModuleHeader, SparseDelta
from xlt.tasks.classification import ClassificationConfig
from xlt.tasks.multiple_choice import MultipleChoiceConfig
from xlt.tasks.parsing import ParsingConfig
from xlt.tasks.question_answering import QuestionAnsweringConfig
from xlt.tasks.tagging import TaggingConfig

ENTITIES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
RELATIONS = ["root", "nsubj", "obj", "punct"]
CONFIGS: dict[str, Any] = {
    "pos": TaggingConfig(name="pos", column="upos", labels=LABELS, max_length=32, dropout=0.1, metric="accuracy"),
    "ner": TaggingConfig(name="ner", column="ner", labels=ENTITIES, max_length=32, dropout=0.1, metric="f1"),
    "parsing": ParsingConfig(relations=RELATIONS, decoding="tree", max_length=32, dropout=0.1),
    "topic": ClassificationConfig(
        name="topic", labels=["a", "b", "c"], pair=False, max_length=32, dropout=0.1, metric="accuracy"
    ),
    "nli": ClassificationConfig(
        name="nli", labels=["yes", "no"], pair=True, max_length=40, dropout=0.1, metric="accuracy"
    ),
    "qa": QuestionAnsweringConfig(
        name="qa", max_length=40, stride=12, max_question_tokens=12, max_answer_tokens=6, normalisation="squad"
    ),
    "choice": MultipleChoiceConfig(name="choice", max_length=48, dropout=0.1),
}
_WEIGHT = "backbone.encoder.layer.{}.output.dense.weight"


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Mapping[str, Path]:
    """Task -> file of a module for the tiny BERT; `eng` and `fao` -> files of language modules."""
    folder = tmp_path_factory.mktemp("modules")
    encoder = Encoder(load_tokenizer(str(tiny_bert)))
    files = {}
    for seed, (name, config) in enumerate(CONFIGS.items(), start=1):
        model = load_pretrained(str(tiny_bert))
        task = build_task(config)
        with_head(model, task, encoder, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        head = {
            f"head.{part}": torch.randn(tensor.shape, generator=generator)
            for part, tensor in model.head.named_parameters()  # type: ignore[union-attr]
        }
        facts = {
            "task": dataclasses.asdict(config),
            "model": {"path": str(tiny_bert)},
            "labels": task.labels(),
            "depends_on": {},
            "languages": ["eng"],
        }
        header = _header(model.base_hash, task=task.name, provenance=facts)
        files[name] = folder / f"{name}.safetensors"
        SparseDelta(header, _entries(0, seed), head).save(files[name])
    for seed, language in enumerate(("eng", "fao"), start=50):
        files[language] = folder / f"{language}.safetensors"
        SparseDelta(_header(model.base_hash, language=language), _entries(1, seed)).save(files[language])
    return files


def save_module(base: Path, config: Any, name: str, weight: str, file: Path, *, size: float = 0.5) -> Path:
    """Writes a module with a head of random values for a task with this config; returns the file.

    Args:
        base: folder of the base model.
        config: of the task.
        name: of the task.
        weight: name of the weight of which it changes every entry.
        file: that is written.
        size: standard deviation of these changes.
    """
    model, encoder = load_pretrained(str(base)), Encoder(load_tokenizer(str(base)))
    task = build_task(config)
    with_head(model, task, encoder, seed=1)
    shape = dict(model.named_parameters())[weight].shape
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(shape.numel(), generator=generator) * size
    facts = {"task": dataclasses.asdict(config), "model": {"path": str(base)}, "labels": task.labels()}
    header = ModuleHeader(
        kind="sparse_delta", method="full", base_model="tiny", base_hash=model.base_hash, task=name, provenance=facts
    )
    whole = {}
    if model.head is not None:
        whole = {f"head.{part}": torch.randn(t.shape, generator=generator) for part, t in model.head.named_parameters()}
    SparseDelta(header, {weight: Entries(None, values, shape)}, whole).save(file)
    return file


def _entries(layer: int, seed: int) -> dict[str, Entries]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(512, generator=generator)
    return {_WEIGHT.format(layer): Entries(torch.arange(0, 1024, 2), values, torch.Size([32, 64]))}


def _header(base_hash: str, **facts: Any) -> ModuleHeader:
    return ModuleHeader(
        kind="sparse_delta", method="lt_sft", base_model="tiny-bert", base_hash=base_hash, fingerprint=None, **facts
    )


@pytest.fixture
def treebank(tmp_path: Path) -> Path:
    """A file of labelled CoNLL-U."""
    blocks = []
    for example in sentences("eng", 40):
        rows = zip(example.words or (), example.columns["upos"], strict=True)
        blocks.append("".join(f"{n}\t{word}\t_\t{tag}\t_\t_\t0\t_\t_\t_\n" for n, (word, tag) in enumerate(rows, 1)))
    file = tmp_path / "gold.conllu"
    file.write_text("\n".join(blocks) + "\n")
    return file


@pytest.fixture
def predicted(tmp_path: Path, modules: Mapping[str, Path]) -> Callable[..., str]:
    """`predicted("pos", "in.conllu", text, to="jsonl", ...)`: the output for a file of this name and content."""
    from xlt.use.predict import PredictSettings, predict

    def run(
        task: str, name: str, text: str | bytes, to: str | None = None, more: tuple[str, ...] = (), **options: Any
    ) -> str:
        file = tmp_path / name
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        out = tmp_path / "out"
        predict(
            PredictSettings(
                [str(modules[one]) for one in (task, *more)],
                str(file),
                str(out),
                output_format=to,
                replace=True,
                quiet=True,
                device="cpu",
                **options,
            )
        )
        return out.read_bytes().decode()

    return run
