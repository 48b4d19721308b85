"""Two instruction modules in one model, from the command line (thesis §7.5.1, Eq. 7.9)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from tests.runs.conftest import Ended
from xlt.compose import checked, compose, hydra_ready
from xlt.engine.build import build_encoder, build_task
from xlt.engine.evaluation import evaluate
from xlt.engine.run_data import RunData
from xlt.models.loading import load_pretrained
from xlt.modules import LowRankDelta, SparseDelta, load_module

WORDS = ("cat", "hat", "mat", "rat")
SPIEL = ("method.density=0.2", "method.update_interval=3", "method.estimation_steps=2")


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A data folder with two small sets of instructions to learn from, and one to be evaluated on."""
    sets = {
        "gpt4_alpaca": ("where sat the", "on the"),
        "tulu_v2": ("who has a", "it is a"),
        "tests": ("who sat on the", "it is the"),
    }
    for name, (ask, answer) in sets.items():
        folder = tmp_path / "shelf" / name
        folder.mkdir(parents=True)
        lines = [
            {"instruction": f"{ask} {WORDS[n % 4]} {n}?", "input": "", "output": f"{answer} {WORDS[(n + 1) % 4]}"}
            for n in range(24)
        ]
        (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return tmp_path / "shelf"


def _read(name: str) -> list[str]:
    fields = "{prompt: instruction, input: input, completion: output}"
    path = f"data.sources.{name}.path=${{data_dir}}/{name}"
    return [
        f"+source@data.sources.{name}=gpt4_alpaca", f"data.sources.{name}.split=train", path,
        f"data.sources.{name}.fields={fields}",
    ]  # fmt: skip


@pytest.fixture
def words(tmp_path: Path, tiny_llama: Path, shelf: Path) -> list[str]:
    """Overrides of a short run on the one set, to whose module that of the other is added; evaluated on a third."""
    other = ",".join(f'"{word}"' for word in ["data=empty", *_read("tulu_v2"), "data.held_out_fraction=0.2"])
    return [
        "experiment=instruct",
        "data=empty",
        *_read("gpt4_alpaca"),
        "+source@data.evaluation.tests=gpt4_alpaca",
        "data.evaluation.tests.split=train",
        "data.evaluation.tests.path=${data_dir}/tests",
        "data.held_out_fraction=0.2",
        f"data_dir={shelf}",
        f"model.path={tiny_llama}",
        "task.template=tulu",
        "task.max_length=64",
        "train.max_steps=6",
        "train.evaluate_every_steps=3",
        "train.learning_rate=3e-2",
        "train.precision=fp32",
        "device=cpu",
        "threads=1",
        "tracker=silent",
        f"output_dir={tmp_path / 'outputs'}",
        "task_modules.evaluate_base=true",
        f"+task_modules.runs.tulu=[{other}]",
    ]


@pytest.mark.parametrize("method", ["spiel_ag", "lora"])
def test_the_model_that_is_evaluated_is_the_base_plus_the_deltas_of_both(
    method: str, command: Callable[..., Ended], words: list[str], tiny_llama: Path, tmp_path: Path
) -> None:
    if method == "lora":
        pytest.importorskip("peft", reason="peft is not installed: pip install 'xlt[peft]'")
    mine = [*words, f"method={method}", *(SPIEL if method == "spiel_ag" else ["method.rank=8"])]
    ended = command(*mine)
    assert ended.code == 0, ended.lines
    (own,) = (path.parent for path in (tmp_path / "outputs" / "runs").glob("*/evaluation.json"))
    (other,) = (path.parent for path in (tmp_path / "outputs" / "runs").glob("*/result.json") if path.parent != own)
    records = json.loads((own / "evaluation.json").read_text()).values()
    found = {record["composition"]: record["metrics"]["loss"] for record in records}

    deltas = [_deltas(load_module(folder / "module.safetensors")) for folder in (own, other)]
    wanted = {
        "base": _loss(mine, tiny_llama),
        "task": _loss(mine, tiny_llama, *deltas),
    }
    assert found == pytest.approx(wanted, rel=1e-5)
    one = _loss(mine, tiny_llama, deltas[0])
    assert len({round(loss, 4) for loss in (one, *wanted.values())}) == 3  # else this says nothing of the sum


def _deltas(module: object) -> Mapping[str, torch.Tensor]:
    """Name -> dense delta in float64."""
    if isinstance(module, LowRankDelta):
        return {name: module.scale * (b.double() @ a.double()) for name, (a, b) in module.factors.items()}
    assert isinstance(module, SparseDelta)
    dense = {}
    for name, entries in module.entries.items():
        whole = torch.zeros(entries.total, dtype=torch.float64)
        at = slice(None) if entries.indices is None else entries.indices.long()
        whole[at] = entries.values.double()
        dense[name] = whole.view(entries.shape)
    return dense


def _loss(words: list[str], folder: Path, *deltas: Mapping[str, torch.Tensor]) -> float:
    """Of the evaluation source, by the base plus the sum of deltas."""
    with hydra_ready():
        config = checked(compose(words))
    task = build_task(config.task)
    data = RunData(config, task)
    encoder = build_encoder(config, str(folder), data)
    model = load_pretrained(str(folder))
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name in {name for delta in deltas for name in delta}:
            weights[name].copy_(weights[name].double() + sum(delta[name] for delta in deltas if name in delta))
    return evaluate(model, task, data.load("evaluation", encoder), encoder, 4, "fp32")["loss"]
