"""Tasks that write texts, and X-MOD: what `xlt predict` says, and what transformers makes of an exported checkpoint."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model_families import save_family
from tests.translators import parallel, translator
from tests.xlt.use.conftest import CONFIGS, save_module
from xlt.models.loading import save_checkpoint
from xlt.modules import SparseDelta
from xlt.tasks.causal_lm import CausalLmConfig
from xlt.tasks.instruct import InstructConfig
from xlt.tasks.translation import TranslationTaskConfig
from xlt.use.export import ExportSettings, export
from xlt.use.predict import PredictSettings, predict

TEXTS = ["nasi air", "aku mangan sega", "omah gedhe", "di rumah saya"]


@pytest.fixture
def said(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """`said(module, lines, **options)`: what is predicted for lines of JSON."""

    def run(file: Path, rows: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
        given, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        given.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        out.unlink(missing_ok=True)
        predict(PredictSettings([str(file)], str(given), str(out), quiet=True, device="cpu", **options))
        return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]

    return run


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    save_family("Llama", tmp_path / "llama")
    return tmp_path / "llama"


def texts_of(rows: list[dict[str, Any]], task: str) -> list[str]:
    return [row[task] for row in rows]


def test_a_translation_is_that_of_the_exported_checkpoint(
    said: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    from transformers import AutoModelForSeq2SeqLM

    model, encoder = translator(("ind", "jav"), spread=0.3)
    save_checkpoint(model, encoder.tokenizer, tmp_path / "base")
    config = TranslationTaskConfig(
        max_length=12, beams=2, label_smoothing=0.0, metric="chrf", bleu_tokenizer="auto", tokens={}
    )
    weight = "backbone.decoder.layers.0.fc2.weight"
    file = save_module(tmp_path / "base", config, "translation", weight, tmp_path / "m.safetensors")
    given = [{"text": str(example.text)} for example in parallel("ind", "jav", 6)]
    ours = texts_of(said(file, given, language="ind", into="jav"), "translation")
    assert len(set(ours)) > 1
    export(ExportSettings([str(file)], str(tmp_path / "out")))
    whole, words = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval(), encoder.tokenizer
    ind, jav, end = words.convert_tokens_to_ids(["ind_Latn", "jav_Latn", "</s>"])
    assert whole.generation_config.num_beams == 2
    for row, expected in zip(given, ours, strict=True):
        ids = torch.tensor([[ind, *encoder.lines([row["text"]])[0], end]])
        written = whole.generate(input_ids=ids, decoder_start_token_id=end, forced_bos_token_id=jav)
        assert words.decode(written[0, 2:], skip_special_tokens=True).strip() == expected
    other = SparseDelta.load(file)
    zero = {name: dataclasses.replace(one, values=one.values * 0) for name, one in other.entries.items()}
    SparseDelta(other.header, zero).save(tmp_path / "zero.safetensors")
    assert texts_of(said(tmp_path / "zero.safetensors", given, language="ind", into="jav"), "translation") != ours


def test_an_answer_is_that_of_the_exported_checkpoint_and_its_chat_template(
    said: Callable[..., list[dict[str, Any]]], llama: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = InstructConfig(max_length=64, template="tulu", packing=False)
    weight = "backbone.layers.0.mlp.down_proj.weight"
    file = save_module(llama, config, "instruct", weight, tmp_path / "m.safetensors")
    talks = [[{"role": "user", "content": text}] for text in TEXTS]
    several = [("user", "di"), ("assistant", "e"), ("user", "e")]
    talks.append([{"role": role, "content": text} for role, text in several])
    ours = texts_of(said(file, [{"messages": talk} for talk in talks], most_new_tokens=8), "instruct")
    assert len(set(ours)) > 1
    assert texts_of(said(file, [{"text": text} for text in TEXTS], most_new_tokens=8), "instruct") == ours[:4]
    export(ExportSettings([str(file)], str(tmp_path / "out")))
    whole, words = (kind.from_pretrained(tmp_path / "out") for kind in (AutoModelForCausalLM, AutoTokenizer))
    for talk, expected in zip(talks, ours, strict=True):
        given = words.apply_chat_template(talk, add_generation_prompt=True, return_dict=True, return_tensors="pt")
        written = whole.eval().generate(**given, max_new_tokens=8)
        text = words.decode(written[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
        assert text.strip() == expected


def test_a_continuation_is_that_of_the_exported_checkpoint(
    said: Callable[..., list[dict[str, Any]]], llama: Path, tmp_path: Path
) -> None:
    from transformers import pipeline

    config = CausalLmConfig(max_length=60, packing=False)
    weight = "backbone.layers.0.mlp.down_proj.weight"
    file = save_module(llama, config, "causal_lm", weight, tmp_path / "m.safetensors")
    ours = texts_of(said(file, [{"text": text} for text in TEXTS], most_new_tokens=8), "causal_lm")
    export(ExportSettings([str(file)], str(tmp_path / "out")))
    write = pipeline("text-generation", str(tmp_path / "out"), device="cpu")
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "return_full_text": False}
    theirs = [write(text, **settings)[0]["generated_text"].strip() for text in TEXTS]
    assert theirs == ours and len(set(ours)) > 1


def test_x_mod_uses_the_network_of_each_texts_language_and_exports_that_of_one(
    said: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    from transformers import pipeline

    save_family("X-MOD", tmp_path / "xmod")
    weight = "backbone.encoder.layer.0.output.dense.weight"
    file = save_module(tmp_path / "xmod", CONFIGS["topic"], "topic", weight, tmp_path / "m.safetensors")
    rows = [{"text": text, "lang": language} for text in TEXTS for language in ("eng", "deu")]
    mixed = said(file, rows, language_field="lang")
    scores: Mapping[str, list[Any]] = {
        language: [row["topic_scores"] for row in mixed if row["lang"] == language] for language in ("eng", "deu")
    }
    assert scores["eng"] != scores["deu"]
    for language in ("eng", "deu"):
        export(ExportSettings([str(file)], str(tmp_path / language), language=language))
        classify = pipeline("text-classification", str(tmp_path / language), device="cpu", top_k=None)
        for text, expected in zip(TEXTS, scores[language], strict=True):
            answer = classify(text)
            answer = answer[0] if isinstance(answer[0], list) else answer
            assert {part["label"]: part["score"] for part in answer} == pytest.approx(expected, abs=1e-5)
