"""Against the real client, offline; what it wrote is read back."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.xlt.tracking.offline_runs import RECORDS
from tests.xlt.tracking.offline_runs import all_records as _all
from tests.xlt.tracking.offline_runs import history_rows as _history
from tests.xlt.tracking.offline_runs import record_step as _step
from tests.xlt.tracking.offline_runs import sittings as _sittings
from tests.xlt.tracking.offline_runs import start_tracking as _tracked
from tests.xlt.tracking.offline_runs import summary_values as _summary
from xlt.engine.run import Composition, ModuleFile
from xlt.errors import UsageError
from xlt.plan.planner import Run
from xlt.plan.store import RunStore
from xlt.tracking.jsonl import MetricsFile
from xlt.tracking.wandb import WandbRun, check_account, job_type, table_tag, tags
from xlt.tracking.wandb_names import artifact_name
from xlt.tracking.wandb_record import WandbRecord, has_unsent
from xlt.tracking.watch import send_unsent

wandb = pytest.importorskip("wandb")


def test_a_run_says_where_it_belongs_and_what_it_is(make_run: Callable[..., Run], store: RunStore) -> None:
    run = make_run("tracker.project=languages", "tracker.entity=us", "tracker.group=small", "method=bitfit")
    _tracked(run, store).close()
    ((said,),) = [_all(run, store, "run")]
    assert (said.project, said.entity, said.run_group, said.job_type) == ("languages", "us", "small", "task module")
    assert (said.run_id, said.display_name) == (run.fingerprint[:16], run.label)
    assert list(said.tags) == ["locale_fields", "bitfit", "eng"]
    config = {item.key: json.loads(item.value_json) for item in said.config.update}
    assert config["fingerprint"] == run.fingerprint and config["stands_on"] == run.depends_on
    assert config["train"]["batch_size"] == run.config.train.batch_size


def _places(run: Run, store: RunStore) -> tuple[list[str], dict[str, str]]:
    """The tables that a run is tagged with, and what it is called in each, as W&B was told last."""
    said = _all(run, store, "run")[-1]
    config = {item.key: json.loads(item.value_json) for item in said.config.update}
    return [tag for tag in said.tags if tag.startswith("table:")], config["systems"]


def test_a_run_has_its_name_in_every_table_that_asks_for_it_also_in_one_that_found_it_done(
    make_run: Callable[..., Run], store: RunStore
) -> None:
    run = make_run()
    run.systems = {"first": "LT-SFT"}
    watcher = _tracked(run, store)
    watcher.trained()
    watcher.close()
    assert _places(run, store) == (["table:first"], {"first": "LT-SFT"})
    again = make_run()
    again.systems = {"second": "LT-SFT, LT-SFT TA-only"}
    send_unsent([again], store)
    both = {"first": "LT-SFT", "second": "LT-SFT, LT-SFT TA-only"}
    assert _places(run, store) == (["table:first", "table:second"], both)
    sittings = len(_sittings(run, store))
    send_unsent([run, again], store)
    assert len(_sittings(run, store)) == sittings


@pytest.mark.parametrize(
    ("experiment", "overrides", "leaves"),
    [
        ("nano_fields", (), "task module"),
        ("nano_language", ("language=fao",), "language module"),
        ("nano_generator", (), "language module"),
        ("nano_pretrain", (), "base model"),
        ("nano_bistil", ("target=fao",), "student"),
    ],
)
def test_the_job_type_is_what_the_run_leaves(
    make_run: Callable[..., Run], experiment: str, overrides: tuple[str, ...], leaves: str
) -> None:
    assert job_type(make_run(*overrides, experiment=experiment)) == leaves


def test_many_languages_are_one_tag(make_run: Callable[..., Run]) -> None:
    run = make_run()
    data = run.config.data
    sources = {str(n): dataclasses.replace(data.sources["eng"], language=f"a{n:02}") for n in range(13)}
    run.config = dataclasses.replace(run.config, data=dataclasses.replace(data, sources=sources))
    assert tags(run) == ["locale_fields", "lt_sft", "13 languages"]


def test_a_trained_module_is_an_artifact_that_comes_of_those_it_stands_on(
    make_run: Callable[..., Run], store: RunStore
) -> None:
    run = make_run()
    watcher = _tracked(run, store)
    watcher.trained()
    watcher.close()
    artifacts = {artifact.name: artifact for artifact in _all(run, store, "artifact")}
    used = {name for name, artifact in artifacts.items() if artifact.use_after_commit}
    assert used == {"module-babababababa", "module-e0e0e0e0e0e0"}
    module = artifacts["module-abababababab"]
    assert module.type == "module" and not module.use_after_commit
    assert json.loads(module.metadata) == {
        "fingerprint": run.fingerprint,
        "kind": "some",
        "seconds": 1.0,
        "seed": 1,
    }
    (content,) = module.manifest.contents
    assert Path(content.local_path) == store.module_file(run.fingerprint)  # uploaded from there, not copied
    summary = _summary(run, store)
    assert (summary["best/accuracy"], summary["best/step"], summary["module/density"]) == (80.0, 4, 0.08)
    assert [ended.exit_code for ended in _all(run, store, "exit")] == [0]


def test_evaluations_go_to_the_same_run_as_a_table_that_names_the_modules(
    make_run: Callable[..., Run], store: RunStore
) -> None:
    run = make_run()
    training = _tracked(run, store)
    training.begin_phase("train", 0, 1)
    _step(training, "train", 1)
    training.trained()
    training.close()
    evaluation = _tracked(run, store)
    evaluation.evaluated(RECORDS)
    evaluation.close()
    assert {said.run_id for said in _all(run, store, "run")} == {run.fingerprint[:16]}
    assert [row["row"] for row in _history(run, store)] == [0, 1]
    (file,) = store.folder(run.fingerprint).glob("wandb/offline-run-*/files/media/table/*.json")
    table = json.loads(file.read_text())
    assert table["columns"] == ["source", "language", "composition", "modules", "macro_f1", "accuracy", "score"]
    assert table["data"] == [
        ["fao", "fao", "task", "module-abababababab", 40.0, 50.0, None],
        ["fao", "fao", "task+language", "module-fafafafafafa + module-abababababab", 60.0, None, None],
        ["mmlu", None, "task", "", None, None, 25.0],
    ]
    summary = _summary(run, store)
    assert summary["evaluation/fao/task_with_language/macro_f1"] == 60.0
    assert "evaluation/mmlu/task/score" not in summary
    later = [r.artifact for r in _sittings(run, store)[1] if r.WhichOneof("record_type") == "artifact"]
    assert {artifact.name for artifact in later if artifact.use_after_commit} == {"module-fafafafafafa"}


def _modules(run: Run, store: RunStore) -> set[str]:
    """Names of the modules that W&B was given as what the run made."""
    return {a.name for a in _all(run, store, "artifact") if a.type == "module" and not a.use_after_commit}


@pytest.mark.parametrize("lost", ["trained", "evaluated", "finish"])
def test_an_error_after_the_run_is_recorded_is_a_line_and_the_next_command_makes_it_good(
    lost: str,
    make_run: Callable[..., Run],
    store: RunStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = make_run("tracker.progress=false")

    told = getattr(wandb.Run, lost, None)

    def fail(*arguments: Any, **settings: Any) -> None:
        if told is not None:
            told(*arguments, **settings)
        raise OSError("could not\nupload")

    with monkeypatch.context() as patch:
        patch.setattr(WandbRun if told is None else wandb.Run, lost, fail)
        training = _tracked(run, store)
        training.begin_phase("train", 0, 1)
        _step(training, "train", 1)
        training.trained()
        training.close()
        store.add_evaluations(run.fingerprint, RECORDS)
        evaluation = _tracked(run, store)
        evaluation.evaluated(store.evaluations(run.fingerprint))
        evaluation.close()
    line = f"xlt: {run.label}: not everything was sent: OSError: could not upload; repeat the command to send the rest"
    assert set(capsys.readouterr().err.splitlines()) == {line}
    send_unsent([run], store)
    assert _summary(run, store)["evaluation/fao/task_with_language/macro_f1"] == 60.0
    assert _summary(run, store)["module/density"] == 0.08
    assert _modules(run, store) == {"module-abababababab"}
    assert [ended.exit_code for ended in _all(run, store, "exit")][-1] == 0
    assert [row["train/step"] for row in _history(run, store) if "train/step" in row] == [1]
    sittings = len(_sittings(run, store))
    send_unsent([run], store)
    assert len(_sittings(run, store)) == sittings
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("killed_before", ["trained", "evaluated"])
def test_what_a_kill_kept_from_wandb_is_sent_by_the_next_command(
    killed_before: str, make_run: Callable[..., Run], store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    training = _tracked(run, store)
    _step(training, "train", 1)
    if killed_before == "evaluated":
        training.trained()
        store.add_evaluations(run.fingerprint, RECORDS)
    training.close()  # a client that outlives the program
    send_unsent([run], store)
    assert f"W&B received the missing parts of {run.label}: wandb sync" in capsys.readouterr().err
    assert _modules(run, store) == {"module-abababababab"}
    assert ("evaluation/fao/task/accuracy" in _summary(run, store)) == (killed_before == "evaluated")
    assert [ended.exit_code for ended in _all(run, store, "exit")][-1] == 0


def test_a_run_that_was_made_without_wandb_is_sent_by_the_first_command_that_asks_for_it(
    make_run: Callable[..., Run], store: RunStore
) -> None:
    silent, run = make_run("tracker.wandb='off'"), make_run()
    MetricsFile(store.folder(run.fingerprint)).metrics("train", 1, {"loss": 1.0})
    store.add_evaluations(run.fingerprint, RECORDS)
    send_unsent([silent], store)
    assert _sittings(run, store) == []
    store.module_file(run.fingerprint).parent.joinpath("result.json").rename(store.root / "result.json")
    send_unsent([run], store)
    assert _sittings(run, store) == []  # not trained: nothing to tell yet
    (store.root / "result.json").rename(store.folder(run.fingerprint) / "result.json")
    send_unsent([run], store)
    assert _history(run, store)[0] == {"row": 0, "train/step": 1, "train/loss": 1.0}
    assert _modules(run, store) == {"module-abababababab"} and "best/accuracy" in _summary(run, store)
    assert _summary(run, store)["evaluation/fao/task/accuracy"] == 50.0


def test_another_place_and_other_evaluations_are_told_what_they_lack(
    make_run: Callable[..., Run], store: RunStore
) -> None:
    run = make_run()
    store.add_evaluations(run.fingerprint, RECORDS)
    send_unsent([run], store)
    folder, tracker = store.folder(run.fingerprint), run.config.tracker
    assert WandbRecord.read(folder, tracker) == WandbRecord(trained=True, scores=["k1", "k2"]) and not has_unsent(
        run, store
    )
    online = make_run("tracker.wandb=online", "tracker.entity=us")
    assert has_unsent(online, store)
    WandbRecord(trained=True, scores=["k1", "k2"]).write(folder, online.config.tracker)
    assert not has_unsent(online, store) and has_unsent(make_run("tracker.wandb=online", "tracker.entity=them"), store)
    run.evaluations["old"] = Composition("mmlu", "task", (), "mmlu", "")  # another table wants this one of it
    assert has_unsent(run, store)
    send_unsent([run], store)
    assert _summary(run, store)["evaluation/mmlu/task/score"] == 25.0 and not has_unsent(run, store)


def test_after_an_error_the_rest_is_left_to_the_next_command(
    make_run: Callable[..., Run],
    store: RunStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[str] = []

    def unreachable(**settings: Any) -> None:
        asked.append(settings["id"])
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(wandb, "init", unreachable)
    send_unsent([make_run(), make_run()], store)
    assert len(asked) == 1 and "CommError: no route to host; repeat the command" in capsys.readouterr().err


def test_a_run_that_cannot_be_sent_does_not_hold_up_those_behind_it(
    make_run: Callable[..., Run],
    store: RunStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[str] = []

    def refuse(**settings: Any) -> None:
        asked.append(settings["id"])
        raise ValueError("a name that the client refuses")

    monkeypatch.setattr(wandb, "init", refuse)
    send_unsent([make_run(), make_run()], store)
    assert len(asked) == 2 and capsys.readouterr().err.count("repeat the command") == 2


def test_the_client_accepts_tags_names_and_groups_of_any_length(make_run: Callable[..., Run], store: RunStore) -> None:
    long = "f" * 200
    run = make_run(f"tracker.group={long}", f"experiment_name={long}", f"task.name={long}")
    run.systems = {long: "LT-SFT"}
    _tracked(run, store).close()
    ((said,),) = [_all(run, store, "run")]
    assert all(len(tag) <= 64 for tag in said.tags) and len(said.display_name) == len(said.run_group) == 128
    assert table_tag(long) in said.tags and table_tag(long + "2") not in said.tags


def test_a_foreign_module_with_a_name_that_wandb_refuses_is_sent(
    make_run: Callable[..., Run], store: RunStore, tmp_path: Path
) -> None:
    run, foreign = make_run(), tmp_path / "módulo de teste.safetensors"
    foreign.write_bytes(b"module")
    (key, planned), *_ = run.evaluations.items()
    run.evaluations[key] = dataclasses.replace(planned, modules=(*planned.modules, ModuleFile(foreign)))
    store.add_evaluations(run.fingerprint, RECORDS)
    send_unsent([run], store)
    assert not has_unsent(run, store)
    assert artifact_name("module-módulo de teste") in {artifact.name for artifact in _all(run, store, "artifact")}


def test_a_translation_is_complete_without_a_module_and_so_is_what_learned_from_it(
    make_run: Callable[..., Run], store: RunStore
) -> None:
    run = make_run()
    for fingerprint in (run.fingerprint, run.depends_on["eng"]):
        store.module_file(fingerprint).unlink()
    watcher = _tracked(run, store)
    watcher.trained()
    watcher.close()
    assert {artifact.name for artifact in _all(run, store, "artifact")} == {"module-babababababa"}
    assert [ended.exit_code for ended in _all(run, store, "exit")] == [0]


def test_without_artifacts_no_module_leaves_the_machine(make_run: Callable[..., Run], store: RunStore) -> None:
    run = make_run("tracker.artifacts=false")
    watcher = _tracked(run, store)
    watcher.trained()
    watcher.evaluated(RECORDS)
    watcher.close()
    assert [artifact.type for artifact in _all(run, store, "artifact")] == ["run_table"]


def test_an_absent_client_is_one_line(
    make_run: Callable[..., Run], store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"tracker\.wandb=offline: .*pip install"):
        WandbRun(run, store)


def test_online_without_an_account_is_one_line(
    make_run: Callable[..., Run], store: RunStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(**settings: Any) -> None:
        assert settings["mode"] == "online"
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UsageError) as raised:
        WandbRun(make_run("tracker.wandb=online"), store)
    (line,) = raised.value.lines
    assert line.startswith("tracker.wandb=online: No API key configured. Use `wandb login`")
    assert line.endswith("or set tracker.wandb=offline")


def test_evaluations_with_other_modules_have_scores_of_their_own_in_the_summary(
    make_run: Callable[..., Run], store: RunStore
) -> None:
    run = make_run()
    usual = run.evaluations["k2"]
    run.evaluations["k3"] = dataclasses.replace(usual, unusual="module of isl")
    run.evaluations["k4"] = dataclasses.replace(usual, unusual="module of isl")  # of another file, say
    records = {key: {**RECORDS["k2"], "metrics": {"macro_f1": float(key[1])}} for key in ("k2", "k3", "k4")}
    watcher = _tracked(run, store)
    watcher.evaluated(records)
    watcher.close()
    scores = {name: value for name, value in _summary(run, store).items() if name.startswith("evaluation/fao")}
    assert scores == {
        "evaluation/fao/task_with_language/macro_f1": 2.0,
        "evaluation/fao/task_with_language (module of isl) [k3]/macro_f1": 3.0,
        "evaluation/fao/task_with_language (module of isl) [k4]/macro_f1": 4.0,
    }
    (file,) = store.folder(run.fingerprint).glob("wandb/offline-run-*/files/media/table/*.json")
    compositions = [row[2] for row in json.loads(file.read_text())["data"]]
    assert compositions == ["task+language", *["task+language (module of isl)"] * 2]


def test_an_account_is_asked_for_before_the_first_run_and_only_for_runs_that_go_online(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**settings: Any) -> None:
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login` to log in.")

    monkeypatch.setattr(wandb, "login", refuse)
    check_account([make_run()])
    with pytest.raises(UsageError, match=r"tracker\.wandb=online: No API key .* or set tracker\.wandb=offline"):
        check_account([make_run(), make_run("tracker.wandb=online")])
