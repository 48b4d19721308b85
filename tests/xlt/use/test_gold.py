"""What `xlt predict` writes is gold data for `xlt evaluate`: the same modules score 100 on it, in every format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sentences
from tests.model_families import save_family
from tests.translators import parallel, translator
from tests.xlt.use.conftest import save_module
from xlt.errors import UsageError
from xlt.models.loading import save_checkpoint
from xlt.tasks.text_to_text import TextToTextConfig
from xlt.tasks.translation import TranslationTaskConfig
from xlt.use.evaluate import EvaluateSettings, evaluate
from xlt.use.predict import PredictSettings, predict

TEXT = "".join(f"{' '.join(e.words or ())}, «{(e.words or ('x',))[0]}».\n" for e in sentences("eng", 12))
CONTEXT = " ".join(" ".join(example.words or ()) for example in sentences("eng", 8))
QUESTIONS = {"data": [{"paragraphs": [{"context": CONTEXT, "qas": [
    {"id": "q1", "question": "ban kon"}, {"id": "q2", "question": "mos", "answers": []}]}]}]}  # fmt: skip
CHOICES = [{"passage": TEXT[:40], "question": q, "choices": ["dat", "kon", "ban"]} for q in ("mos", "ban", "kon")]
CHOICE_TABLE = "passage\tquestion\tchoice_1\tchoice_2\nban kon\tmos\tdat\tkon\nmos dat\tban\tkon\tban\n"
PAIRS = "id\tpremise\thypothesis\n" + "".join(f"{n}\t{line}\tkon\n" for n, line in enumerate(TEXT.splitlines()))


def lines_of(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


WORDS_IN = {
    "in.txt": TEXT,
    "in.conllu": "".join(
        "".join(f"{n}\t{word}" + "\t_" * 8 + "\n" for n, word in enumerate(line.split(), 1)) + "\n"
        for line in TEXT.splitlines()
    ),
    "in.conll": "\n".join("".join(f"{word} X\n" for word in line.split()) for line in TEXT.splitlines()),
    "in.jsonl": lines_of([{"id": "1", "sentence": line} for line in TEXT.splitlines()]),
    "in.tsv": "sentence\tother\n" + "".join(f"{line}\tx\n" for line in TEXT.splitlines()),
}


@pytest.fixture
def again(modules: Mapping[str, Path], tmp_path: Path) -> Callable[..., dict[str, float]]:
    """`again(module, "in.tsv", text, "out.jsonl", **options)`: scores on what the module wrote for the text."""

    def run(module: str | Path, name: str, text: str, out: str, **options: Any) -> dict[str, float]:
        file = [str(modules[module] if isinstance(module, str) else module)]
        (tmp_path / name).write_text(text, encoding="utf-8")
        written = tmp_path / f"of_{out}"
        predict(
            PredictSettings(file, str(tmp_path / name), str(written), replace=True, quiet=True, device="cpu", **options)
        )
        (one,) = evaluate(EvaluateSettings(file, [str(written)], device="cpu", **options))
        assert one.examples > 0
        return dict(one.metrics)

    return run


@pytest.mark.parametrize("task", ["pos", "ner", "parsing"])
@pytest.mark.parametrize("out", ["out.conllu", "out.conll", "out.jsonl", "out.tsv", "out.csv"])
def test_tags_of_words_score_100(again: Callable[..., dict[str, float]], task: str, out: str) -> None:
    metric = {"pos": "accuracy", "ner": "f1", "parsing": "las"}[task]
    inputs = list(WORDS_IN) if task == "pos" else ["in.txt"]
    if out == "out.conll":
        inputs = ["in.conllu", "in.conll"]  # CoNLL columns do not say where a text has spaces
    for name in inputs:
        assert again(task, name, WORDS_IN[name], out)[metric] == 100.0, name


@pytest.mark.parametrize(
    ("task", "name", "text", "outs"),
    [
        ("topic", "in.txt", TEXT, ("tsv", "csv", "jsonl")),
        ("topic", "in.conllu", WORDS_IN["in.conllu"], ("conllu", "tsv", "jsonl")),
        ("nli", "in.tsv", PAIRS, ("tsv", "csv", "jsonl")),
        ("qa", "in.json", json.dumps(QUESTIONS), ("jsonl", "tsv", "csv")),
        ("choice", "in.jsonl", lines_of(CHOICES), ("jsonl",)),
        ("choice", "in.tsv", CHOICE_TABLE, ("tsv", "csv", "jsonl")),
    ],
)
def test_labels_and_answers_score_100(
    again: Callable[..., dict[str, float]], task: str, name: str, text: str, outs: tuple[str, ...]
) -> None:
    for out in outs:
        scores = again(task, name, text, f"out.{out}")
        assert scores["f1" if task == "qa" else "accuracy"] == 100.0, out


def test_translations_and_written_texts_score_100(again: Callable[..., dict[str, float]], tmp_path: Path) -> None:
    model, encoder = translator(("ind", "jav"), spread=0.3)
    save_checkpoint(model, encoder.tokenizer, tmp_path / "base")
    config = TranslationTaskConfig(
        max_length=12, beams=1, label_smoothing=0.0, metric="chrf", bleu_tokenizer="auto", tokens={}
    )
    weight = "backbone.decoder.layers.0.fc2.weight"
    file = save_module(tmp_path / "base", config, "translation", weight, tmp_path / "m.safetensors")
    text = "".join(f"{example.text}\n" for example in parallel("ind", "jav", 6))
    for out in ("out.tsv", "out.jsonl"):
        assert again(file, "in.txt", text, out, language="ind", into="jav")["chrf"] == pytest.approx(100)
    save_family("Llama", tmp_path / "llama")
    writes = TextToTextConfig(name="said", scored_as="text", max_length=60, max_new_tokens=8, template="tulu")
    weight = "backbone.layers.0.mlp.down_proj.weight"
    file = save_module(tmp_path / "llama", writes, "said", weight, tmp_path / "w.safetensors")
    assert again(file, "in.jsonl", lines_of([{"text": "nasi"}, {"text": "di rumah"}]), "o.jsonl")["exact_match"] == 100


def test_a_gold_label_beside_a_predicted_one_is_the_one_that_counts(
    again: Callable[..., dict[str, float]], modules: Mapping[str, Path], tmp_path: Path
) -> None:
    records = [{"text": line} for line in TEXT.splitlines()]
    (tmp_path / "a.jsonl").write_text(lines_of(records))
    topic = [str(modules["topic"])]
    predict(PredictSettings(topic, str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), quiet=True, device="cpu"))
    labels = [json.loads(line)["topic"] for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    wrong = [{**record, "label": "abc"["abc".index(label) - 1]} for record, label in zip(records, labels, strict=True)]
    assert again("topic", "wrong.jsonl", lines_of(wrong), "out.jsonl")["accuracy"] == 0.0


@pytest.mark.parametrize(
    ("task", "name", "text", "facts"),
    [
        ("ner", "gold.conllu", WORDS_IN["in.conllu"], ["gold.conllu:1 word 1", "NER=", "MISC", "--field=ner=NAME"]),
        ("ner", "gold.conllu", "1\tban" + "\t_" * 7 + "\tNER=B-NO\n\n", ["gold.conllu:1", "B-NO", "B-PER"]),
        ("topic", "gold.conllu", WORDS_IN["in.conllu"], ["gold.conllu:1", "# topic ="]),
        ("pos", "gold.tsv", "words\tupos\nban kon\tnoun\n", ["gold.tsv:2", "1 labels", "2 words"]),
        ("pos", "gold.tsv", "words\tother\nban kon\tnoun\n", ["gold.tsv:2", "upos", "--field=upos=COLUMN"]),
        ("topic", "gold.tsv", "sentence\tnote\nban\tx\n", ["gold.tsv:2", "topic", "--field=label=COLUMN"]),
        ("topic", "gold.tsv", 'sentence\ttopic\n"ban ""x"""\ta\n', ["gold.tsv:2", "--from csv --separator tab"]),
        ("qa", "gold.jsonl", '{"question": "a", "context": "b"}\n', ["gold.jsonl:1", "qa"]),
    ],
)
def test_labels_that_are_missing_or_unknown_are_refused_before_the_model_is_loaded(
    modules: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    task: str, name: str, text: str, facts: list[str],
) -> None:  # fmt: skip
    (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr("xlt.use.evaluate.load_model", None)
    with pytest.raises(UsageError) as refused:
        evaluate(EvaluateSettings([str(modules[task])], [str(tmp_path / name)], device="cpu"))
    (line,) = refused.value.lines
    assert all(fact in line for fact in facts), line


def test_entities_in_another_feature_of_misc_and_of_another_scheme_are_read(
    again: Callable[..., dict[str, float]], modules: Mapping[str, Path], tmp_path: Path
) -> None:
    again("ner", "in.txt", TEXT, "out.conllu")
    renamed = (tmp_path / "of_out.conllu").read_text().replace("NER=", "Entity=")
    (tmp_path / "gold.conllu").write_text(renamed)
    module = [str(modules["ner"])]
    settings = EvaluateSettings(module, [str(tmp_path / "gold.conllu")], fields={"ner": "Entity"}, device="cpu")
    (one,) = evaluate(settings)
    assert one.metrics["f1"] == 100.0
    ends = "1\tban" + "\t_" * 7 + "\tNER=S-PER\n2\tkon" + "\t_" * 7 + "\tNER=O\n\n"
    plain = ends.replace("S-PER", "B-PER")
    found = []
    for name, text in (("a.conllu", ends), ("b.conllu", plain)):
        (tmp_path / name).write_text(text)
        (one,) = evaluate(EvaluateSettings(module, [str(tmp_path / name)], device="cpu"))
        found.append(one.metrics)
    assert found[0] == found[1]
