"""Tasks of XTREME-UP as text to text, from the command line, and the tables of the FLix paper that are made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model_families import save_family
from tests.runs.conftest import Ended
from tests.xtreme_up_files import write_xtreme_up
from xlt.commands.reproduce import reproduce
from xlt.compose import compose, hydra_ready
from xlt.modules import FeatureMixture, load_module
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore
from xlt.tables.request import request_table

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
TASKS = ("semantic_parsing", "qa_in_lang", "ner")


@pytest.fixture(scope="module")
def chatty_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama whose tokenizer has a chat template; it is wide enough for the ranks of the tables."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from xlt.models.vocabulary import train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer(["where sat the cat rat bat who", "PER : cat none SIT WHO IN SL"], 300)
    tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    tokenizer.chat_template = CHAT
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=160, intermediate_size=160, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=1024, pad_token_id=tokenizer.pad_token_id, initializer_range=0.1,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("chatty")
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xtreme_up(tmp_path_factory.mktemp("shelf"))


def _words(model: Path, data_dir: Path, output_dir: Path, *more: str) -> list[str]:
    return [
        "experiment=xtreme_up", f"model.path={model}", f"data_dir={data_dir}", f"output_dir={output_dir}",
        "train.max_steps=2", "train.batch_size=4", "train.evaluate_every_steps=1", "train.precision=fp32",
        "train.learning_rate=1e-2", "device=cpu", "threads=1", "tracker=silent", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["flix", pytest.param("lora", marks=pytest.mark.slow)])
def test_each_task_is_scored_by_its_own_metric_of_what_was_written(
    method: str, command: Callable[..., Ended], chatty_llama: Path, tmp_path: Path
) -> None:
    if method == "lora":
        pytest.importorskip("peft", reason="peft is not installed: pip install 'xlt[peft]'")
    data_dir = write_xtreme_up(tmp_path / "shelf", examples=3, codes=["sw"])
    new = [f"task.tasks.{name}.max_new_tokens=6" for name in TASKS]
    more = ["task=xtreme_up_swahili", "data=xtreme_up_swahili", f"method={method}", *new]
    ended = command(*_words(chatty_llama, data_dir, tmp_path / "outputs", *more))
    assert ended.code == 0, ended.lines
    (folder,) = (path.parent for path in (tmp_path / "outputs" / "runs").glob("*/evaluation.json"))
    records = json.loads((folder / "evaluation.json").read_text()).values()
    found = {record["source"]: (record["metric"], set(record["metrics"])) for record in records}
    assert found == {
        "semantic_parsing": ("exact_match", {"exact_match", "too_long"}),
        "qa_in_lang": ("f1", {"f1", "exact_match", "too_long"}),
        "ner": ("f1", {"f1", "precision", "recall", "too_long"}),
    }
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    validated = [step for step in steps if "validation/mean" in step]
    assert len(validated) == 2
    for step in validated:
        main = [step[f"validation/{name}"] for name in ("semantic_parsing/exact_match", "qa_in_lang/f1", "ner/f1")]
        assert step["validation/mean"] == pytest.approx(sum(main) / 3)
    if method == "flix":
        module = load_module(folder / "module.safetensors")
        assert isinstance(module, FeatureMixture)
        assert {feature.name: feature.values for feature in module.features} == {
            "language": ("swa",), "task": tuple(sorted(TASKS)),
        }  # fmt: skip


def test_a_task_that_selects_no_checkpoint_needs_no_validation(
    command: Callable[..., Ended], chatty_llama: Path, tmp_path: Path
) -> None:
    words = ["task=xtreme_up_swahili", "data=xtreme_up_swahili", "~data.validation.ner"]
    data_dir = write_xtreme_up(tmp_path / "shelf", codes=["sw"])
    refused = command(*_words(chatty_llama, data_dir, tmp_path / "outputs", *words))
    assert refused.code == 2 and "task.tasks.ner: no source in data.validation" in " ".join(refused.lines)
    wrong = command(*_words(chatty_llama, data_dir, tmp_path / "outputs", *words, "task.select_by=[pos]"))
    assert wrong.code == 2 and "task.select_by: no task pos" in " ".join(wrong.lines)
    long = command(*_words(chatty_llama, data_dir, tmp_path / "o", *words[:2], "task.tasks.ner.max_length=4000"))
    assert long.code == 2 and any(
        "task.tasks.ner.max_length=4000" in line and "task.tasks.ner.max_length=1024 or less" in line
        for line in long.lines
    )
    room = command(*_words(chatty_llama, data_dir, tmp_path / "o", *words[:2], "task.tasks.ner.max_new_tokens=4000"))
    assert room.code == 2 and "task.tasks.ner.max_new_tokens=4000: must be less" in " ".join(room.lines)
    assert not (tmp_path / "outputs" / "runs").exists()
    good = "task.select_by=[semantic_parsing,qa_in_lang]"
    with hydra_ready():
        config = compose(_words(chatty_llama, data_dir, tmp_path / "outputs", *words, good))
        Plan(RunStore(tmp_path / "outputs")).add(config)


def test_a_further_feature_is_a_line_of_a_source_and_nothing_else(
    command: Callable[..., Ended], chatty_llama: Path, tmp_path: Path
) -> None:
    configs = tmp_path / "configs"
    (configs / "source").mkdir(parents=True)
    (configs / "source" / "news.yaml").write_text(
        "defaults: [xtreme_up_ner, _self_]\nlanguage: yor\nfeatures: {domain: news}\n", encoding="utf-8"
    )
    data_dir = write_xtreme_up(tmp_path / "shelf", examples=4, codes=["sw", "yo"])
    sources = ["data=empty", "+source@data.sources.news=news", "data.sampling.mixed_batches=true"]
    for part, split in (("sources", "train"), ("validation", "dev")):
        name = f"data.{part}.swa"
        sources += [f"+source@{name}=xtreme_up_ner", f"{name}.language=swa", f"{name}.split={split}"]
    more = ["task=xtreme_up_ner", "task.max_new_tokens=4", "train.batch_size=8", "method.feature_dropout=0"]
    ended = command(f"--config-dir={configs}", *_words(chatty_llama, data_dir, tmp_path / "out", *sources, *more))
    assert ended.code == 0, ended.lines
    (file,) = (tmp_path / "out" / "runs").glob("*/module.safetensors")
    module = load_module(file)
    assert isinstance(module, FeatureMixture)
    found = {feature.name: (feature.rank, feature.values) for feature in module.features}
    assert found == {"domain": (2, ("news",)), "language": (2, ("swa", "yor")), "task": (4, ("ner",))}
    assert all(factors["domain"][1].abs().sum() > 0 for factors in module.factors.values())  # B begins at zero


def _plan(file: str, scale: str, model: Path, data_dir: Path, output_dir: Path) -> dict[str, Any]:
    """Plans a table without starting a run; returns heading -> grid."""
    words = [f"scale={scale}", f"model.path={model}", f"data_dir={data_dir}", f"output_dir={output_dir}", "seeds=[1]"]
    words += ["device=cpu"]
    assert reproduce([f"table={file}", *words, "--plan"]) == 0
    with hydra_ready():
        return request_table([f"table={file}", *words]).grids


@pytest.mark.parametrize("scale", ["mini", "thesis"])
@pytest.mark.parametrize(
    "file",
    [
        "flix_dropout",
        pytest.param("flix_joint", marks=pytest.mark.slow),
        pytest.param("flix_mixtures", marks=pytest.mark.slow),
        pytest.param("flix_diversity", marks=pytest.mark.slow),
    ],
)
def test_the_tables_of_the_paper_are_planned_from_local_folders(
    file: str, scale: str, chatty_llama: Path, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft", reason="peft is not installed: pip install 'xlt[peft]'")
    grids = _plan(file, scale, chatty_llama, shelf, tmp_path / "outputs")
    assert not list((tmp_path / "outputs").glob("runs/*/module.safetensors"))
    for heading, grid in grids.items():
        assert grid.reference, heading
        for row, printed in grid.reference.items():
            assert row in grid.systems and set(printed) <= {*grid.columns, "avg"}, (heading, row)
        assert all(grid.reference.values())


def test_an_encoder_decoder_learns_writes_and_is_exported(command: Callable[..., Ended], tmp_path: Path) -> None:
    """From three tasks to texts, by a module with deltas of tasks and languages, and by the checkpoint made of it."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    from xlt.use.export import ExportSettings, export
    from xlt.use.predict import PredictSettings, predict

    folder, data_dir = tmp_path / "mt5", write_xtreme_up(tmp_path / "shelf", examples=3, codes=["sw"])
    save_family("mT5", folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = torch.randn(weights["shared.weight"].shape, generator=torch.Generator().manual_seed(4))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    sizes = [f"task.tasks.{name}.{key}" for name in TASKS for key in ("max_new_tokens=6", "max_length=60")]
    more = ["task=xtreme_up_swahili", "data=xtreme_up_swahili", "method.ranks={task: 2, language: 2}", *sizes]
    refused = command(*_words(folder, data_dir, tmp_path / "outputs", *more))
    assert refused.code == 2 and any("template to plain" in line for line in refused.lines)
    plain = "task.tasks.semantic_parsing.template=plain"
    ended = command(*_words(folder, data_dir, tmp_path / "outputs", *more, plain, "train.max_steps=8"))
    assert ended.code == 0, ended.lines
    (module,) = (tmp_path / "outputs" / "runs").glob("*/module.safetensors")
    texts = ["who sat", "where is the cat", "a bat"]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    written = tmp_path / "written.jsonl"
    predict(
        PredictSettings(
            modules=(str(module),), task="ner", language="swa", input=str(tmp_path / "texts.txt"), output=str(written),
            device="cpu", quiet=True,
        )
    )  # fmt: skip
    said = [json.loads(line)["ner"] for line in written.read_text().splitlines()]
    assert len(said) == 3 and any(said)
    export(ExportSettings(modules=(str(module),), output=str(tmp_path / "whole"), task="ner", language="swa"))
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "whole")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "whole")
    for text, own in zip(texts, said, strict=True):
        ids = theirs.generate(**tokenizer(text, return_tensors="pt"))
        assert tokenizer.decode(ids[0], skip_special_tokens=True).strip() == own
