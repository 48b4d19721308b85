"""BiStil from the command line: language modules, stage 1, teacher, stage 2; and a checkpoint that anybody loads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.tolerance import summation_tolerance
from xlt.compose import compose, hydra_ready
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.execution.execution import carry_out
from xlt.models.loading import load_pretrained, load_tokenizer
from xlt.modules import load_module
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore

# A recipe that has nothing by method: with LT-SFT the dense phase is as long as the other.
TINY = ["recipe=nano_distil", "train.max_steps=2", "train.evaluate_every_steps=1", "train.batch_size=4"]
TINY += ["task.max_length=40", "train.precision=fp32"]
STAGE_1 = ["target={target}", "data.sources.source.language={source}", *TINY]
FRESH = """
import sys, torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForMaskedLM.from_pretrained(sys.argv[1]).eval()
batch = tokenizer(sys.argv[2].split("|"), return_tensors="pt", padding=True)
with torch.no_grad():
    torch.save({"ids": batch["input_ids"], "logits": model(**batch).logits}, sys.argv[3])
"""


def _list(words: list[str], quote: str = "'") -> str:
    return "[" + ",".join(f"{quote}{word}{quote}" for word in words) + "]"


def _words(data_dir: Path, model: Path, out: Path, student: str) -> list[str]:
    """A run of POS tagging on a student of a tiny model, and of all that it stands on."""
    adapts = [f"language_modules.overrides={_list(TINY)}"]
    inner = f"language_modules.overrides={_list(TINY, chr(34))}"
    stage_1 = STAGE_1 if student == "scratch" else [*STAGE_1, inner]
    return [
        "experiment=pos",
        f"student={student}",
        "target=fao",
        f"data_dir={data_dir}",
        f"model.path={model}",
        f"output_dir={out}",
        "tracker=silent",
        "threads=1",
        *TINY,
        f"model.student.run.overrides={_list(stage_1)}",
        *adapts,
        "+source@data.evaluation.fao=ud_fao",
        "data.evaluation.fao.split=test",
    ]


@pytest.fixture(scope="module")
def made(data_dir: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of finished runs by what they are: stage 1, BiStil-TF, teacher, BiStil-ST."""
    out = tmp_path_factory.mktemp("bistil") / "outputs"
    folders: dict[str, Path] = {}
    with hydra_ready():
        plan = Plan(RunStore(out))
        asked = {
            "tf": plan.add(compose(_words(data_dir, tiny_bert, out, "bistil_tf"))),
            "st": plan.add(compose(_words(data_dir, tiny_bert, out, "bistil_st"))),
        }
        narrow = [*_words(data_dir, tiny_bert, out, "bistil_tf"), "model.student.hidden_size=16"]
        asked["narrow"] = plan.add(compose(narrow))
        whole = [word for word in _words(data_dir, tiny_bert, out, "none") if not word.startswith("model.student")]
        asked["lt_sft"] = plan.add(compose(whole), evaluate=False)
        plan.preflight()
        outcome = carry_out(plan, None, lambda run, store: Silence(), lambda *report: None)
    assert not outcome.failures
    for name, run in asked.items():
        folders[name] = plan.store.folder(run.fingerprint)
    folders["stage 1"] = plan.store.folder(asked["tf"].depends_on["student"])
    folders["narrow stage 1"] = plan.store.folder(asked["narrow"].depends_on["student"])
    folders["teacher"] = plan.store.folder(asked["tf"].depends_on["teacher"])
    folders["runs"] = plan.store.runs
    return folders


def test_stages_share_what_they_stand_on(made: dict[str, Path]) -> None:
    """Two language modules, stage 1 of two widths, BiStil-TF of both, -ST, and the teacher: LT-SFT itself."""
    assert made["teacher"] == made["lt_sft"]
    assert len(list(made["runs"].glob("*/result.json"))) == 8


def test_a_narrow_student_learns_in_both_stages(made: dict[str, Path]) -> None:
    shape = load_pretrained(str(made["narrow stage 1"] / "checkpoint")).backbone.config
    assert (shape.hidden_size, shape.num_hidden_layers) == (16, 1)
    widening = load_module(made["narrow stage 1"] / "module.safetensors").tensors["head.weight"]  # type: ignore[attr-defined]
    assert widening.shape == (32, 16)
    assert (made["narrow"] / "evaluation.json").is_file()


def test_a_student_is_evaluated_alone_and_only_on_its_languages(made: dict[str, Path]) -> None:
    for name in ("tf", "st"):
        records = json.loads((made[name] / "evaluation.json").read_text(encoding="utf-8")).values()
        assert {(record["language"], record["composition"]) for record in records} == {("eng", "task"), ("fao", "task")}


def test_the_checkpoint_loads_in_a_fresh_process_with_plain_transformers(
    made: dict[str, Path], tiny_bert: Path, tmp_path: Path
) -> None:
    checkpoint = made["stage 1"] / "checkpoint"
    texts = ["the en cat sat", "fo mat 7"]
    subprocess.run(
        [sys.executable, "-c", FRESH, str(checkpoint), "|".join(texts), str(tmp_path / "out.pt")], check=True
    )
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    model, tokenizer = load_pretrained(str(checkpoint)).eval(), load_tokenizer(str(checkpoint))
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        hidden = model.encode(batch["input_ids"], batch["attention_mask"])
        wanted = model.language_model_logits(hidden)
    assert torch.equal(found["ids"], batch["input_ids"])
    # The other process may use more threads, and so add in another order: 32 hidden and 64 feed-forward entries.
    tolerance = summation_tolerance(32 + 64, torch.float32) * float(wanted.abs().max())
    torch.testing.assert_close(found["logits"], wanted, rtol=0, atol=tolerance)
    full = load_tokenizer(str(tiny_bert))
    assert len(tokenizer) < len(full)
    pieces = [tokenizer.convert_ids_to_tokens(ids) for ids in tokenizer(texts)["input_ids"]]
    assert pieces == [full.convert_ids_to_tokens(ids) for ids in full(texts)["input_ids"]]


def test_the_result_says_how_large_the_student_is_and_what_its_vocabulary_lost(made: dict[str, Path]) -> None:
    told = json.loads((made["stage 1"] / "result.json").read_text(encoding="utf-8"))["student"]
    assert told["parameters"] == told["embedding_parameters"] + told["body_parameters"] < told["teacher_parameters"]
    assert 0 < told["tokens"] < told["teacher_tokens"]
    assert 0 <= told["words_cut_otherwise"] <= told["words"]


def test_the_students_module_is_sparse_and_of_the_student(made: dict[str, Path]) -> None:
    module = load_module(made["tf"] / "module.safetensors")
    assert module.header.base_hash == load_pretrained(str(made["stage 1"] / "checkpoint")).base_hash
    assert module.header.method == "lt_sft"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["~target"], "target=null: a student is made for one target language; give target=CODE"),
        (["model.student.layer_reduction=3"], "model.student.layer_reduction=3: the teacher has 2 layers"),
        (["model.student.hidden_size=15"], "model.student.hidden_size=15: "),
        (["model.student.token_probability=2"], "model.student.token_probability=2.0: must be in [0, 1]"),
        (["teacher.losses=[logits]"], "teacher.losses: logits is none of attention, hidden, prediction"),
        (["teacher.knows_task=false"], "teacher.losses: prediction needs a teacher that knows the task"),
        (
            ["experiment=bistil", "teacher.losses=[prediction]", "teacher.knows_task=true"],
            "task mlm makes no decisions",
        ),
        (["student=none", "teacher.losses=[hidden]"], "teacher.losses: only a student has a teacher"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    words: list[str], said: str, data_dir: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    given = _words(data_dir, tiny_bert, tmp_path / "outputs", "bistil_tf")
    replaced = {word.partition("=")[0] for word in words}
    if "~target" in words:
        given, words = [word for word in given if word != "target=fao"], []
    given = [word for word in given if word.partition("=")[0] not in replaced]
    if "experiment=bistil" in words:
        given = [w for w in given if not w.startswith(("student", "model.student", "+source", "data.ev"))]
    if "student=none" in words:
        given = [word for word in given if not word.startswith("model.student")]
    with hydra_ready(), pytest.raises(UsageError, match=re.escape(said)):
        plan = Plan(RunStore(tmp_path / "outputs"))
        plan.add(compose([*given, *words]))
        plan.preflight()
    assert not (tmp_path / "outputs" / "runs").exists()
