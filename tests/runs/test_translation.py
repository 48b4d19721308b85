"""Translate-train and translate-test from the command line: a translator from nothing, adapted, and its users."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs.conftest import Ended
from tests.runs.translation_words import RANDOM, RECIPE, quoted, sentiment, translate_test, translate_train
from tests.translators import write_shelf
from xlt.data.encoding import Encoder
from xlt.data.streams import stream
from xlt.engine import run
from xlt.engine.training import Trainer
from xlt.models.language_tokens import language_tokens
from xlt.models.loading import load_pretrained, load_tokenizer
from xlt.tasks.translation import Translation

FRESH = """
import sys, torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1]).eval()
batch = torch.load(sys.argv[2], weights_only=True)
torch.save(model.generate(**batch, forced_bos_token_id=tokenizer.convert_tokens_to_ids("mad_Latn"), num_beams=4,
                          do_sample=False, max_new_tokens=24), sys.argv[3])
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_shelf(folder)
    return folder


def _manifests(out: Path) -> dict[str, dict[str, Any]]:
    """By kind of run; those of a kind share a folder's name in front."""
    found = [(json.loads(file.read_text()), file.parent) for file in sorted(out.glob("runs/*/manifest.json"))]
    return {manifest["kind"] + " " + str(folder.name): {**manifest, "folder": folder} for manifest, folder in found}


def _of(out: Path, kind: str) -> list[dict[str, Any]]:
    return [manifest for name, manifest in _manifests(out).items() if name.startswith(kind)]


def test_translate_train_and_translate_test_from_a_translator_that_was_made_for_them(
    command: Callable[..., Ended], data: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    out = tmp_path / "outputs"
    words = sentiment(data, tiny_bert, out)
    ended = command(*words, *translate_train())
    assert ended.code == 0, ended.lines
    (pretrained,), (adapted,) = _of(out, "translation_pretrain/"), _of(out, "translation/")
    (made,), (learned,) = _of(out, "translate/"), _of(out, "sentiment/")
    assert made["depends_on"] == {"model": adapted["fingerprint"]}
    assert adapted["depends_on"] == {"model": pretrained["fingerprint"]}
    assert learned["depends_on"] == {"sources.t": made["fingerprint"]}
    lines = (made["folder"] / "translated.jsonl").read_text(encoding="utf-8").splitlines()
    originals = (data / "smsa" / "train.tsv").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [f"{row['untranslated'][0]}\t{row['label']}" for row in rows] == originals
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and ".locks" not in str(path)}

    again = command(*words, *translate_train())
    assert again.code == 0, again.lines
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and ".locks" not in str(path)}
    assert after == before

    tested = command(*words, *translate_test())
    assert tested.code == 0, tested.lines
    assert len(_of(out, "translation_pretrain/")) == 1  # the same model, adapted the other way round
    assert len(_of(out, "translation/")) == len(_of(out, "translate/")) == len(_of(out, "sentiment/")) == 2
    (file,) = set(out.glob("runs/*/evaluation.json")) - set(before)
    (record,) = json.loads(file.read_text()).values()
    assert (record["source"], record["language"]) == ("x", "ind") and "macro_f1" in record["metrics"]

    _the_checkpoint_is_transformers_own(pretrained["folder"], adapted["folder"], tmp_path)


def _the_checkpoint_is_transformers_own(before: Path, adapted: Path, tmp_path: Path) -> None:
    """A fresh process with plain transformers generates the same ids; the new language has a token."""
    assert set(language_tokens(load_tokenizer(str(before / "checkpoint")))) == {"ind", "ind_Latn", "jav", "jav_Latn"}
    model, tokenizer = load_pretrained(str(adapted / "checkpoint")).eval(), load_tokenizer(str(adapted / "checkpoint"))
    assert set(language_tokens(tokenizer)) == {"ind", "ind_Latn", "jav", "jav_Latn", "mad", "mad_Latn"}
    encoder, task = Encoder(tokenizer), Translation(24, 4, 0.0, "chrf", "auto", {})
    token = tokenizer.convert_tokens_to_ids
    rows = [{"input_ids": [token("ind_Latn"), *ids, token("</s>")], "target_ids": [token("mad_Latn"), token("</s>")]}
            for ids in encoder.lines(["saya makan nasi", "air"])]  # fmt: skip
    batch = task.collate(rows, encoder, stream(0, "x"))
    torch.save({name: batch[name] for name in ("input_ids", "attention_mask")}, tmp_path / "batch.pt")
    arguments = [str(adapted / "checkpoint"), str(tmp_path / "batch.pt"), str(tmp_path / "made.pt")]
    subprocess.run([sys.executable, "-c", FRESH, *arguments], check=True)
    with torch.no_grad():
        found = task._generate(model, encoder, batch, batch["labels"][:, 0], 4)
    assert torch.equal(torch.load(tmp_path / "made.pt", weights_only=True)[:, 2:], found)


def test_a_translator_that_learned_what_is_evaluated_on_is_refused(
    command: Callable[..., Ended], data: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        text = (data / "nusax" / "senti" / "mad" / "train.csv").read_text()
        (tmp_path / "leak").mkdir(exist_ok=True)
        (tmp_path / "leak" / f"{split}.csv").write_text(text.upper().replace("ID,TEXT,LABEL", "id,text,label"))
    words = [
        *sentiment(data, tiny_bert, tmp_path / "outputs"),
        *translate_train(),
        f"data.evaluation.x.path={tmp_path}/leak",
    ]
    words += ["+data.evaluation.x.labels={POSITIVE: positive, NEGATIVE: negative, NEUTRAL: neutral}"]
    ended = command(*words)
    assert (ended.code, len(ended.lines)) == (2, 1), ended.lines
    assert ended.lines[0].startswith("xlt: translation pretrain mad") or "data.sources.pairs" in ended.lines[0]
    assert "its text is also in the evaluation data, in data.evaluation.x" in ended.lines[0]
    assert not (tmp_path / "outputs" / "runs").exists()


@pytest.mark.parametrize("method", ["pretrain", "lt_sft", "mad_x", "houlsby", "ia3"])
def test_a_translator_of_the_embedded_corpus_is_what_its_validation_said(
    method: str, command: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluated on what selected it: a checkpoint, or a module on a model, whose output embeddings are tied."""
    pairs = ["data=empty"]
    for part, split in (("sources", "train"), ("validation", "dev"), ("evaluation", "dev")):
        pairs += [f"+source@data.{part}.deu=locale_pairs", f"data.{part}.deu.language=deu",
                  f"data.{part}.deu.text_language=eng", f"data.{part}.deu.split={split}",
                  f"data.{part}.deu.cap=8"]  # fmt: skip
    common = ["task.max_length=30", f"output_dir={tmp_path}", "device=cpu", "threads=1", "tracker=silent", *RECIPE]
    base = quoted([*pairs, "task.max_length=30", *RANDOM, *RECIPE])
    told: list[bool] = []
    monkeypatch.setattr(
        run, "Trainer", lambda **parts: told.append(parts["setting"].adapts_language) or Trainer(**parts)
    )
    ended = command("experiment=translation", "target=deu", f"method={method}", f"model.run.overrides={base}",
                    *pairs, *common)  # fmt: skip
    assert ended.code == 0, ended.lines
    (file,) = tmp_path.glob("runs/*/evaluation.json")
    (record,) = json.loads(file.read_text()).values()
    training = json.loads((file.parent / "result.json").read_text())["training"]
    assert set(record["metrics"]) == {"chrf", "bleu"} and record["cost"]["flops"] > 0
    assert "|tok:13a|" in record["signatures"]["bleu"] and "|nw:2|" in record["signatures"]["chrf"]
    assert record["metrics"]["chrf"] == pytest.approx(training["best/chrf"])
    assert told == [False, False]  # else a method unties the output embeddings while it learns
