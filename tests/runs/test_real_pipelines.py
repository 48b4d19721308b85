"""Exported checkpoints on real sentences: transformers computes what `xlt predict` says, 200 examples of each task.

The base is a real encoder; the heads are of random values, with which scores are as different as those of a trained
one, so that nothing has to be trained. transformers has a pipeline for tags and labels; for answers and choices it has
classes only, and their logits are compared.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.xlt.use.conftest import save_module
from xlt.compose import checked, compose, hydra_ready
from xlt.data.examples import Example
from xlt.data.sources import read_source
from xlt.use.export import ExportSettings, export
from xlt.use.predict import PredictSettings, predict

pytestmark = [pytest.mark.real, pytest.mark.slow]
COUNT = 200
CLOSE = 1e-4  # float32, a real encoder, batches that are padded otherwise
WEIGHT = "backbone.encoder.layer.3.output.dense.weight"


@pytest.fixture(scope="module")
def model() -> Path:
    folder = os.environ.get("XLT_MODEL_PATH")
    if not folder:
        pytest.skip("XLT_MODEL_PATH is not set: the folder of a pre-trained encoder")
    return Path(folder).resolve()


@pytest.fixture(scope="module")
def source(model: Path) -> Callable[..., tuple[Any, list[Example]]]:
    """`source(task, name, *words)`: the task's config, and the examples of a data set of conf/source."""
    folder = os.environ.get("XLT_DATA_DIR")
    if not folder:
        pytest.skip("XLT_DATA_DIR is not set: the folder of real data")

    def read(task: str, name: str, *words: str) -> tuple[Any, list[Example]]:
        with hydra_ready():
            key = f"data.evaluation.{name}"
            chosen = [f"+source@{key}={name}", *(f"{key}.{word}" for word in words), "+source@data.sources.eng=squad"]
            folders = [f"data_dir={Path(folder).resolve()}", f"model.path={model}"]
            config = checked(compose([*chosen, f"task={task}", *folders]))
            return config.task, [*islice(read_source(name, config.data.evaluation[name], seed=1), 2000)]

    return read


@pytest.fixture
def both(model: Path, tmp_path: Path) -> Callable[..., tuple[list[dict[str, Any]], Path]]:
    """`both(config, rows)`: what is predicted for lines of JSON, and the folder of the exported checkpoint."""

    def run(config: Any, rows: list[dict[str, Any]], **options: Any) -> tuple[list[dict[str, Any]], Path]:
        name = getattr(config, "name", None) or "qa"
        file = save_module(model, config, name, WEIGHT, tmp_path / "module.safetensors", size=0.02)
        given, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        given.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        predict(PredictSettings([str(file)], str(given), str(out), quiet=True, device="cpu", **options))
        export(ExportSettings([str(file)], str(tmp_path / "checkpoint")))
        lines = out.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines], tmp_path / "checkpoint"

    return run


def test_entities_are_those_of_the_pipeline(source: Callable, both: Callable) -> None:
    from transformers import pipeline

    config, examples = source("ner", "masakhaner", "language=swa", "split=test")
    sentences = [example.words for example in examples if 3 <= len(example.words) <= 40][:COUNT]
    assert len(sentences) == COUNT
    rows, folder = both(config, [{"words": list(words)} for words in sentences])
    tag = pipeline("token-classification", str(folder), device="cpu", ignore_labels=[])  # else without O
    words_seen = cut_otherwise = 0
    labels = set()
    for words, row in zip(sentences, rows, strict=True):
        text = " ".join(words)
        tokens = tag(text)
        pieces = [text[token["start"] : token["end"]] for token in tokens]
        # A blank before a word belongs to its first piece in some vocabularies.
        begins = [t["end"] - len(piece.lstrip()) for t, piece in zip(tokens, pieces, strict=True)]
        spans = [(begin, token["end"]) for begin, token in zip(begins, tokens, strict=True)]
        first = dict(zip((start for start, _ in reversed(spans)), reversed(tokens), strict=True))
        ends = list(word_ends(words))
        # A piece that reaches over two words is cut by xlt, which changes the whole sentence's input.
        if any(start < end < stop for start, stop in spans for _, end in ends):
            cut_otherwise += 1
            continue
        column = config.column
        for (at, _), label, score in zip(ends, row[column], row[f"{column}_scores"], strict=True):
            assert first[at]["entity"] == label, (text, at)
            assert float(first[at]["score"]) == pytest.approx(score, abs=CLOSE)
            labels.add(label)
            words_seen += 1
    assert cut_otherwise < COUNT / 20 and words_seen > 10 * COUNT and len(labels) > 3


def word_ends(words: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Yields start and end of each word in the text of all words with blanks between them."""
    at = 0
    for word in words:
        yield at, at + len(word)
        at += len(word) + 1


def test_sentiment_is_that_of_the_pipeline(source: Callable, both: Callable) -> None:
    from transformers import pipeline

    config, examples = source("sentiment", "smsa", "split=test")
    texts = [str(example.text) for example in examples][:COUNT]
    assert len(texts) == COUNT
    rows, folder = both(config, [{"text": text} for text in texts])
    classify = pipeline("text-classification", str(folder), device="cpu", top_k=None)
    for text, row in zip(texts, rows, strict=True):
        said = classify(text, truncation=True)
        said = said[0] if isinstance(said[0], list) else said
        assert {part["label"]: part["score"] for part in said} == pytest.approx(row["sentiment_scores"], abs=CLOSE)
        assert max(said, key=lambda part: part["score"])["label"] == row["sentiment"]
    assert len({row["sentiment"] for row in rows}) > 1


@torch.no_grad()
def test_answers_are_those_of_the_question_answering_class(source: Callable, both: Callable) -> None:
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    config, examples = source("qa", "squad", "split=dev")
    tokenizer = AutoTokenizer.from_pretrained(os.environ["XLT_MODEL_PATH"])
    fits = [
        one for one in examples if len(tokenizer(one.text, one.pair)["input_ids"]) <= config.max_length
        and len(tokenizer(one.text)["input_ids"]) <= config.max_question_tokens
    ][:COUNT]  # fmt: skip
    assert len(fits) == COUNT  # of one window each
    rows, folder = both(config, [{"question": one.text, "context": one.pair} for one in fits])
    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForQuestionAnswering, AutoTokenizer))
    ties = 0
    for one, row in zip(fits, rows, strict=True):
        context = str(one.pair)
        inputs = tokenizer(one.text, context, return_tensors="pt", return_offsets_mapping=True)
        spans, owners = inputs.pop("offset_mapping")[0].tolist(), inputs.sequence_ids(0)
        output = model.eval()(**inputs)
        at = [n for n, owner in enumerate(owners) if owner == 1 and context[slice(*spans[n])].strip()]
        scores = sorted(
            ((float(output.start_logits[0, a] + output.end_logits[0, b]), a, b)
             for a in at for b in at if a <= b < a + config.max_answer_tokens), reverse=True,
        )  # fmt: skip
        assert scores[0][0] == pytest.approx(row["qa_score"], abs=10 * CLOSE)
        best = [context[spans[a][0] : spans[b][1]].strip() for score, a, b in scores if scores[0][0] - score < CLOSE]
        ties += len(best) > 1
        assert row["qa"] in best
    assert ties < COUNT / 20


@torch.no_grad()
def test_choices_are_those_of_the_multiple_choice_class(source: Callable, both: Callable) -> None:
    """Questions and passages of SQuAD, and as choices the answers to the four questions from here on."""
    from transformers import AutoModelForMultipleChoice, AutoTokenizer

    config, examples = source("multiple_choice", "squad", "split=dev")
    tokenizer = AutoTokenizer.from_pretrained(os.environ["XLT_MODEL_PATH"])
    answers = [one.answers[0].text for one in examples]
    given = [
        {"passage": one.pair, "question": one.text, "choices": list(dict.fromkeys(answers[n : n + 4]))}
        for n, one in enumerate(examples)
        if len(tokenizer(one.pair, one.text)["input_ids"]) < min(160, config.max_length - 60)  # short: this takes long
    ]
    given = [row for row in given if len(row["choices"]) == 4][:COUNT]
    assert len(given) == COUNT
    rows, folder = both(config, given)
    model, words = (kind.from_pretrained(folder) for kind in (AutoModelForMultipleChoice, AutoTokenizer))
    for one, row in zip(given, rows, strict=True):
        asked = [f"{one['question']} {choice}" for choice in one["choices"]]
        inputs = words([one["passage"]] * 4, asked, return_tensors="pt", padding=True)
        logits = model.eval()(**{name: part[None] for name, part in inputs.items()}).logits[0]
        name = config.name
        assert logits.softmax(-1).tolist() == pytest.approx([*row[f"{name}_scores"].values()], abs=CLOSE)
    assert len({row[config.name] for row in rows}) > 1
