"""An instruction-tuned model on a benchmark that lm-eval runs, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.runs.conftest import Ended
from xlt.models.loading import load_pretrained, load_tokenizer
from xlt.modules import ModuleStack, load_module

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'xlt[benchmarks]'")

PLACES = ["mat", "hat", "cat", "rat", "bat", "vat"]
TASK = """
task: places
dataset_path: json
dataset_kwargs: {data_files: {test: "FILE"}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def questions(tmp_path: Path) -> list[dict[str, object]]:
    """Multiple choice, in a file that the task in `tmp_path/tasks` names."""
    rows: list[dict[str, object]] = []
    for number in range(12):
        choices = [PLACES[(number + step) % len(PLACES)] for step in range(3)]
        rows.append({"question": f"where sat cat {number}:", "choices": choices, "answer": number % 3})
    (tmp_path / "tasks").mkdir()
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "tasks" / "places.yaml").write_text(TASK.replace("FILE", str(file)), encoding="utf-8")
    return rows


@pytest.fixture
def words(tmp_path: Path, tiny_llama: Path) -> list[str]:
    """Overrides of a short run."""
    lines = [{"instruction": f"where sat cat {n}?", "input": "", "output": PLACES[n % 6]} for n in range(16)]
    (tmp_path / "shelf" / "gpt4_alpaca").mkdir(parents=True)
    file = tmp_path / "shelf" / "gpt4_alpaca" / "train.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return [
        "experiment=instruct",
        "data=empty",
        "+source@data.sources.alpaca=gpt4_alpaca",
        "data.sources.alpaca.split=train",
        f"data_dir={tmp_path / 'shelf'}",
        "data.held_out_fraction=0.2",
        "method=full",
        "task.template=tulu",
        "task.max_length=64",
        f"model.path={tiny_llama}",
        "train.max_steps=6",
        "train.evaluate_every_steps=3",
        "train.learning_rate=1e-2",
        "train.precision=fp32",
        "device=cpu",
        "threads=1",
        "tracker=silent",
        f"output_dir={tmp_path / 'outputs'}",
    ]


def _benchmark(folder: Path, *more: str) -> list[str]:
    name = "data.benchmarks.places"
    own = [f"{name}.tasks=[places]", f"'{name}.metric=\"acc,none\"'".strip("'"), f"{name}.folder={folder}"]
    return ["+benchmark@data.benchmarks.places=mmlu", *own, f"{name}.shots=0", *more]


def test_a_tuned_model_is_scored_with_its_module_in_place(
    command: Callable[..., Ended],
    words: list[str],
    questions: list[dict[str, object]],
    tmp_path: Path,
    tiny_llama: Path,
) -> None:
    ended = command(*words, *_benchmark(tmp_path / "tasks"))
    assert ended.code == 0, ended.lines
    (folder,) = (path.parent for path in (tmp_path / "outputs" / "runs").glob("*/evaluation.json"))
    (record,) = json.loads((folder / "evaluation.json").read_text()).values()
    assert record["source"] == "places" and record["composition"] == "task"

    model, tokenizer = load_pretrained(str(tiny_llama)).eval(), load_tokenizer(str(tiny_llama))
    before = _right(model, tokenizer, questions)
    ModuleStack(model).set([load_module(folder / "module.safetensors")])
    after = _right(model, tokenizer, questions)
    assert before != after  # else this says nothing of the module
    assert record["metrics"]["score"] == pytest.approx(100 * sum(after) / len(after))
    assert f"{record['metrics']['score']:.1f}" in ended.out


def _right(model: torch.nn.Module, tokenizer: object, rows: list[dict[str, object]]) -> list[bool]:
    """Whether the answer is the likeliest of the choices, each after the question and a space."""
    right = []
    for row in rows:
        scores = []
        for choice in row["choices"]:  # type: ignore[attr-defined]
            context = tokenizer(row["question"], add_special_tokens=False)["input_ids"]  # type: ignore[operator]
            whole = tokenizer(f"{row['question']} {choice}", add_special_tokens=False)["input_ids"]  # type: ignore[operator]
            ids = torch.tensor([whole])
            with torch.no_grad():
                logits = model.lm_head(model.encode(ids, torch.ones_like(ids)))[0].log_softmax(-1)  # type: ignore[operator]
            positions = range(len(context), len(whole))
            scores.append(sum(float(logits[position - 1, whole[position]]) for position in positions))
        right.append(scores.index(max(scores)) == row["answer"])
    return right


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["data.benchmarks.places.tasks=[nowhere]"], "data.benchmarks.places.tasks: lm-eval has no task nowhere"),
        pytest.param(
            ["data.benchmarks.places.tasks=[humaneval]"],
            "data.benchmarks.places.runs_code=false: humaneval runs code",
            marks=pytest.mark.slow,  # as long as the first
        ),
        pytest.param(
            ["task=mlm_lines"],
            "data.benchmarks: benchmarks need a causal language model",
            marks=pytest.mark.slow,
        ),
        (["data.benchmarks.places.folder=absent"], "data.benchmarks.places.folder=absent: there is no such folder"),
    ],
)
def test_what_cannot_be_run_is_refused_before_training(
    more: list[str],
    said: str,
    command: Callable[..., Ended],
    words: list[str],
    questions: list[dict[str, object]],
    tmp_path: Path,
) -> None:
    kept = [word for word in words if not (more[0].startswith("task=") and word.startswith("task."))]
    ended = command(*kept, *_benchmark(tmp_path / "tasks", *more))
    assert ended.code == 2
    assert any(line.startswith(f"xlt: {said}") for line in ended.lines), ended.lines
    assert not (tmp_path / "outputs" / "runs").exists() or not list((tmp_path / "outputs" / "runs").glob("*/*.json"))
