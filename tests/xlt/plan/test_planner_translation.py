"""Translations in the plan: what makes one another, who shares one, whose translator learns first, who leaks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.translators import translator, write_shelf
from xlt.compose import compose
from xlt.data.examples import Example
from xlt.data.sources import read_source
from xlt.engine.translate import TranslationJob
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.execution.execution import carry_out
from xlt.models.loading import save_checkpoint
from xlt.plan.planner import Plan, Run

RECIPE = ("train.max_steps=1", "train.evaluate_every_steps=1", "train.batch_size=2")
Planned = Callable[..., Run]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shelf of data, and a translator of Indonesian and Javanese."""
    folder = tmp_path_factory.mktemp("data")
    write_shelf(folder)
    model, encoder = translator(("ind", "jav"))
    save_checkpoint(model, encoder.tokenizer, folder / "translator")
    return folder


@pytest.fixture
def words(data: Path, tiny_bert: Path) -> tuple[str, ...]:
    """Sentiment from Indonesian, evaluated on Javanese; nothing of it is translated."""
    return (
        "experiment=sentiment", "data=empty", "language_modules=none", "method=full", "task.max_length=40",
        "+source@data.sources.ind=smsa", "+source@data.validation.ind=smsa", "data.validation.ind.split=dev",
        "+source@data.evaluation.x=nusax_senti", "data.evaluation.x.split=test", "data.evaluation.x.language=jav",
        f"data_dir={data}", f"model.path={tiny_bert}", "device=cpu", "threads=1", "tracker=silent", "data.leaks=refuse",
        *RECIPE,
    )  # fmt: skip


def translated(part: str, data: Path, language: str = "jav", name: str = "t") -> tuple[str, ...]:
    """Overrides that add SMSA in translation."""
    run = ["target={target}", "+model.new_languages.{target}=jav", f"model.path={data}/translator", "model.run=null",
           "method=full", "task.max_length=20", *RECIPE]  # fmt: skip
    listed = ",".join(f"'{word}'" for word in run)
    source = f"data.{part}.{name}"
    split = {"sources": "train", "validation": "dev", "evaluation": "test"}[part]
    return (
        f"+source@{source}=translated_smsa",
        f"{source}.language={language}",
        f"{source}.split={split}",
        f"{source}.translation.run.overrides=[{listed}]",
    )


def swapped(words: tuple[str, ...], data: Path, language: str = "jav") -> tuple[str, ...]:
    """The same system on its test set translated into Indonesian, under the same name."""
    into = [word for word in words if "data.evaluation.x" not in word]
    run = ["target={source}", f"model.path={data}/translator", "model.run=null", "task.max_length=20"]
    listed = ",".join(f"'{word}'" for word in run)
    return (
        *into,
        "+source@data.evaluation.x=nusax_senti_ttest",
        f"data.evaluation.x.translation.source_language={language}",
        f"data.evaluation.x.translation.run.overrides=[{listed}]",
    )


def translations(plan: Plan) -> list[Run]:
    return [run for run in plan.runs.values() if run.job is not None]


def test_a_translation_comes_before_the_run_that_learns_from_it(
    plan: Plan, planned: Planned, words: tuple[str, ...], data: Path
) -> None:
    run = planned(*words, *translated("sources", data))
    (made,) = translations(plan)
    assert list(plan.runs) == [made.fingerprint, run.fingerprint]
    assert run.depends_on == {"sources.t": made.fingerprint}
    file = run.planned_data.sources["t"].made
    assert file is not None
    assert (file.fingerprint, file.path.parent) == (made.fingerprint, plan.store.folder(made.fingerprint))
    assert made.job is not None and made.job.source.language == "ind"
    assert made.label == "translate smsa train ind -> jav"
    assert made not in plan.to_evaluate() and made in plan.to_train()


def test_the_adapt_list_decides_whether_the_translator_learns_first(
    plan: Plan, planned: Planned, words: tuple[str, ...], data: Path
) -> None:
    planned(*words, *translated("sources", data))
    (plain,) = translations(plan)
    assert plain.depends_on == {} and plain.standing.model_path == f"{data}/translator"
    planned(*words, *translated("sources", data, "mad"))
    (adapted,) = (run for run in translations(plan) if run is not plain)
    learns = plan.runs[adapted.depends_on["model"]]
    assert learns.job is None and set(learns.config.data.sources) == {"pairs"}
    assert learns.config.model.new_languages == {"mad": "jav"}
    assert learns.evaluations == {}
    # a module of the translator's; method=pretrain leaves a model
    assert adapted.standing.model_path == f"{data}/translator"
    assert isinstance(adapted.job, TranslationJob)
    assert [file.path for file in adapted.job.modules] == [plan.store.module_file(learns.fingerprint)]
    whole = [word.replace("method=full", "method=pretrain") for word in translated("sources", data, "mad")]
    run = planned(*words, *whole)
    adapted = plan.runs[run.depends_on["sources.t"]]
    assert adapted.standing.model_path == str(plan.store.checkpoint(adapted.depends_on["model"]))
    assert isinstance(adapted.job, TranslationJob) and adapted.job.modules == ()


def _fingerprint(planned: Planned, *words: str) -> str:
    return planned(*words).depends_on["sources.t"]


@pytest.mark.parametrize(
    "word",
    [
        "data.sources.t.translation.beams=2",
        "data.sources.t.translation.batch_tokens=99",
        "data.sources.t.translation.cap=3",
        "data.sources.t.split=dev",
        "data.sources.t.fields.text='1'",
    ],
)
def test_another_source_or_decoding_is_another_translation(
    word: str, planned: Planned, words: tuple[str, ...], data: Path
) -> None:
    plain = [*words, *translated("sources", data), "~data.validation.ind", "data.held_out_fraction=0.3"]
    assert _fingerprint(planned, *plain) != _fingerprint(planned, *plain, word)


def test_another_language_translator_or_content_is_another_translation(
    planned: Planned, words: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    plain = _fingerprint(planned, *words, *translated("sources", data))
    adapted = _fingerprint(planned, *words, *translated("sources", data, "mad"))
    longer = [word.replace("task.max_length=20", "task.max_length=21") for word in translated("sources", data)]
    model, encoder = translator(("ind", "jav"), seed=2)
    save_checkpoint(model, encoder.tokenizer, tmp_path / "translator")
    other = [word.replace(f"{data}/translator", f"{tmp_path}/translator") for word in translated("sources", data)]
    (tmp_path / "smsa").mkdir()
    (tmp_path / "smsa" / "train.tsv").write_text("lain sekali ini\tpositive\n")
    content = [*translated("sources", data), f"data.sources.t.path={tmp_path}/smsa"]
    found = [plain, adapted, *(_fingerprint(planned, *words, *more) for more in (longer, other, content))]
    assert len(set(found)) == 5
    steps = [word.replace("max_steps=1", "max_steps=2") for word in translated("sources", data, "mad")]
    assert _fingerprint(planned, *words, *steps) != adapted  # it learned for longer


def test_where_things_lie_and_who_asks_is_no_part_of_a_translation(
    plan: Plan, words: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    made = [*words, *translated("sources", data)]
    changes = (["threads=2"], ["seed=9"], ["method=bitfit"], ["data.sources.t.upsample=3"], ["data.sources.t.cap=2"])
    found = {plan.add(compose([*made, f"output_dir={tmp_path}"])).depends_on["sources.t"]}
    found |= {plan.add(compose([*made, *more, f"output_dir={tmp_path}/o"])).depends_on["sources.t"] for more in changes}
    assert len(found) == 1 == len(translations(plan))


def test_what_two_configs_share_is_translated_once_and_each_split_by_itself(
    plan: Plan, planned: Planned, words: tuple[str, ...], data: Path
) -> None:
    select = ("data.select_on_targets=true",)
    first = planned(*words, *translated("sources", data), *translated("validation", data), *select)
    second = planned(*words, *translated("sources", data), *select, "seed=2")
    assert len(translations(plan)) == 2 and len(plan.runs) == 4
    assert first.depends_on["sources.t"] == second.depends_on["sources.t"] != first.depends_on["validation.t"]


def test_one_run_evaluated_on_plain_and_translated_text_of_one_name_has_an_evaluation_of_each(
    plan: Plan, words: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    out = f"output_dir={tmp_path}/outputs"
    zero, plain = plan.ask(compose([*words, out]))
    test, into = plan.ask(compose([*swapped(words, data), out]))
    assert zero is test and len(plan.to_train()) == 2  # the system, and a translation
    (one,), (two,) = plain.values(), into.values()
    assert plain.keys() != into.keys() and len(zero.evaluations) == 2
    assert one.source == two.source == "x" and (one.entry, two.entry) == ("x", "x (2)")
    entries = zero.planned_data.evaluation
    assert entries["x"].made is None and entries["x"].language == "jav"
    assert entries["x (2)"].made is not None and entries["x (2)"].language == "ind"
    (made,) = translations(plan)
    assert zero.evaluation_needs == {made.fingerprint} and zero.depends_on == {}
    _, again = plan.ask(compose([*swapped(words, data), out]))
    assert again.keys() == into.keys() and set(zero.planned_data.evaluation) == {"x", "x (2)"}
    assert set(zero.config.data.evaluation) == {"x"}  # the config is as it was given


def test_a_search_has_no_test_set_translated(plan: Plan, words: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    wanted = compose([*swapped(words, data), *translated("sources", data), f"output_dir={tmp_path}/outputs"])
    run = plan.add(wanted, evaluate=False)
    (made,) = translations(plan)
    assert run.depends_on == {"sources.t": made.fingerprint} and not run.evaluations
    plan.preflight()
    assert plan.add(wanted) is run and len(translations(plan)) == 2 and len(run.evaluations) == 1


def test_what_is_translated_and_was_replaced_after_planning_is_refused(
    plan: Plan, planned: Planned, words: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data")
    swap = [word.replace(str(data), str(tmp_path / "data")) for word in (*words, *translated("sources", data))]
    planned(*swap)
    with (tmp_path / "data" / "smsa" / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("satu lagi\tpositive\n")
    outcome = carry_out(plan, None, lambda *_: Silence())
    (made,) = translations(plan)
    assert "its files have changed since this was planned" in outcome.failures[made.fingerprint]
    assert not plan.store.is_trained(made.fingerprint)


def test_preflight_reads_what_is_translated_and_not_what_its_translator_does_not_learn(
    plan: Plan, planned: Planned, words: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    elsewhere = [word.replace("'model.run=null'", f"'model.run=null','data.sources.pairs.path={tmp_path}/no'")
                 for word in translated("sources", data)]  # fmt: skip
    planned(*words, *elsewhere)
    plan.preflight()
    planned(*words, *translated("sources", data), "data.sources.t.translation.fields=[text,pair]")
    with pytest.raises(UsageError, match=r"train.tsv:1: no pair to translate; give translation.fields"):
        plan.preflight()


def test_a_later_command_reads_what_is_translated_again_only_if_it_or_the_task_is_another(
    plan: Plan, words: tuple[str, ...], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(data, tmp_path / "data")
    (plan.store.root / "cache").mkdir(parents=True)
    swap = [word.replace(str(data), str(tmp_path / "data")) for word in (*words, *translated("sources", data))]
    read: list[str] = []

    def counted(name: str, *others: Any) -> Iterator[Example]:
        read.append(name)
        return read_source(name, *others)

    monkeypatch.setattr("xlt.data.selection.read_source", counted)

    def preflight() -> list[str]:
        """Returns the keys of the sources that a new command reads."""
        for results in ("engine.run_data._CHECKED", "engine.run_data._APART", "plan.checked_data._FOUND"):
            monkeypatch.setattr(f"xlt.{results}", {} if results.endswith("CHECKED") else set())  # as in a new process
        read.clear()
        fresh = Plan(plan.store)
        fresh.add(compose([*swap, f"output_dir={plan.store.root}"]))
        fresh.preflight()
        return list(read)

    assert "data.sources.t" in preflight()
    assert preflight() == []
    with (tmp_path / "data" / "smsa" / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("satu lagi\tsedih\n")
    with pytest.raises(UsageError, match="sedih"):
        preflight()
    with pytest.raises(UsageError, match="sedih"):  # a fault is found again
        preflight()


def _leaking(data: Path, tmp_path: Path, words: tuple[str, ...], *languages: str) -> list[str]:
    """An evaluation on sentences that the translators of these languages learn from."""
    (tmp_path / "leak").mkdir(exist_ok=True)
    (tmp_path / "leak" / "test.csv").write_text((data / "nusax" / "senti" / "mad" / "train.csv").read_text())
    more = [word for language in languages for word in translated("sources", data, language, language)]
    return [*words, *more, f"data.evaluation.x.path={tmp_path}/leak"]


def test_what_a_translator_learned_from_must_not_be_evaluated_on(
    plan: Plan, planned: Planned, words: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    planned(*_leaking(data, tmp_path, words, "jav"))
    plan.preflight()  # that one learns nothing
    planned(*_leaking(data, tmp_path, words, "mad", "jav"), "data.leaks=allow")
    plan.preflight()
    planned(*_leaking(data, tmp_path, words, "mad"))
    with pytest.raises(UsageError) as refused:
        plan.preflight()
    (line,) = refused.value.lines
    assert line.startswith("translation full mad seed=1: data.sources.pairs: ") and "train.csv:2" in line
    assert "data.evaluation.x (" in line and "3 more" in line


def test_the_translator_of_every_source_is_looked_at(
    plan: Plan, planned: Planned, words: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    """Not the last one alone: Ngaju's, planned after Madurese's, learned from nothing that is evaluated on."""
    made = _leaking(data, tmp_path, words, "mad")
    ngaju = [
        word.replace("{target}", "nij").replace("'target=nij'", "'target=jav'")
        for word in translated("sources", data, "nij", "nij")
    ]
    planned(*made, *ngaju)
    with pytest.raises(UsageError) as refused:
        plan.preflight()
    assert sum(line.startswith("translation full mad seed=1") for line in refused.value.lines) == 1


def test_what_made_a_translators_model_counts_as_well(
    plan: Plan, planned: Planned, words: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    """The Javanese translator does as its model does, and that one learned Madurese from nothing."""
    made = ["data=nmt_nusax", "target=mad", "task.max_length=20", *RECIPE]
    listed = ",".join(f'"{word}"' for word in made)
    sources = [
        word.replace(f"'model.path={data}/translator','model.run=null'", f"'model.run.overrides=[{listed}]'").replace(
            "{target}=jav", "{target}=ind"
        )
        for word in _leaking(data, tmp_path, words, "jav")
    ]
    planned(*sources)
    with pytest.raises(UsageError) as refused:
        plan.preflight()
    (line,) = refused.value.lines
    assert line.startswith("translation_pretrain pretrain mad seed=1: data.sources.pairs: ")


def test_a_translator_with_deltas_for_each_language_is_refused_before_anything_is_loaded(
    plan: Plan, words: tuple[str, ...], data: Path
) -> None:
    more = "'method=flix','+source@data.sources.more=nusax_mt','data.sources.more.language=sun'"
    made = [word.replace("'method=full'", more) for word in translated("sources", data)]
    asked = [*words, *made, "data.sources.t.translation.adapt=[jav]"]
    with pytest.raises(UsageError) as raised:
        plan.add(compose(asked))
    (line,) = raised.value.lines
    assert all(fact in line for fact in ("data.sources.t.translation.run", "method flix", "language: ", "jav"))
