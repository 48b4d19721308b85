from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import DictConfig

from tests.xlt.conftest import LANGUAGE_RECIPE
from xlt.compose import compose
from xlt.config import PARTS, RunConfig
from xlt.data.planned import PlannedData
from xlt.data.source_report import SourceReport
from xlt.data.sources import digest
from xlt.engine.build import devices_named
from xlt.engine.run import ModuleFile
from xlt.errors import UsageError
from xlt.files import write_sealed
from xlt.modules import Entries, ModuleHeader, SparseDelta
from xlt.plan import planner, store
from xlt.plan.checks import division_faults
from xlt.plan.planner import Plan, Run
from xlt.plan.run_names import names_of
from xlt.plan.store import RunStore


def _pretend_trained(store: RunStore, run: Run) -> None:
    store.folder(run.fingerprint).mkdir(parents=True)
    (store.folder(run.fingerprint) / "result.json").write_text('{"training": {"seconds": 7.0}}', encoding="utf-8")


def test_language_modules_are_planned_once_for_all_runs_that_share_them(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...]
) -> None:
    first, second = planned(*adapted), planned(*adapted, "seed=2")
    assert first.fingerprint != second.fingerprint
    assert first.depends_on == second.depends_on
    assert sorted(run.config.language or "task" for run in plan.runs.values()) == ["eng", "fao", "task", "task"]
    planned(*adapted)
    assert len(plan.runs) == 4


def test_another_method_has_language_modules_of_its_own(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...]
) -> None:
    planned(*adapted)
    planned(*adapted, "method=bitfit")
    assert len(plan.runs) == 6


def test_every_run_comes_after_those_it_stands_on(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...]
) -> None:
    planned(*adapted, "seed=2")
    planned(*adapted)
    order = list(plan.runs)
    needs = [
        (order.index(run.fingerprint), order.index(need))
        for run in plan.runs.values()
        for need in run.depends_on.values()
    ]
    assert needs and all(need < at for at, need in needs)


def test_evaluations_are_composed_and_alone_with_the_module_of_their_own_language(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...]
) -> None:
    run = planned(*adapted)
    found = {(wanted.source, wanted.label): wanted.modules for wanted in run.evaluations.values()}
    assert set(found) == {(source, label) for source in ("eng", "fao") for label in ("task", "task+language")}
    own = ModuleFile(plan.store.module_file(run.fingerprint))
    faroese = next(r for r in plan.runs.values() if r.config.language == "fao")
    assert found["fao", "task+language"] == (ModuleFile(plan.store.module_file(faroese.fingerprint), "fao"), own)
    assert found["fao", "task"] == (own,)
    assert run.evaluation_needs == {r.fingerprint for r in plan.runs.values() if r.config.language}


def test_a_generator_is_one_run_that_serves_every_language(
    plan: Plan, planned: Callable[..., Run], generated: tuple[str, ...]
) -> None:
    run = planned(*generated, "language_modules=mad_g")
    assert len(plan.runs) == 2
    (generator,) = (other for other in plan.runs.values() if other is not run)
    assert set(generator.config.data.sources) == {"eng", "fao"}
    assert run.depends_on == {"eng": generator.fingerprint}
    file = plan.store.module_file(generator.fingerprint)
    found = {wanted.source: wanted.modules[0] for wanted in run.evaluations.values()}
    assert found == {"eng": ModuleFile(file, "eng"), "fao": ModuleFile(file, "fao")}
    assert run.identity["language_modules"] == {"eng": f"{generator.fingerprint}/eng"}


@pytest.fixture
def generated(words: tuple[str, ...]) -> tuple[str, ...]:
    """Overrides of a task run on MAD-G's modules, of a generator that learns from English and Faroese."""
    texts = ("data=text", "+source@data.sources.eng=mono", "+source@data.sources.fao=mono")
    languages = ("data.sources.eng.language=eng", "data.sources.fao.language=fao", "method.typology=null")
    listed = ",".join(f"'{word}'" for word in (*texts, *languages, *LANGUAGE_RECIPE))
    alone = "language_modules.evaluate_without=false"
    return *words, f"language_modules.generator.overrides=[{listed}]", alone, "method=mad_g", "method.typology=null"


@pytest.mark.parametrize("name", ["mad_g_ft", "rand_ft"])
def test_targets_modules_are_fine_tuned_from_what_the_generator_makes_or_from_nothing(
    name: str, plan: Plan, planned: Callable[..., Run], generated: tuple[str, ...]
) -> None:
    recipe = ",".join(f"'{word}'" for word in ("method=pfeiffer", *LANGUAGE_RECIPE))
    run = planned(
        *generated,
        f"language_modules={name}",
        f"language_modules.overrides=[{recipe}]",
        "language_modules.cap_words=30",
    )
    generator = next(other for other in plan.runs.values() if len(other.config.data.sources) == 2)
    tuned = next(other for other in plan.runs.values() if other.config.language == "fao")
    assert len(plan.runs) == 3
    assert tuned.config.data.sources["text"].cap_words == 30
    made = plan.store.module_file(generator.fingerprint)
    assert tuned.standing.start == (ModuleFile(made, "fao") if name == "mad_g_ft" else None)
    assert tuned.depends_on == ({"start": generator.fingerprint} if name == "mad_g_ft" else {})
    assert tuned.identity.get("start") == (generator.fingerprint if name == "mad_g_ft" else None)
    files = {wanted.source: wanted.modules[0] for wanted in run.evaluations.values()}
    assert files == {
        "eng": ModuleFile(made, "eng"),
        "fao": ModuleFile(plan.store.module_file(tuned.fingerprint), "fao"),
    }


def test_a_module_to_start_from_is_refused_where_the_method_cannot(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "module.safetensors"
    header = ModuleHeader(kind="sparse_delta", method="m", base_model="b", base_hash="h")
    SparseDelta(header, {"w": Entries(torch.tensor([1]), torch.tensor([1.0]), (4,))}).save(file)
    planned(*words, f"start.path={file}")
    with pytest.raises(UsageError, match=r"start\.path=.*: method lt_sft begins with fresh values; leave start out"):
        plan.preflight()
    with pytest.raises(UsageError, match=r"start\.path=nowhere: no such file"):
        planned(*words, "method=mad_x", "start.path=nowhere")
    assert planned(*words, "method=mad_x", f"start.path={file}").standing.start == ModuleFile(file)


def test_a_language_without_a_module_of_its_own_uses_the_nearest_ones(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...]
) -> None:
    run = planned(*adapted, "language_modules.among=[eng]", "language_modules.evaluate_without=false")
    assert {wanted.source: wanted.modules[0].language for wanted in run.evaluations.values()} == {
        "eng": "eng",
        "fao": "eng",
    }
    assert len(plan.runs) == 2


def test_a_language_may_stand_in_for_others(plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...]) -> None:
    own = planned(*adapted)
    borrowed = planned(*adapted, "+language_modules.stand_in.fao=eng")
    everywhere = planned(*adapted, "+language_modules.stand_in.targets=eng")
    assert own.fingerprint == borrowed.fingerprint == everywhere.fingerprint  # the source's own is what was learned on
    files = {
        (wanted.source, wanted.modules[0].language)
        for wanted in own.evaluations.values()
        if wanted.label == "task+language"
    }
    assert files == {("eng", "eng"), ("fao", "fao"), ("fao", "eng")}


@pytest.mark.parametrize("task", ["pos", "mlm_mini"])
def test_a_whole_model_is_evaluated_as_it_is_but_for_a_tasks_head_which_is_in_the_module(
    task: str, plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    run = planned(*words, "method=pretrain", f"task={task}", "task.max_length=40")
    modules = {wanted.modules for wanted in run.evaluations.values()}
    if task == "pos":
        assert modules == {(ModuleFile(plan.store.module_file(run.fingerprint)),)}
        assert run.evaluation_model == run.standing.model_path
    else:
        assert modules == {()}
        assert run.evaluation_model == str(plan.store.checkpoint(run.fingerprint))


def test_without_language_adaptation_there_is_one_evaluation_a_source(
    planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    assert [wanted.label for wanted in planned(*words).evaluations.values()] == ["task", "task"]


def test_the_plan_says_what_exists_what_goes_on_and_what_is_new(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...]
) -> None:
    run = planned(*adapted)
    english, faroese = (next(r for r in plan.runs.values() if r.config.language == code) for code in ("eng", "fao"))

    def states() -> dict[str, str]:
        return {label: state for label, state, _ in plan.rows()}

    assert states() == {english.label: "train", faroese.label: "train", run.label: "train + evaluate 4"}
    plan.store.folder(english.fingerprint).mkdir(parents=True)
    (plan.store.folder(english.fingerprint) / "state.safetensors").touch()
    assert states()[english.label] == "resume"
    _pretend_trained(plan.store, faroese)
    assert states()[faroese.label] == "exists"
    assert faroese not in plan.to_train() and english in plan.to_train()
    _pretend_trained(plan.store, run)
    assert states()[run.label] == "evaluate 4"
    done = list(run.evaluations)
    plan.store.add_evaluations(run.fingerprint, {key: {"metrics": {}} for key in done[:1]})
    assert states()[run.label] == "evaluate 3"
    plan.store.add_evaluations(run.fingerprint, {key: {"metrics": {}} for key in done[1:]})
    assert states()[run.label] == "exists"
    assert plan.to_evaluate() == []


def test_runs_of_one_name_are_told_apart_by_what_differs(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    name = planned(*words).label
    assert list(names_of(plan.runs.values()).values()) == [name]  # alone: nothing to tell it from
    planned(*words, "data.sources.eng.cap=5", "tracker.group=another", "train.batch_size=2")
    planned(*words, "data.sources.eng.origin=few-shot", "train.batch_size=2", "train.epochs=2", "method.density=0.1")
    assert list(names_of(plan.runs.values()).values()) == [
        f"{name} origins=gold eng.cap=null method.density=0.08",
        f"{name} origins=gold eng.cap=5 method.density=0.08",
        f"{name} origins=few-shot eng.cap=null method.density=0.1",
    ]
    given = {fingerprint: f"row {number}" for number, fingerprint in enumerate(plan.runs)}
    assert names_of(plan.runs.values(), given) == given


def test_runs_that_differ_in_what_they_read_alone_are_told_apart_by_the_names_of_it(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    name = planned(*words).label
    planned(*words, "~data.sources.eng", "+source@data.sources.dev=ud_eng", "data.sources.dev.split=train")
    assert list(names_of(plan.runs.values()).values()) == [f"{name} data.sources=eng", f"{name} data.sources=dev"]


def test_the_plan_says_how_long_runs_of_the_kind_took(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    old, new = planned(*words), planned(*words, "seed=2")
    _pretend_trained(plan.store, old)
    plan.store.record_manifest(old.fingerprint, old.config, old.identity, old.kind, old.depends_on)
    assert [seconds for _, state, seconds in plan.rows() if "train" in state] == [7.0]
    assert plan.store.manifest(old.fingerprint)["identity"] == old.identity
    assert new.kind == old.kind


def test_a_base_model_made_by_a_run_is_planned_before_it(plan: Plan, planned: Callable[..., Run]) -> None:
    run = planned("experiment=nano_fields", "language_modules=none", "~data.evaluation.fao")
    assert list(plan.runs) == [run.depends_on["model"], run.fingerprint]
    assert run.standing.model_path == str(plan.store.checkpoint(run.depends_on["model"]))


def test_faults_of_a_run_and_of_those_it_stands_on_are_gathered(
    planned: Callable[..., Run], adapted: tuple[str, ...], shelf: Path, tmp_path: Path
) -> None:
    (tmp_path / "bare" / "mono").mkdir(parents=True)
    (tmp_path / "bare" / "mono" / "en.txt").write_text("a b c\n", encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        planned(*adapted, f"data_dir={tmp_path / 'bare'}")
    assert len(raised.value.lines) == 5  # four treebank splits, one text
    assert sum("mono/fo.txt" in line for line in raised.value.lines) == 1


def test_a_faulty_run_is_not_in_the_plan_and_a_right_one_still_gets_in(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError):
        planned(*words, "data.sources.eng.path=/no/such/file")
    assert plan.runs == {}
    planned(*words)
    assert len(plan.runs) == 1


def test_preflight_reads_all_data_and_gathers_what_is_wrong(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.conllu").write_text(f"1\t{name}\n\n", encoding="utf-8")
        planned(*words, f"data.sources.eng.path={tmp_path / name}.conllu")
    with pytest.raises(UsageError) as raised:
        plan.preflight()
    assert [line.rpartition("/")[2] for line in raised.value.lines] == [
        f"{name}.conllu:1: 2 tab-separated columns, but CoNLL-U has 10" for name in ("one", "two")
    ]


def test_preflight_looks_at_nothing_that_is_done(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "bad.conllu").write_text("1\tword\n\n", encoding="utf-8")
    run = planned(
        *words, f"data.sources.eng.path={tmp_path}/bad.conllu", "~data.evaluation.fao", "~data.evaluation.eng"
    )
    _pretend_trained(plan.store, run)
    plan.preflight()


def test_the_same_run_composed_by_other_words_is_found_again(plan: Plan, words: tuple[str, ...]) -> None:
    first = plan.add(compose([*words, "method.density=0.08"]))
    assert plan.add(compose([*words, "method=lt_sft", "launcher.workers=2"])) is first


def test_what_runs_have_in_common_is_looked_at_once(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def preflight(config: RunConfig, _: PlannedData) -> SimpleNamespace:
        looked.append(f"data, seed {config.seed}")
        return SimpleNamespace(reports=dict)

    monkeypatch.setattr("xlt.plan.runs.preflight", preflight)
    monkeypatch.setattr("xlt.plan.runs.model_faults", lambda *_: looked.append("model") or [])
    for word in ("method=bitfit", "method=full", "seed=2", "train.learning_rate=1e-2"):
        planned(*words, word)
    plan.preflight()
    # Data once for each seed; the model once for each method that is to adapt it: bitfit, full, lt_sft.
    once = ["data, seed 1", "model", "model", "data, seed 2", "model"]
    assert looked == once
    planned(*words, "task.max_length=30")
    plan.preflight()
    assert looked[5:] == [*once, "data, seed 1", "model"]


def test_a_plan_takes_over_the_runs_of_another_as_if_it_had_planned_their_configs(
    adapted: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = RunStore(tmp_path / "outputs")
    configs = [
        compose([*adapted, f"output_dir={own.root}", *more])
        for more in ((), ("seed=2",), ("method=bitfit",), ("data.evaluation.fao.split=dev",))
    ]
    direct, joint = Plan(own), Plan(own)
    expected = [direct.ask(config) for config in configs]
    identified: list[int] = []
    original = planner.run_identity

    def counted(config: RunConfig, *others: object) -> dict[str, object]:
        identified.append(config.seed)
        return original(config, *others)

    monkeypatch.setattr(planner, "run_identity", counted)
    for number, (config, (run, evaluations)) in enumerate(zip(configs, expected, strict=True)):
        alone = Plan(own)
        taken = alone.ask(config)
        before = len(identified)
        is_new = joint.absorb(alone)  # the last config is the first's, but with other data to evaluate on
        assert is_new == (number < 3)
        found, asked = taken if is_new else joint.ask(config)
        assert (found.fingerprint, asked.keys()) == (run.fingerprint, evaluations.keys())
        assert len(identified) == before + (not is_new)
        assert joint.runs[run.fingerprint] is found
    assert list(joint.runs) == list(direct.runs)
    for fingerprint, run in direct.runs.items():
        taken_over = joint.runs[fingerprint]
        assert (taken_over.identity, taken_over.depends_on, taken_over.evaluations.keys()) == (
            run.identity,
            run.depends_on,
            run.evaluations.keys(),
        )
        assert taken_over.evaluation_needs == run.evaluation_needs


def test_a_plan_of_many_runs_reads_each_manifest_of_the_store_once(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = 6
    for number in range(kept):
        identity = {"settings": {"seed": number}, "code": {}}
        folder = plan.store.folder(digest(identity))
        folder.mkdir(parents=True)
        facts = {"fingerprint": digest(identity), "kind": "pos", "identity": identity, "seconds": 1.0}
        write_sealed(folder / "manifest.json", facts)
        write_sealed(folder / "result.json", {"training": {"seconds": 1.0}})
    reads: Counter[str] = Counter()
    original = store.read_sealed

    def counted(path: Path) -> dict[str, object]:
        reads[path.name] += path.is_file()
        return original(path)

    monkeypatch.setattr(store, "read_sealed", counted)
    for seed in range(4):
        planned(*words, "method=bitfit", f"seed={seed}", "other_code=use")
    assert len(plan.rows()) == 4 and not plan.made_by_other_code()
    assert reads == Counter({"manifest.json": kept})


def test_unicode_forms_are_told_in_one_line_for_all_runs_if_a_tokenizer_sees_them(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, asked = True, []
    forms = {1: {"eng": "NFC", "fao": "NFD"}, 2: {"eng": "NFC", "fao": "NFC"}, 3: {"eng": None, "fao": "NFC"}}

    def preflight(config: RunConfig, data: PlannedData) -> SimpleNamespace:
        reports = {
            f"data.{part}.{name}": SourceReport(forms=Counter({form: 1} if form else {}), sample="e\u0301")
            for part in PARTS
            for name, source in data.part(part).items()
            for form in [forms[config.seed][source.language]]
        }
        return SimpleNamespace(reports=lambda: reports, forms_matter=lambda found: asked.append(len(found)) or seen)

    monkeypatch.setattr("xlt.plan.runs.preflight", preflight)
    monkeypatch.setattr("xlt.plan.runs.model_faults", lambda *_: [])
    other, _ = planned(*words, "seed=2"), planned(*words, "seed=3")
    assert plan.preflight() == [] and not asked  # each run, and each language, is in one form
    planned(*words, "seed=1")
    (note,) = plan.preflight()
    assert note.count("data.evaluation.fao") == 2 and f"data.evaluation.fao ({other.label})" in note
    seen = False
    assert plan.preflight() == [] and len(asked) == 2


def test_only_methods_on_a_frozen_base_are_trained_on_several_devices(
    planned: Callable[..., Run], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def faults(*more: str, processes: int = 1) -> list[str]:
        return division_faults(planned(*words, "device=cuda:0+cuda:1", *more).config, processes)

    assert faults("method=lora", "method.rank=2") == []
    assert faults("method=spiel_ma", "method.density=0.01", "method.update_interval=1") == []
    (line,) = faults("method=full")
    assert line.startswith("device=cuda:0+cuda:1: method=full needs the whole model on one device; lora")
    (line,) = faults("method=lora", "method.rank=2", processes=2)
    assert "2 processes share this run" in line
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device.index for device in devices_named("cuda:0+cuda:1")] == [0, 1]
    with pytest.raises(UsageError, match="device=cuda:2: this machine has 2 CUDA devices"):
        devices_named("cuda:2")


def test_a_run_that_is_only_evaluated_is_estimated_by_past_evaluations(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    old, new = planned(*words), planned(*words, "seed=2")
    _pretend_trained(plan.store, old)
    plan.store.record_manifest(old.fingerprint, old.config, old.identity, old.kind, old.depends_on)
    assert [seconds for _, state, seconds in plan.rows() if state == "evaluate 2"] == [None]
    plan.store.record_evaluation_time(old.fingerprint, old.kind, 1, 2.0)
    plan.store.record_evaluation_time(old.fingerprint, old.kind, 2, 1.0)
    found = {state: seconds for _, state, seconds in plan.rows()}
    assert found == {"evaluate 2": 2.0, "train + evaluate 2": 7.0 + 2.0}
    assert new.kind == old.kind


def test_a_run_that_another_process_is_working_on_is_not_said_to_be_resumed(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    run = planned(*words)
    plan.store.folder(run.fingerprint).mkdir(parents=True)
    (plan.store.folder(run.fingerprint) / "state.safetensors").touch()
    with plan.store.lock(run.fingerprint):
        ((_, state, seconds),) = plan.rows()
    assert "another process" in state and "resume" not in state and seconds is None
    assert [state for _, state, _ in plan.rows()] == ["resume + evaluate 2"]


def test_the_state_of_unfinished_runs_outside_of_the_plan_is_counted(
    plan: Plan, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    run = planned(*words)
    for fingerprint, size in ((run.fingerprint, 5), ("f" * 32, 7)):
        plan.store.folder(fingerprint).mkdir(parents=True)
        (plan.store.folder(fingerprint) / "state.safetensors").write_bytes(b"x" * size)
    assert plan.abandoned_state() == (1, 7)


def test_a_run_that_is_refused_is_composed_once_for_all_that_need_it(tmp_path: Path) -> None:
    """A generator of 95 languages, one of which has no typology, took minutes to refuse: once for each language."""
    plan, composed = Plan(RunStore(tmp_path)), []

    def compose_run(name: str) -> DictConfig:
        composed.append(name)
        raise UsageError(f"{name}: wrong", "and more")

    for _ in range(3):
        with pytest.raises(UsageError) as raised:
            plan.once(["generator", 1], compose_run, "a")
        assert raised.value.lines == ["a: wrong", "and more"]
    with pytest.raises(UsageError, match="b: wrong"):
        plan.once(["generator", 2], compose_run, "b")
    assert composed == ["a", "b"]
