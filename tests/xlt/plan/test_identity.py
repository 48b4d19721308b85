from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from xlt.compose import compose
from xlt.config import BenchmarkConfig
from xlt.models.loading import load_pretrained, model_identity
from xlt.modules import Entries, ModuleHeader, SparseDelta
from xlt.plan.identity import digest, evaluation_identity
from xlt.plan.planner import Plan, Run
from xlt.plan.store import RunStore

WEIGHT = "backbone.encoder.layer.0.attention.self.query.weight"


@pytest.fixture
def plan_of(words: tuple[str, ...], tmp_path: Path) -> Callable[..., Run]:
    """The run that overrides compose, planned from nothing."""
    return lambda *overrides: Plan(RunStore(tmp_path / "outputs")).add(compose([*words, *overrides]))


@pytest.mark.parametrize(
    "override",
    [
        "seed=2",
        "train.learning_rate=0.01",
        "train.max_steps=3",
        "train.batch_size=2",
        "method.density=0.01",
        "train.precision=bf16",
        "method=bitfit",
        "task.max_length=30",
        "task.dropout=0.2",
        "data.sources.eng.cap=3",
        "data.sources.eng.upsample=2",
        "+data.sources.eng.labels={NOUN:VERB}",
        "data.sampling.by=size",
        "+source@data.excluded.fao=ud_fao",
        "data.validation.eng.cap=3",
        "+source@data.sources.fao=ud_fao",
    ],
)
def test_what_determines_the_module_is_in_the_fingerprint(override: str, plan_of: Callable[..., Run]) -> None:
    assert plan_of(override).fingerprint != plan_of().fingerprint


@pytest.mark.parametrize(
    "override",
    [
        "output_dir=elsewhere",
        "tracker=terminal",
        "tracker.group=small",
        "tracker.entity=us",
        "threads=2",
        "device=auto",
        "launcher.workers=2",
        "experiment_name=other",
        "train.save_every_seconds=7",
        "~data.evaluation.fao",
        "data.evaluation.fao.cap=2",
        "target=fao",
        "data.sources.eng.origin=translated",
    ],
)
def test_what_determines_nothing_is_not(override: str, plan_of: Callable[..., Run]) -> None:
    assert plan_of(override).fingerprint == plan_of().fingerprint


def test_the_folder_that_data_lie_in_does_not_count_but_their_content_does(
    plan_of: Callable[..., Run], shelf: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(shelf, moved)
    assert plan_of(f"data_dir={moved}").fingerprint == plan_of().fingerprint
    file = moved / "ud" / "UD_English-EWT" / "x-ud-train.conllu"
    file.write_text(file.read_text(encoding="utf-8").replace("sat", "sit"), encoding="utf-8")
    assert plan_of(f"data_dir={moved}").fingerprint != plan_of().fingerprint


def test_the_content_of_evaluation_data_counts_for_the_evaluation_alone(
    plan_of: Callable[..., Run], shelf: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(shelf, moved)
    before = plan_of()
    assert set(plan_of(f"data_dir={moved}").evaluations) == set(before.evaluations)
    file = moved / "ud" / "UD_Faroese-FarPaHC" / "x-ud-test.conllu"
    file.write_text(file.read_text(encoding="utf-8").replace("sat", "sit"), encoding="utf-8")
    after = plan_of(f"data_dir={moved}")
    assert after.fingerprint == before.fingerprint
    assert len(set(after.evaluations) & set(before.evaluations)) == 1


def test_fewer_examples_are_another_evaluation(plan_of: Callable[..., Run]) -> None:
    assert len(set(plan_of("data.evaluation.fao.cap=2").evaluations) & set(plan_of().evaluations)) == 1


def test_the_split_counts_where_examples_are_drawn_and_the_origin_where_some_are_held_out(
    plan_of: Callable[..., Run], shelf: Path
) -> None:
    one_file = f"data.sources.eng.path={shelf}/ud/UD_English-EWT/x-ud-train.conllu"
    for drawn in ("data.sources.eng.cap=3", "data.sources.eng.cap_words=3"):
        splits = [plan_of(one_file, drawn, f"data.sources.eng.split={split}") for split in ("train", "dev")]
        assert splits[0].fingerprint != splits[1].fingerprint
    more = ("+source@data.sources.fao=ud_fao", "data.sources.fao.split=dev", "~data.validation.eng")
    origins = [plan_of(*more, f"data.sources.fao.origin={origin}") for origin in ("gold", "few-shot")]
    assert origins[0].fingerprint != origins[1].fingerprint


def test_the_base_models_templates_and_way_to_generate_count(tiny_bert: Path, tmp_path: Path) -> None:
    found = set()
    for name in ("config.json", "chat_template.jinja", "generation_config.json", "tokenizer_config.json"):
        folder = shutil.copytree(tiny_bert, tmp_path / name)
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(" ")
        found.add(model_identity(str(folder), None))
    assert len(found | {model_identity(str(tiny_bert), None)}) == 5


def test_a_benchmark_counts_by_the_content_of_its_folder(plan_of: Callable[..., Run], tmp_path: Path) -> None:
    def key(folder: str, text: str) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "mine.yaml").write_text(text, encoding="utf-8")
        benchmark = BenchmarkConfig(["mine"], "acc,none", None, 0, None, None, False, str(tmp_path / folder), False)
        run = plan_of()
        data = run.planned_data.evaluated_on({}, {"mine": benchmark})
        return digest(evaluation_identity(run.config, data, "mine", {}))

    assert key("a", "one") == key("b", "one") != key("a", "two")


def test_the_base_model_counts_by_its_content(plan_of: Callable[..., Run], tiny_bert: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved-model"
    shutil.copytree(tiny_bert, moved)
    assert plan_of(f"model.path={moved}").fingerprint == plan_of().fingerprint
    other = tmp_path / "other-model"
    shutil.copytree(tiny_bert, other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (other / "model.safetensors").write_bytes(bytes(weights))
    assert plan_of(f"model.path={other}").fingerprint != plan_of().fingerprint


def test_another_dropout_is_another_run(plan_of: Callable[..., Run]) -> None:
    assert (
        plan_of("model.dropout=0.0").fingerprint != plan_of().fingerprint == plan_of("model.dropout=null").fingerprint
    )


@pytest.fixture
def module(tmp_path: Path, tiny_bert: Path) -> Iterator[Callable[[str, float], Path]]:
    def make(name: str, value: float) -> Path:
        entries = {WEIGHT: Entries(torch.tensor([3]), torch.tensor([value]), torch.Size([32, 32]))}
        base_hash = load_pretrained(str(tiny_bert)).base_hash
        header = ModuleHeader(kind="sparse_delta", method="full", base_model="b", base_hash=base_hash, language="eng")
        SparseDelta(header, entries, {}).save(tmp_path / name)
        return tmp_path / name

    yield make


def test_the_source_languages_module_counts_by_its_content(
    plan_of: Callable[..., Run], module: Callable[[str, float], Path]
) -> None:
    def run(file: Path) -> Run:
        return plan_of("~data.evaluation.fao", f"+language_modules.paths.eng={file}")

    first, same, other = module("a", 0.1), module("b", 0.1), module("c", 0.2)
    assert run(first).fingerprint == run(same).fingerprint != run(other).fingerprint
    assert run(first).fingerprint != plan_of().fingerprint


def test_a_target_languages_module_counts_for_the_evaluation_alone(
    plan_of: Callable[..., Run], module: Callable[[str, float], Path], tmp_path: Path
) -> None:
    source = module("eng", 0.1)

    def run(file: Path) -> Run:
        return plan_of(f"+language_modules.paths.eng={source}", f"+language_modules.paths.fao={file}")

    first, other = run(module("a", 0.3)), run(module("b", 0.4))
    assert first.fingerprint == other.fingerprint
    assert len(set(first.evaluations) & set(other.evaluations)) == 1


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1}) != digest({"a": 1, "b": [3, 2]})
