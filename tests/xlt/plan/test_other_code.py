from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from xlt.compose import compose, plain
from xlt.data.sources import digest, reader_of
from xlt.engine.run import RESULT_FILE
from xlt.files import write_json
from xlt.plan import earlier
from xlt.plan.identity import evaluated_identity, file_identity
from xlt.plan.planner import Plan, Run
from xlt.plan.store import MANIFEST_FILE, RunStore
from xlt.tables.terminal import print_other_code

Planned = Callable[..., tuple[Plan, Run]]


@pytest.fixture
def planned(adapted: tuple[str, ...], tmp_path: Path) -> Planned:
    """`planned(*overrides)`: a plan of its own over the store in the test's folder, and the run that was asked for."""

    def make(*overrides: str) -> tuple[Plan, Run]:
        plan = Plan(RunStore(tmp_path / "outputs"))
        return plan, plan.add(compose([*adapted, f"output_dir={tmp_path / 'outputs'}", *overrides]))

    return make


def keep(plan: Plan, identities: dict[str, tuple[dict[str, Any], str]], finished: str, **about: Any) -> None:
    """Writes runs into the store as if they were finished.

    Args:
        plan: whose store it is, and whose configs they have.
        identities: fingerprint in the plan -> identity that is kept, and its fingerprint.
        finished: when.
        about: further entries of the manifests.
    """
    for planned, (identity, fingerprint) in identities.items():
        run, folder = plan.runs[planned], plan.store.folder(fingerprint)
        folder.mkdir(parents=True)
        write_json(folder / RESULT_FILE, {"training": {"seconds": 1.0}})
        manifest = {
            "fingerprint": fingerprint,
            "kind": run.kind,
            "identity": identity,
            "config": plain(run.config),
            "finished": finished,
            "seconds": 1.0,
            "versions": {"xlt": "0.1.0"},
            "commit": "abc1234def",
            **about,
        }
        write_json(folder / MANIFEST_FILE, manifest)


def replaced(value: Any, fingerprints: dict[str, str]) -> Any:
    """A JSON value with fingerprints replaced by others."""
    if isinstance(value, dict):
        return {name: replaced(part, fingerprints) for name, part in value.items()}
    if isinstance(value, list):
        return [replaced(part, fingerprints) for part in value]
    return fingerprints.get(value, value) if isinstance(value, str) else value


def of_other_code(plan: Plan, mark: str) -> dict[str, tuple[dict[str, Any], str]]:
    """The runs of a plan as other code would have made them: they stand on each other."""
    made: dict[str, tuple[dict[str, Any], str]] = {}
    for run in plan.runs.values():
        fingerprints = {planned: fingerprint for planned, (_, fingerprint) in made.items()}
        identity = replaced(run.identity, fingerprints) | {"code": {"xlt.engine.training": mark}}
        made[run.fingerprint] = (identity, digest(identity))
    return made


def of_version_0_1_0(plan: Plan) -> dict[str, tuple[dict[str, Any], str]]:
    """The runs of a plan as version 0.1.0 identified them, as far as these plans need."""
    made: dict[str, tuple[dict[str, Any], str]] = {}
    left_out = ("experiment_name", "scale", "model", "data", "language_modules", "task_modules", "start", "teacher",
                "tracker", "launcher", "target", "translator", "data_dir", "output_dir", "device", "threads",
                "other_code")  # fmt: skip
    for run in plan.runs.values():
        config = run.config
        settings = {name: value for name, value in plain(config).items() if name not in left_out}
        for name in ("save_every_seconds", "activation_checkpointing", "reduction_factor"):
            settings["train"].pop(name, None)
        data: dict[str, Any] = {"held_out_fraction": config.data.held_out_fraction}
        if config.data.held_out_fractions:
            data["held_out_fractions"] = {}
        for part in ("sources", "validation", "excluded"):
            data[part] = {name: old_source(source) for name, source in getattr(config.data, part).items()}
        if not config.data.validation:
            data["origins"] = {name: source.origin for name, source in config.data.sources.items()}
        fingerprints = {planned: fingerprint for planned, (_, fingerprint) in made.items()}
        identity = {
            "xlt": "0.1.0",
            "settings": settings,
            "data": data,
            "model": run.identity["model"],
            "language_modules": replaced(run.identity["language_modules"], fingerprints),
        }
        made[run.fingerprint] = (identity, digest(identity))
    return made


def old_source(source: Any) -> dict[str, Any]:
    drawn = source.cap is not None or source.cap_words is not None
    return {
        "content": [file_identity(str(file)) for file in reader_of(source).files(source)],
        "reader": source.reader,
        "language": source.language,
        "fields": dict(source.fields),
        "labels": dict(source.labels),
        "upsample": source.upsample,
        "cap": source.cap,
        **({"split": source.split} if drawn else {}),
    }


def said(plan: Plan) -> str:
    out = io.StringIO()
    print_other_code(plan, Console(file=out, width=200))
    return out.getvalue()


def test_a_run_of_other_code_is_trained_again_and_the_plan_says_so(planned: Planned) -> None:
    plan, run = planned()
    keep(plan, of_other_code(plan, "old"), "2026-11-20T10:00:00+00:00")
    plan, again = planned()
    assert again.fingerprint == run.fingerprint and len(plan.to_train()) == len(plan.runs) == 3
    line = said(plan)
    for fact in ("3 runs", "xlt 0.1.0", "abc1234 ", "2026-11-20", "other_code=use"):
        assert fact in line
    assert line.count("\n") == 1


def test_where_it_is_asked_for_the_one_that_finished_last_is_used_with_all_that_it_stands_on(planned: Planned) -> None:
    plan, run = planned()
    older, newer = of_other_code(plan, "old"), of_other_code(plan, "new")
    keep(plan, newer, "2026-11-21T10:00:00+00:00")
    keep(plan, older, "2026-11-20T10:00:00+00:00")
    plan, used = planned("other_code=use")
    assert used.fingerprint == newer[run.fingerprint][1] and plan.to_train() == []
    assert set(plan.runs) == {fingerprint for _, fingerprint in newer.values()}
    assert "3 runs" in said(plan) and "other_code=train" in said(plan)


def test_a_run_is_found_that_stands_on_another_of_the_runs_alike(planned: Planned) -> None:
    plan, run = planned()
    older, newer = of_other_code(plan, "old"), of_other_code(plan, "new")
    keep(plan, {k: v for k, v in newer.items() if k != run.fingerprint}, "2026-11-21T10:00:00+00:00")
    keep(plan, older, "2026-11-20T10:00:00+00:00")
    plan, used = planned("other_code=use")
    assert used.fingerprint == older[run.fingerprint][1] and plan.to_train() == []


def test_other_settings_are_another_run_whatever_the_choice(planned: Planned) -> None:
    plan, _ = planned()
    keep(plan, of_other_code(plan, "old"), "2026-11-20T10:00:00+00:00")
    plan, other = planned("other_code=use", "seed=2")
    assert [run.fingerprint for run in plan.to_train()] == [other.fingerprint]
    assert all(module.path.parent.is_dir() for module in other.standing.language_modules.values())


def test_a_run_of_this_code_is_preferred(planned: Planned) -> None:
    plan, run = planned()
    keep(plan, of_other_code(plan, "old"), "2026-11-22T10:00:00+00:00")
    own = {fingerprint: (one.identity, fingerprint) for fingerprint, one in plan.runs.items()}
    keep(plan, own, "2026-11-20T10:00:00+00:00")
    for choice in ("train", "use"):
        plan, again = planned(f"other_code={choice}")
        assert again.fingerprint == run.fingerprint and plan.to_train() == [] and said(plan) == ""


def test_evaluations_of_other_code_are_used_with_their_runs(planned: Planned) -> None:
    plan, run = planned()
    made = of_other_code(plan, "old")
    keep(plan, made, "2026-11-20T10:00:00+00:00")
    fingerprints = {planned: fingerprint for planned, (_, fingerprint) in made.items()}
    records = {}
    for composition in run.evaluations.values():
        identity = replaced(dict(composition.identity), fingerprints) | {"code": "old"}
        records[digest(identity)] = {"source": composition.source, "metrics": {}, "identity": identity}
    plan.store.add_evaluations(fingerprints[run.fingerprint], records)
    plan, used = planned("other_code=use")
    assert set(used.evaluations) == set(records) and plan.to_evaluate() == []
    plan, _ = planned()
    assert len(plan.to_evaluate()) == 1


def test_a_store_of_version_0_1_0_is_used_where_it_is_asked_for(planned: Planned) -> None:
    plan, run = planned()
    made = of_version_0_1_0(plan)
    keep(plan, made, "2026-11-20T10:00:00+00:00")
    fingerprints = {planned: fingerprint for planned, (_, fingerprint) in made.items()}
    records = {}
    for composition in run.evaluations.values():
        modules = replaced(composition.identity["modules"], fingerprints)
        about = {"modules": modules, "precision": run.config.train.precision}
        old = {"source": old_source(run.config.data.evaluation[composition.source])}
        assert evaluated_identity(run.config.data, composition.source) != old
        records[digest({**old, **about})] = {"source": composition.source, "metrics": {}}
    plan.store.add_evaluations(fingerprints[run.fingerprint], records)
    plan, _again = planned()
    assert len(plan.to_train()) == 3 and "3 runs" in said(plan)
    plan, used = planned("other_code=use")
    assert used.fingerprint == fingerprints[run.fingerprint]
    assert plan.to_train() == [] and plan.to_evaluate() == []


def test_an_identity_of_version_0_1_0_becomes_todays_without_code_and_order(planned: Planned) -> None:
    plan, run = planned()
    for planned_as, (identity, _) in of_version_0_1_0(plan).items():
        today = plan.runs[planned_as]
        config = plain(today.config)
        converted = earlier.converted({"identity": identity, "config": config})
        assert converted is not None
        expected = {name: value for name, value in today.identity.items() if name not in ("code", "language_modules")}
        data = {name: value for name, value in expected["data"].items() if name != "order"}
        assert {**converted, "language_modules": {}} == {**expected, "data": data, "language_modules": {}}
    assert dataclasses.is_dataclass(run.config)


def test_what_todays_schemas_do_not_know_is_not_used(planned: Planned) -> None:
    plan, run = planned()
    identity, _ = of_version_0_1_0(plan)[run.fingerprint]
    config = plain(run.config)
    config["method"] = {"_target_": "xlt.methods.gone.Gone"}
    assert earlier.converted({"identity": identity, "config": config}) is None
    assert earlier.converted({"identity": {}, "config": {}}) is None
