"""Modules by the names of repositories, and cards made of headers and runs; the hub itself is replaced."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import xlt
from tests.hub_cache import HubCache
from xlt.commands.predict import carry_out as carry_out_prediction
from xlt.commands.predict import parser as predict_parser
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.execution.execution import carry_out
from xlt.modules import SparseDelta, load_module, write_composable_sft
from xlt.modules.composition.average import average
from xlt.plan.planner import Plan, Run
from xlt.use.cards import model_card
from xlt.use.export import ExportSettings, export
from xlt.use.loading import read_module
from xlt.use.predict import PredictSettings, predict


def test_a_module_is_read_by_the_name_of_its_repository_and_revision(
    modules: Mapping[str, Path], hub_cache: HubCache
) -> None:
    hub_cache.add("org/tagger", {"module.safetensors": modules["pos"]}, "v2")
    hub_cache.add("org/tagger", {"module.safetensors": modules["ner"]})
    assert xlt.load_module("org/tagger@v2").header.task == "pos"
    assert xlt.load_module("org/tagger").header.task == "ner"
    hub_cache.add("org/tagger", {"module.safetensors": modules["topic"]})
    assert xlt.load_module("org/tagger").header.task == "topic"  # a call asks anew


def test_texts_are_annotated_with_modules_of_the_hub(modules: Mapping[str, Path], hub_cache: HubCache) -> None:
    hub_cache.add("org/tagger", {"module.safetensors": modules["pos"]})
    hub_cache.add("org/faroese", {"module.safetensors": modules["fao"]})
    local = xlt.load_model(modules["pos"], modules["fao"], device="cpu")
    ours = xlt.load_model("org/tagger", language_modules={"fao": "org/faroese@main"}, device="cpu")
    texts = ["the cat sat on the mat", "where sat the rat"]
    assert [one.columns for one in xlt.predict(ours, texts, language="fao")] == [
        one.columns for one in xlt.predict(local, texts, language="fao")
    ]


def test_a_published_language_module_is_used_as_its_module_file_is(
    modules: Mapping[str, Path], hub_cache: HubCache, tmp_path: Path, tiny_bert: Path
) -> None:
    file = tmp_path / "pytorch_diff.bin"
    ours = xlt.load_module(modules["fao"])
    assert isinstance(ours, SparseDelta)
    write_composable_sft(ours, file, {"backbone.": "bert."})
    hub_cache.add("org/sft", {"pytorch_diff.bin": file})
    texts = ["the cat sat on the mat", "where sat the rat"]
    taggers = [
        xlt.load_model(modules["pos"], language_modules={"fao": module}, device="cpu")
        for module in ("org/sft", str(file), str(modules["fao"]))
    ]
    said = [[one.scores for one in xlt.predict(tagger, texts, language="fao")] for tagger in taggers]
    assert said[0] == said[1] == said[2]
    theirs = xlt.load_module("org/sft", model=str(tiny_bert), language="fao")
    assert theirs.header.language == "fao" and "repository" in theirs.header.provenance
    with pytest.raises(UsageError, match="xlt import"):
        xlt.load_module("org/sft")
    with pytest.raises(UsageError, match="leave out model"):
        xlt.load_module(modules["fao"], model=str(tiny_bert))
    for words, fault in (
        ({}, "either language or task"),
        ({"language": "fao", "task": "pos"}, "either language or task"),
        ({"language": "fo"}, "ISO 639-3"),
    ):
        with pytest.raises(UsageError, match=fault):
            xlt.load_module("org/sft", model=str(tiny_bert), **words)
    with pytest.raises(UsageError, match="says its own"):
        xlt.load_module(modules["fao"], language="fao")
    given, out = tmp_path / "in.txt", tmp_path / "out.conllu"
    given.write_text("the cat sat\n", encoding="utf-8")
    predict(
        PredictSettings(
            [str(modules["pos"])], str(given), str(out), {"fao": "org/sft"}, language="fao", quiet=True, device="cpu"
        )
    )
    assert out.read_text(encoding="utf-8").count("\t") > 9


def test_without_a_network_one_line_says_what_is_missing(hub_cache: HubCache) -> None:
    with pytest.raises(UsageError) as refused:
        read_module("org/no-such-module")
    (line,) = refused.value.lines
    assert line.startswith("org/no-such-module:") and "module.safetensors" in line and "offline" in line


def test_an_upload_has_the_module_and_its_card(modules: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}

    class Api:
        def create_repo(self, name: str, **options: Any) -> None:
            sent["repository"] = name

        def upload_folder(self, repo_id: str, folder_path: str, **options: Any) -> None:
            sent["files"] = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    said = export(ExportSettings([str(modules["fao"])], "org/faroese", to="hub"))
    assert said.endswith("org/faroese") and sent["repository"] == "org/faroese"
    assert sent["files"].keys() == {"module.safetensors", "README.md"}
    assert sent["files"]["module.safetensors"] == modules["fao"].read_bytes()
    card = sent["files"]["README.md"].decode()
    assert 'xlt.load_module("org/faroese")' in card
    assert "Faroese" in card and "`fao`" in card and 'language: ["fao"]' in card and "tiny-bert" in card
    with pytest.raises(UsageError, match="ORG/NAME"):
        export(ExportSettings([str(modules["fao"])], "faroese", to="hub"))


def test_the_card_of_a_run_has_its_data_and_scores(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], tmp_path: Path
) -> None:
    run = planned(*words)
    carry_out(plan, None, lambda *_: Silence())
    card = model_card(read_module(str(plan.store.folder(run.fingerprint))), "org/name")
    for record in plan.store.evaluations(run.fingerprint).values():
        named = {"eng": "English (eng)", "fao": "Faroese (fao)"}[record["language"]]
        scores = f"accuracy {record['metrics']['accuracy']:.2f}, {record['metrics']['words']:.0f} words"
        assert f"| {record['source']} | {named} | task | {scores} |" in card
    assert "| training | eng | English (eng) | train | gold | CC BY-SA 4.0 |" in card
    assert run.fingerprint in card and "xlt predict org/name" in card
    assert "a small change of the model `tiny-bert" in card
    export(ExportSettings([str(plan.store.folder(run.fingerprint))], str(tmp_path / "card.md"), to="card"))
    assert (tmp_path / "card.md").read_text().count("##") == card.count("##") == 4
    assert 'xlt.load_model("org/name", model="BASE_MODEL")' in card and "Alan Ansell (2024)" in card
    assert "no run of another seed" in card and "±" not in card


def test_the_card_has_the_spread_over_runs_that_differ_only_in_their_seed(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    runs = [planned(*words, f"seed={seed}", "train.learning_rate=0.1") for seed in (1, 2, 3)]
    planned(*words, "seed=4", "train.learning_rate=0.01")
    carry_out(plan, None, lambda *_: Silence())
    card = model_card(read_module(str(plan.store.folder(runs[0].fingerprint))), "org/name")
    assert "(1, 2, 3)" in card
    for key, record in plan.store.evaluations(runs[0].fingerprint).items():
        assert key and record["identity"]
        values = [
            one["metrics"]["accuracy"]
            for run in runs
            for one in plan.store.evaluations(run.fingerprint).values()
            if one["source"] == record["source"]
        ]
        spread = f"accuracy {statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f} (n=3)"
        assert f"({record['language']}) | task | accuracy {values[0]:.2f}" in card
        assert f"| {spread} |" in card, (spread, card)


@pytest.mark.parametrize(
    ("model", "made_by"),
    [
        ({"run": {"experiment": "nano_pretrain"}, "student": None}, "nano_pretrain"),
        ({"run": {"experiment": "nano_pretrain"}, "student": {"run": {"experiment": "nano_bistil"}}}, "nano_bistil"),
    ],
)
def test_the_card_says_how_a_base_model_that_a_run_has_made_is_made(
    modules: Mapping[str, Path], model: Mapping[str, object], made_by: str
) -> None:
    used = read_module(str(modules["fao"]))
    card = model_card(dataclasses.replace(used, manifest={"config": {"model": model}}), "org/name")
    assert f"a small change of the model that `xlt experiment={made_by}` makes" in card


@pytest.mark.parametrize("name", ["pos", "parsing", "topic", "nli", "qa", "choice", "eng"])
def test_the_commands_of_a_card_run(modules: Mapping[str, Path], tmp_path: Path, name: str) -> None:
    example = {"text": "the cat sat", "pair": "the mat", "choices": ["a cat", "a mat"]}
    (tmp_path / "text.txt").write_text("the cat sat\n", encoding="utf-8")
    (tmp_path / "examples.jsonl").write_text(json.dumps(example) + "\n", encoding="utf-8")
    base = str(read_module(str(modules["pos"])).facts["model"]["path"])
    card = model_card(read_module(str(modules[name])), str(modules[name]))
    card = card.replace("BASE_MODEL", base).replace("TASK_MODULE", str(modules["topic"]))
    (command,) = (line for line in card.splitlines() if line.startswith("xlt predict"))
    words = [str(tmp_path / word) if "." in word and "/" not in word else word for word in command.split()[2:]]
    carry_out_prediction(predict_parser().parse([*words, "--quiet", "--device", "cpu"]))
    assert Path(words[words.index("--output") + 1]).stat().st_size > 20
    exec(card.split("```python\n")[1].split("```")[0], {})  # what the card tells the reader to do


def test_a_card_says_what_made_the_module(modules: Mapping[str, Path]) -> None:
    used = read_module(str(modules["eng"]))
    assert "learned with the method `lt_sft` by xlt" in model_card(used, "org/name")
    merged = average([load_module(modules[name]) for name in ("eng", "fao")])
    card = model_card(dataclasses.replace(used, module=merged), "org/name")
    assert "computed from 2 other modules with the operator `average`" in card and "learned" not in card
    assert "# Module without a task or a language" in card and "`None`" not in card
    used.module.header.provenance["imported_from"] = "peft"
    card = model_card(used, "org/name")
    assert "converted from the format of peft" in card and "learned" not in card
