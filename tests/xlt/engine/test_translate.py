from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.source_configs import source_config
from tests.translators import parallel, taught_translator
from xlt.compose import checked, compose, hydra_ready
from xlt.config import RunConfig, RunReference, SourceConfig, TranslationConfig
from xlt.data.encoding import Encoder
from xlt.data.transforms.translation import TRANSLATED_FILE, translated_examples
from xlt.engine.run import RESULT_FILE, ModuleFile, Standing
from xlt.engine.training import Interrupted
from xlt.engine.translate import TranslationJob, _batches, translate_source
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.models.loading import load_pretrained, load_tokenizer, save_checkpoint
from xlt.modules import Entries, ModuleFileError, ModuleHeader, SparseDelta
from xlt.tasks.translation import Translation

TEXTS = [str(example.text) for example in parallel("ind", "jav", 24, words=(1, 4))]
Calls = list[tuple[list[str], tuple[str, str], int]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("translator")
    model, encoder = taught_translator([("ind", "jav")], 60)
    save_checkpoint(model, encoder.tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def config(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunConfig]:
    """A translator's run; what it would learn from is not there."""
    nowhere = tmp_path_factory.mktemp("empty")
    with hydra_ready():
        yield checked(
            compose(
                [
                    "experiment=translation",
                    "target=jav",
                    "task.max_length=16",
                    f"data_dir={nowhere}",
                    f"output_dir={nowhere}/outputs",
                    f"model.path={checkpoint}",
                    "model.run=null",
                    "device=cpu",
                    "threads=1",
                ]
            )
        )


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., TranslationJob]:
    """`job(texts)`: a labelled source of them, each twice."""

    def make(texts: Sequence[str] = TEXTS, fields: Sequence[str] = ("text",), **settings: Any) -> TranslationJob:
        (tmp_path / "train.tsv").write_text("".join(f"{text}\tl{len(text)}\n" for text in [*texts, *texts]))
        source = source_config("tsv", "ind", str(tmp_path), fields={"text": "0", "label": "1"})
        given: dict[str, Any] = {"source_language": "ind", "run": RunReference("translation", []), "adapt": []}
        given |= {"fields": list(fields), "beams": 2, "batch_tokens": 40, "cap": None} | settings
        return TranslationJob(source, "jav", TranslationConfig(**given))

    return make


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Every batch that is translated."""
    made: Calls = []
    translate = Translation.translate

    def recorded(self: Any, model: Any, encoder: Any, texts: list[str], languages: Any, beams: int) -> list[str]:
        made.append((list(texts), languages, beams))
        return translate(self, model, encoder, texts, languages, beams)

    monkeypatch.setattr(Translation, "translate", recorded)
    return made


@pytest.fixture
def standing(checkpoint: Path) -> Standing:
    return Standing("f" * 32, str(checkpoint))


def test_each_text_is_translated_once_and_every_example_has_its_own(
    config: RunConfig, standing: Standing, job: Callable[..., TranslationJob], calls: Calls, tmp_path: Path
) -> None:
    result = translate_source(config, standing, job(), tmp_path / "run", Silence())
    texts = [text for batch, _, _ in calls for text in batch]
    assert sorted(texts) == sorted(set(TEXTS))
    assert {(languages, beams) for _, languages, beams in calls} == {(("ind", "jav"), 2)}
    assert len(calls) > 3
    alone = Translation(16, 2, 0.0, "chrf", "auto", {})
    model = load_pretrained(str(standing.model_path)).eval()
    encoder = Encoder(load_tokenizer(str(standing.model_path)))
    found = list(translated_examples(tmp_path / "run" / TRANSLATED_FILE))
    told = {text: alone.translate(model, encoder, [text], ("ind", "jav"), 2)[0] for text in set(TEXTS)}
    wanted = [(told[text], f"l{len(text)}") for text in [*TEXTS, *TEXTS] if told[text]]
    assert [(example.text, example.label) for example in found] == wanted
    assert (result["examples"], result["texts"]) == (48, len(set(TEXTS)))
    assert result["texts_translated_to_nothing"] == sum(not text for text in told.values())
    assert result["texts_cut"] == 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [RESULT_FILE, TRANSLATED_FILE]


def test_batches_are_by_length_and_no_fuller_than_asked_for() -> None:
    lengths = {"a": 2, "b": 2, "c": 3, "d": 5, "e": 30}
    assert list(_batches(list("abcde"), lengths, 9)) == [["a", "b", "c"], ["d"], ["e"]]
    assert list(_batches(list("abcde"), lengths, 1)) == [["a"], ["b"], ["c"], ["d"], ["e"]]
    assert list(_batches([], {}, 9)) == []


class Stopping(Silence):
    """Asks the process to stop after so many batches."""

    def __init__(self, after: int) -> None:
        self._left = after

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("torn", [0, 5])
def test_stopped_in_the_middle_and_gone_on_it_leaves_the_same_file(
    torn: int, config: RunConfig, standing: Standing, job: Callable[..., TranslationJob], calls: Calls, tmp_path: Path
) -> None:
    """`torn`: bytes of the last line that a kill took."""
    translate_source(config, standing, job(), tmp_path / "whole", Silence())
    whole = [batch for batch, _, _ in calls]
    calls.clear()
    with pytest.raises(Interrupted):
        translate_source(config, standing, job(), tmp_path / "run", Stopping(3))
    assert len(calls) == 3
    assert not (tmp_path / "run" / TRANSLATED_FILE).exists() and not (tmp_path / "run" / RESULT_FILE).exists()
    (kept,) = (tmp_path / "run").iterdir()
    if torn:
        kept.write_bytes(kept.read_bytes()[:-torn])
    translate_source(config, standing, job(), tmp_path / "run", Silence())
    again = [batch for batch, _, _ in calls[3:]]
    assert again == (whole[2:] if torn else whole[3:])  # the same batches, a torn one anew
    files = [(tmp_path / name / TRANSLATED_FILE).read_bytes() for name in ("whole", "run")]
    assert files[0] == files[1]


def test_the_result_is_written_last(
    config: RunConfig, standing: Standing, job: Callable[..., TranslationJob], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def broken(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("xlt.engine.translate.save_translated", broken)
    with pytest.raises(OSError, match="no space"):
        translate_source(config, standing, job(), tmp_path / "run", Silence())
    assert not (tmp_path / "run" / RESULT_FILE).exists()
    monkeypatch.undo()

    def checked_then(path: Path, value: Any) -> None:
        assert (tmp_path / "run" / TRANSLATED_FILE).exists()
        path.write_text(json.dumps(value))

    monkeypatch.setattr("xlt.engine.translate.write_sealed", checked_then)
    monkeypatch.setattr(Translation, "translate", None)  # nothing is left to be translated
    translate_source(config, standing, job(), tmp_path / "run", Silence())


def test_texts_that_lose_their_end_are_counted(
    config: RunConfig, standing: Standing, job: Callable[..., TranslationJob], tmp_path: Path
) -> None:
    short = dataclasses.replace(config, task=dataclasses.replace(config.task, max_length=8))
    result = translate_source(
        short,
        standing,
        job(["nasi air" + " nasi air" * 2, "nasi air" + " nasi air" * 3, "nasi"]),
        tmp_path / "run",
        Silence(),
    )
    assert result["texts_cut"] == 1  # eight words, the language and the end; six words just fit


def test_a_source_with_labels_of_words_or_spans_is_refused_in_a_line(
    job: Callable[..., TranslationJob], tmp_path: Path
) -> None:
    def refused(source: SourceConfig) -> list[str]:
        with pytest.raises(UsageError) as raised:
            dataclasses.replace(job(), source=source).check()
        return raised.value.lines

    (tmp_path / "train.txt").write_text("saya O\nmakan O\n\n")
    (line,) = refused(source_config("conll", "ind", str(tmp_path), fields={"words": "0", "ner": "1"}))
    assert line.endswith("train.txt:1: labels of words or spans do not survive translation")
    context = {"context": "a b", "qas": [{"id": "q", "question": "?", "answers": [{"text": "b", "answer_start": 2}]}]}
    (tmp_path / "train.json").write_text(json.dumps({"data": [{"paragraphs": [context]}]}))
    (line,) = refused(source_config("squad", "ind", str(tmp_path / "train.json")))
    assert line.endswith("question q: labels of words or spans do not survive translation")


def test_a_lacking_field_is_a_line_before_a_model_is_loaded(
    config: RunConfig, job: Callable[..., TranslationJob], tmp_path: Path
) -> None:
    said = r"train.tsv:1: no pair to translate; give translation.fields"
    wrong = job(fields=("text", "pair"))
    with pytest.raises(UsageError, match=said):
        wrong.check()
    with pytest.raises(UsageError, match=said):
        translate_source(config, Standing("f", "/no/model"), wrong, tmp_path / "run", Silence())
    assert not (tmp_path / "run").exists()


def test_a_translators_modules_are_in_it_while_it_translates(
    config: RunConfig, standing: Standing, job: Callable[..., TranslationJob], tmp_path: Path
) -> None:
    model = load_pretrained(str(standing.model_path))
    bias = dict(model.named_parameters())["backbone.decoder.layer_norm.bias"]
    entries = {"backbone.decoder.layer_norm.bias": Entries(None, torch.full((bias.numel(),), 3.0), bias.shape)}
    for name, base in (("right", model.base_hash), ("wrong", "b1")):
        header = ModuleHeader(kind="sparse_delta", method="full", base_model="tiny", base_hash=base)
        SparseDelta(header, entries, {}).save(tmp_path / name)
    translate_source(config, standing, job(), tmp_path / "plain", Silence())
    with_module = dataclasses.replace(job(), modules=(ModuleFile(tmp_path / "right"),))
    translate_source(config, standing, with_module, tmp_path / "run", Silence())
    files = [(tmp_path / name / TRANSLATED_FILE).read_bytes() for name in ("plain", "run")]
    assert files[0] != files[1]
    with pytest.raises(ModuleFileError, match="belongs to base model"):
        other = dataclasses.replace(job(), modules=(ModuleFile(tmp_path / "wrong"),))
        translate_source(config, standing, other, tmp_path / "other", Silence())
