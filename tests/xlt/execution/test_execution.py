from __future__ import annotations

import hashlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from xlt.compose import compose
from xlt.engine.run import RESULT_FILE
from xlt.engine.training import Interrupted
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.execution import execution
from xlt.execution.execution import carry_out
from xlt.execution.workers import LocalWorkers
from xlt.files import write_json
from xlt.methods.lt_sft import LtSft
from xlt.modules import ModuleHeader, SparseDelta
from xlt.plan.planner import Plan, Run
from xlt.plan.store import RunStore


def silent(run: Run, store: RunStore) -> Silence:
    return Silence()


def _run_of(plan: Plan, language: str | None) -> Run:
    return next(run for run in plan.runs.values() if run.config.language == language)


def _hashes(plan: Plan) -> dict[str, str]:
    files = {run.fingerprint: plan.store.module_file(run.fingerprint) for run in plan.runs.values()}
    return {name: hashlib.blake2b(file.read_bytes()).hexdigest() for name, file in files.items()}


def _failing(monkeypatch: pytest.MonkeyPatch, language: str | None, error: BaseException) -> None:
    """Training the run for `language` raises `error`."""
    train = execution._train

    def instead(run: Run, *others: Any) -> None:
        if run.config.language == language:
            raise error
        train(run, *others)

    monkeypatch.setattr(execution, "_train", instead)


def _killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_everything_missing_is_done_and_a_second_call_does_nothing(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...]
) -> None:
    run = planned(*adapted)
    outcome = carry_out(plan, None, silent)
    assert outcome.failures == {}
    assert [what for what, _ in outcome.done] == ["train", "train", "train", "evaluate"]
    assert {record["composition"] for record in plan.store.evaluations(run.fingerprint).values()} == {
        "task",
        "task+language",
    }
    assert plan.store.manifest(run.fingerprint)["depends_on"] == {"eng": _run_of(plan, "eng").fingerprint}
    again = Plan(plan.store)
    again.add(compose([*adapted, f"output_dir={plan.store.root}"]))
    assert carry_out(again, None, silent).done == []
    assert again.to_train() == again.to_evaluate() == []


def test_a_run_is_evaluated_before_the_next_is_trained(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    first, second = (planned(*words, f"seed={seed}").fingerprint for seed in (1, 2))
    done = carry_out(plan, None, silent).done
    assert done == [("train", first), ("evaluate", first), ("train", second), ("evaluate", second)]


def test_side_by_side_gives_the_modules_and_numbers_of_one_after_the_other(
    adapted: tuple[str, ...], tmp_path: Path
) -> None:
    found = []
    for workers in (1, 2):
        plan = Plan(RunStore(tmp_path / str(workers)))
        run = plan.add(compose([*adapted, f"output_dir={tmp_path / str(workers)}"]))
        outcome = carry_out(plan, None if workers == 1 else LocalWorkers(workers), silent)
        assert outcome.failures == {} and len(outcome.done) == 4
        records = plan.store.evaluations(run.fingerprint)
        assert all(record.pop("finished") for record in records.values())
        found.append((_hashes(plan), records))
    assert found[0] == found[1]


def test_a_failed_run_stops_only_those_that_stand_on_it(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(*adapted)
    _failing(monkeypatch, "fao", RuntimeError("out of\nmemory"))
    said: list[tuple[str, str]] = []
    outcome = carry_out(plan, None, silent, lambda what, run, message: said.append((what, run.label)))
    faroese, english = _run_of(plan, "fao"), _run_of(plan, "eng")
    assert plan.store.is_trained(english.fingerprint) and plan.store.is_trained(run.fingerprint)
    reason = outcome.failures[faroese.fingerprint]
    assert "test_execution.py:" in reason and "RuntimeError: out of memory" in reason
    assert outcome.failures[run.fingerprint] == f"stands on {faroese.label}, which failed: {reason}"
    assert (outcome.skipped, outcome.refused) == ({run.fingerprint}, set())
    assert ("failed", faroese.label) in said and ("skipped", run.label) in said


def test_a_module_for_another_base_that_only_the_evaluation_needs_is_refused_before_the_first_step(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...], tmp_path: Path
) -> None:
    header = ModuleHeader(
        kind="sparse_delta", method="lt_sft", base_model="another", base_hash="b" * 32, language="fao"
    )
    SparseDelta(header, {}, {"head.bias": torch.zeros(3)}).save(tmp_path / "fao.st")
    run = planned(*adapted, f"+language_modules.paths.fao={tmp_path / 'fao.st'}")
    outcome = carry_out(plan, None, silent)
    reason = outcome.failures[run.fingerprint]
    assert outcome.refused == {run.fingerprint}
    assert "fao.st" in reason and "another" in reason and "b" * 12 in reason
    assert [what for what, _ in outcome.done] == ["train"]  # the language module of English
    assert not plan.store.has_state(run.fingerprint) and not plan.store.folder(run.fingerprint).exists()


def test_what_stands_on_a_failed_source_language_is_not_tried(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(*adapted)
    _failing(monkeypatch, "eng", UsageError("wrong", "twice"))
    outcome = carry_out(plan, None, silent)
    english, faroese = _run_of(plan, "eng"), _run_of(plan, "fao")
    assert plan.store.is_trained(faroese.fingerprint) and not plan.store.is_trained(run.fingerprint)
    assert outcome.failures[english.fingerprint] == "wrong; twice"
    assert (outcome.refused, outcome.skipped) == ({english.fingerprint}, {run.fingerprint})


def test_a_failure_is_recorded_in_the_runs_folder_and_forgotten_when_it_succeeds(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(*words)
    with monkeypatch.context() as patch:
        patch.setattr("xlt.engine.training.Trainer._validate", lambda *_: 1 / 0)
        (reason,) = carry_out(plan, None, silent).failures.values()
    assert "ZeroDivisionError: division by zero" in reason
    assert plan.store.failure(run.fingerprint) == reason
    assert "_validate" in plan.store.traceback_file(run.fingerprint).read_text(encoding="utf-8")
    assert carry_out(plan, None, silent).failures == {}
    assert plan.store.failure(run.fingerprint) is None
    assert not plan.store.traceback_file(run.fingerprint).exists()


def test_an_interruption_stops_the_plan(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(*adapted)
    _failing(monkeypatch, "eng", Interrupted(signal.SIGTERM))
    with pytest.raises(Interrupted) as raised:
        carry_out(plan, None, silent)
    assert raised.value.signal == signal.SIGTERM
    assert not any(plan.store.is_trained(fingerprint) for fingerprint in plan.runs)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_an_evaluation_stops_the_plan_as_in_training(
    number: signal.Signals,
    plan: Plan,
    planned: Callable[..., Run],
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = planned(*words)
    before = signal.signal(number, signal.SIG_IGN)  # as in a command that a script has put into the background

    def load(*_: object) -> None:
        try:
            os.kill(os.getpid(), number)
        except Exception as error:  # as where a model is loaded, which can raise anything
            raise UsageError("the model cannot be loaded") from error

    monkeypatch.setattr(execution, "_evaluate", load)
    try:
        with pytest.raises(Interrupted) as raised:
            carry_out(plan, None, silent)
        assert raised.value.signal == number and signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
    assert plan.store.is_trained(run.fingerprint)


def test_an_interruption_of_workers_says_that_they_are_waited_for(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupting:
        count = 1
        asked: ClassVar[list[str]] = []

        def start(self, calls: object) -> None:
            self.asked.append("start")

        def finished(self) -> list[Any]:
            raise KeyboardInterrupt

        def stop(self) -> None:
            self.asked.append("stop")
            assert capsys.readouterr().err == "stopping: the runs at work save their state first\n"

        def close(self) -> None:
            self.asked.append("close")

    planned(*words)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Interrupted) as raised:
        carry_out(plan, Interrupting(), silent)
    assert raised.value.signal == signal.SIGINT and Interrupting.asked == ["start", "stop", "close"]
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


def test_an_unexpected_error_shows_its_traceback_to_who_asks_for_it(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(*words)
    _failing(monkeypatch, None, ZeroDivisionError("why"))
    monkeypatch.setenv("XLT_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        carry_out(plan, None, silent)


def test_data_that_were_replaced_after_planning_are_refused(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], shelf: Path, tmp_path: Path
) -> None:
    shutil.copytree(shelf, tmp_path / "data")
    run = planned(*words, f"data_dir={tmp_path / 'data'}")
    with next((tmp_path / "data" / "ud" / "UD_English-EWT").glob("*-train.conllu")).open("a", encoding="utf-8") as file:
        file.write("\n1\tmore\t_\tNOUN\t_\t_\t0\t_\t_\t_\n\n")
    outcome = carry_out(plan, None, silent)
    assert outcome.failures[run.fingerprint].startswith("data.sources.eng: its files have changed since")
    assert outcome.refused and not plan.store.is_trained(run.fingerprint)


def test_test_sets_that_were_replaced_after_planning_are_refused_and_the_module_stays(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], shelf: Path, tmp_path: Path
) -> None:
    shutil.copytree(shelf, tmp_path / "data")
    run = planned(*words, f"data_dir={tmp_path / 'data'}")
    (test,) = (tmp_path / "data" / "ud" / "UD_Faroese-FarPaHC").glob("*-test.conllu")
    before = test.read_bytes()
    test.write_bytes(before + b"\n1\tmore\t_\tNOUN\t_\t_\t0\t_\t_\t_\n\n")
    outcome = carry_out(plan, None, silent)
    assert outcome.failures[run.fingerprint].startswith("data.evaluation.fao: its files have changed since")
    assert outcome.refused and plan.store.is_trained(run.fingerprint) and not plan.store.evaluations(run.fingerprint)
    test.write_bytes(before)
    assert carry_out(plan, None, silent).done == [("evaluate", run.fingerprint)]


def test_what_another_process_has_evaluated_meanwhile_is_not_evaluated_again(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(*words)
    wanted = plan.missing_evaluations(run)
    carry_out(plan, None, silent)
    monkeypatch.setattr(execution, "evaluate_compositions", _killed)
    execution._evaluate(run, plan.store, wanted, silent)


def test_an_interrupted_evaluation_goes_on_after_the_last_source_that_it_finished(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(*words)
    wanted = plan.missing_evaluations(run)
    assert len(wanted) > 1
    evaluate = execution.evaluate_compositions

    def killed_after_one(*arguments: Any) -> Any:
        yield next(evaluate(*arguments))
        _killed()

    with monkeypatch.context() as patch:
        patch.setattr(execution, "evaluate_compositions", killed_after_one)
        with pytest.raises(Interrupted):
            carry_out(plan, None, silent)
    left = plan.missing_evaluations(run)
    assert len(left) == len(wanted) - 1
    asked: list[str] = []

    def noted(*arguments: Any) -> Any:
        asked.extend(arguments[3])
        return evaluate(*arguments)

    monkeypatch.setattr(execution, "evaluate_compositions", noted)
    carry_out(plan, None, silent)
    assert asked == list(left)
    assert not plan.missing_evaluations(run)


@pytest.mark.parametrize("killed_at", ["engine.run.RunState.discard", "execution.execution.RunStore.record_manifest"])
def test_a_run_killed_between_result_and_manifest_is_given_its_manifest_by_the_same_command(
    killed_at: str, plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(*words)
    store, folder = plan.store, plan.store.folder(run.fingerprint)
    with monkeypatch.context() as patch:
        patch.setattr(f"xlt.{killed_at}", _killed)
        with pytest.raises(Interrupted):
            carry_out(plan, None, silent)
    assert store.is_trained(run.fingerprint) and not store.manifest(run.fingerprint)
    assert store.has_state(run.fingerprint) == killed_at.endswith("discard")
    (folder / "done.jsonl").touch()  # what a translation leaves
    assert [what for what, _ in carry_out(plan, None, silent).done] == ["evaluate"]
    manifest = store.manifest(run.fingerprint)
    assert (manifest["fingerprint"], manifest["recorded_late"]) == (run.fingerprint, True)
    assert not store.has_state(run.fingerprint) and not list(folder.glob("best-*"))
    assert carry_out(plan, None, silent).done == [] and store.manifest(run.fingerprint) == manifest


def test_a_run_that_another_process_trained_but_could_not_record_is_recorded_by_who_waited_for_it(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(*words)
    folder, aside = plan.store.folder(run.fingerprint), tmp_path / "aside"
    carry_out(plan, None, silent)
    manifest = plan.store.manifest(run.fingerprint)
    (folder / "manifest.json").unlink()
    folder.rename(aside)
    lock = RunStore.lock

    @contextmanager
    def after_a_while(store: RunStore, fingerprint: str) -> Iterator[None]:
        with lock(store, fingerprint):
            if aside.exists():
                aside.rename(folder)
            yield

    monkeypatch.setattr(RunStore, "lock", after_a_while)
    assert carry_out(plan, None, silent).failures == {}
    again = plan.store.manifest(run.fingerprint)
    assert again["recorded_late"] and again["identity"] == manifest["identity"]


def test_a_module_that_cannot_be_stored_is_refused_before_the_run_has_a_folder(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_module(*_: Any) -> None:
        raise ValueError("no such layer")

    run = planned(*words)
    monkeypatch.setattr(LtSft, "export", no_module)
    outcome = carry_out(plan, None, silent)
    assert outcome.refused == {run.fingerprint} and "method=lt_sft: " in outcome.failures[run.fingerprint]
    assert "no such layer" in outcome.failures[run.fingerprint]
    assert not plan.store.runs.exists()


def test_rows_left_out_are_told_before_training_and_stand_in_the_manifest(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    planned(*words, "+data.sources.eng.where.words.max_words=0")
    with pytest.raises(UsageError, match=r"has no examples; where leaves out all \d+ rows"):
        plan.preflight()
    plan.runs.clear()
    run = planned(*words, "+data.sources.eng.where.words.max_words=99")
    notes = plan.preflight()
    assert len([note for note in notes if note.startswith("data.sources.eng: where leaves out 0 of ")]) == 1
    folder = plan.store.folder(run.fingerprint)
    folder.mkdir(parents=True)
    write_json(folder / RESULT_FILE, {"training": {"seconds": 1.0}})
    execution._record(run, plan.store)
    assert plan.store.manifest(run.fingerprint)["reading"]["data.sources.eng"]["rows"] > 0


def test_a_module_by_features_is_evaluated_in_each_language_with_its_own_part(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    """In English with deltas of task and language; in Faroese, which it has not learned, with those of the task."""
    run = planned(*words, "method=flix")
    carry_out(plan, None, silent)
    records = {record["source"]: record for record in plan.store.evaluations(run.fingerprint).values()}
    assert {name: record["features"] for name, record in records.items()} == {
        "eng": {"task": "pos", "language": "eng"},
        "fao": {"task": "pos"},
    }
    assert {record["composition"] for record in records.values()} == {"task"}
