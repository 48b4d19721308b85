"""Against the real client, offline; what it wrote is read back."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlt.engine.run import ALONE, Composition, ModuleFile
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.plan.planner import Run
from xlt.plan.store import RunStore
from xlt.tracking.jsonl import MetricsFile
from xlt.tracking.wandb import WandbRun, job_type, table_tag, tags
from xlt.tracking.wandb_file import records
from xlt.tracking.wandb_names import artifact_name
from xlt.tracking.wandb_record import WandbRecord, has_unsent
from xlt.tracking.watch import Watchers, send_unsent, watch

wandb = pytest.importorskip("wandb")

RECORDS = {
    "k1": {"source": "fao", "language": "fao", "composition": "task", "metrics": {"macro_f1": 40.0, "accuracy": 50.0}},
    "k2": {"source": "fao", "language": "fao", "composition": "task+language", "metrics": {"macro_f1": 60.0}},
    "old": {"source": "mmlu", "composition": "task", "metrics": {"score": 25.0}},  # of another table's
}


def _sittings(run: Run, store: RunStore) -> list[list[Any]]:
    """The records of each offline sitting, in order of time."""
    files = store.folder(run.fingerprint).glob("wandb/offline-run-*/*.wandb")
    return [list(records(file)) for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]


def _all(run: Run, store: RunStore, kind: str) -> list[Any]:
    sittings = _sittings(run, store)
    return [getattr(r, kind) for sitting in sittings for r in sitting if r.WhichOneof("record_type") == kind]


def _history(run: Run, store: RunStore) -> list[dict[str, Any]]:
    rows = []
    for row in _all(run, store, "history"):
        items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item}
        rows.append({"row": row.step.num, **{n: v for n, v in items.items() if not n.startswith("_")}})
    return rows


def _summary(run: Run, store: RunStore) -> dict[str, Any]:
    updates = [update for summary in _all(run, store, "summary") for update in summary.update]
    return {"/".join(update.nested_key) or update.key: json.loads(update.value_json) for update in updates}


def _tracked(run: Run, store: RunStore) -> Watchers:
    return Watchers([MetricsFile(store.folder(run.fingerprint)), WandbRun(run, store)], run.label)


def _step(watcher: Watchers, phase: str, step: int) -> None:
    watcher.metrics(phase, step, {"loss": 1 / step, "rate": 0.1})


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


def test_each_phase_has_an_axis_of_its_own_and_the_tasks_metric_a_direction(
    make_run: Callable[..., Run], store: RunStore
) -> None:
    run = make_run()
    watcher = _tracked(run, store)
    for phase in ("dense", "sparse"):
        watcher.begin_phase(phase, 0, 2)
        _step(watcher, phase, 1)
        for step, score in ((1, 70.0), (2, 60.0)):
            watcher.metrics(phase, step, {"validation/accuracy": score})
    watcher.close()
    metrics = {metric.name or metric.glob_name: metric for metric in _all(run, store, "metric")}
    assert {name: metric.step_metric for name, metric in metrics.items() if metric.step_metric} == {
        "dense/*": "dense/step",
        "dense/loss": "dense/step",
        "dense/validation/accuracy": "dense/step",
        "sparse/*": "sparse/step",
        "sparse/loss": "sparse/step",
        "sparse/validation/accuracy": "sparse/step",
    }
    assert metrics["dense/validation/accuracy"].summary.max and metrics["dense/loss"].summary.min
    assert _summary(run, store)["sparse/validation/accuracy"] == {"max": 70.0}
    assert _history(run, store)[:2] == [
        {"row": 0, "dense/step": 1, "dense/loss": 1.0, "dense/rate": 0.1},
        {"row": 1, "dense/step": 1, "dense/validation/accuracy": 70.0},
    ]


def test_a_resumed_run_goes_on_in_the_same_one_and_repeats_nothing(
    make_run: Callable[..., Run], store: RunStore
) -> None:
    run = make_run()
    first = _tracked(run, store)
    first.begin_phase("train", 0, 8)
    for step in range(1, 6):
        _step(first, "train", step)
    first.close()
    again = _tracked(run, store)
    again.rewind(3)  # its state was saved after step 3
    again.begin_phase("train", 3, 8)
    for step in range(4, 9):
        _step(again, "train", step)
    again.close()
    assert {said.run_id for said in _all(run, store, "run")} == {run.fingerprint[:16]}
    assert all(said.resume for said in _all(run, store, "run"))
    history = _history(run, store)
    assert [row["train/step"] for row in history] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row["row"] for row in history] == list(range(8))
    assert [ended.exit_code for ended in _all(run, store, "exit")] == [1, 1]  # neither sitting saw the end


def test_what_a_killed_client_had_not_written_is_sent_again_from_the_file(
    make_run: Callable[..., Run], store: RunStore
) -> None:
    run = make_run()
    killed = _tracked(run, store)
    killed.begin_phase("train", 0, 400)
    for step in range(1, 301):
        _step(killed, "train", step)
    killed.close()
    (file,) = store.folder(run.fingerprint).glob("wandb/offline-run-*/*.wandb")
    file.write_bytes(file.read_bytes()[: 32 * 1024])  # the client writes a block at a time
    kept = len(_history(run, store))
    assert 0 < kept < 299
    again = _tracked(run, store)
    again.rewind(299)
    again.begin_phase("train", 299, 400)
    _step(again, "train", 300)
    again.close()
    history = _history(run, store)
    assert [row["train/step"] for row in history] == list(range(1, 301))
    assert history[kept]["train/loss"] == pytest.approx(1 / (kept + 1), rel=1e-6)


def test_a_run_that_began_without_wandb_is_whole_there(make_run: Callable[..., Run], store: RunStore) -> None:
    run = make_run()
    file = MetricsFile(store.folder(run.fingerprint))
    for step in (1, 2):
        file.metrics("train", step, {"loss": float("nan") if step == 2 else 1.0})
    watcher = _tracked(run, store)
    watcher.evaluated(RECORDS)
    watcher.close()
    history = _history(run, store)
    assert history[:2] == [{"row": 0, "train/step": 1, "train/loss": 1.0}, {"row": 1, "train/step": 2}]
    assert {artifact.name for artifact in _all(run, store, "artifact") if artifact.type == "module"} == {
        "module-abababababab",
        "module-babababababa",
        "module-e0e0e0e0e0e0",
        "module-fafafafafafa",
    }


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
    run.evaluations["old"] = Composition("mmlu", ALONE, (), "mmlu", "")  # another table wants this one of it
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


def test_off_is_off(make_run: Callable[..., Run], store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("tracker.wandb='off'", "tracker.progress=false")
    monkeypatch.setitem(sys.modules, "wandb", None)  # whoever imports it fails
    watcher = watch(run, store)
    watcher.metrics("train", 1, {"loss": 1.0})
    watcher.trained()
    watcher.evaluated(RECORDS)
    watcher.close()
    assert not (store.folder(run.fingerprint) / "wandb").exists()


def test_the_client_says_nothing_and_the_progress_says_where_it_keeps_the_run(
    make_run: Callable[..., Run], store: RunStore, capfd: pytest.CaptureFixture[str]
) -> None:
    watcher = watch(make_run(), store)
    watcher.metrics("train", 1, {"loss": 1.0})
    watcher.close()
    said = capfd.readouterr()
    assert said.out == ""
    assert "".join(said.err.split()).startswith("W&B:wandbsync/") and "offline-run-" in said.err


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


def test_a_file_that_is_no_log_is_refused_and_half_a_record_left_out(tmp_path: Path, make_run: Any, store: Any) -> None:
    (tmp_path / "other").write_bytes(b"something else")
    with pytest.raises(ValueError, match="not a log"):
        list(records(tmp_path / "other"))
    run = make_run()
    watcher = _tracked(run, store)
    _step(watcher, "train", 1)
    watcher.close()
    (file,) = store.folder(run.fingerprint).glob("wandb/offline-run-*/*.wandb")
    whole = file.read_bytes()
    count = len(list(records(file)))
    (tmp_path / "cut").write_bytes(whole[:-3])
    assert len(list(records(tmp_path / "cut"))) == count - 1
    (tmp_path / "empty").write_bytes(b"")
    assert list(records(tmp_path / "empty")) == []


def test_the_records_of_the_last_blocks_are_the_last_records(make_run: Any, store: RunStore) -> None:
    run = make_run()
    watcher = _tracked(run, store)
    for step in range(1, 301):
        _step(watcher, "train", step)
    watcher.close()
    (file,) = store.folder(run.fingerprint).glob("wandb/offline-run-*/*.wandb")
    whole = [record.num for record in records(file)]
    for block in range(1, file.stat().st_size // (32 * 1024) + 1):
        tail = [record.num for record in records(file, block)]
        assert tail and tail == whole[-len(tail) :]


def test_every_watcher_hears_every_event(make_run: Callable[..., Run]) -> None:
    class Heard(Silence):
        def __init__(self) -> None:
            self.events: list[Any] = []

        def trained(self) -> None:
            self.events.append("trained")

        def evaluated(self, records: Any) -> None:
            self.events.append(records)

    ears = [Heard(), Heard()]
    watchers = Watchers(ears, "a run")
    watchers.trained()
    watchers.evaluated(RECORDS)
    assert [ear.events for ear in ears] == [["trained", RECORDS]] * 2


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
