"""Modules of relatives: those of the nearest languages in compositions, and modules learned from several languages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlt.compose import checked, compose
from xlt.data.language_facts import family_of
from xlt.engine.watching import Silence
from xlt.errors import UsageError
from xlt.execution.execution import carry_out
from xlt.modules import load_module
from xlt.plan.planner import Plan, Run

MIX = "+composition@compositions.mix="
FAMILIES = ("nano_families", "families_mini", "families_thesis")
PAIRS = ("nano_pairs", "pairs")


@pytest.fixture
def related(adapted: tuple[str, ...], shelf: Path) -> tuple[str, ...]:
    """Overrides with modules of English, Icelandic and Turkish, of which Icelandic is the nearest to Faroese."""
    texts = [f"+language_modules.texts.{code}={shelf / 'mono' / 'fo.txt'}" for code in ("isl", "tur")]
    return (*adapted, "language_modules.among=[tur,eng,isl]", *texts)


def silent(*_: Any) -> Silence:
    return Silence()


def test_the_nearest_languages_are_named_by_their_number(
    plan: Plan, planned: Callable[..., Run], related: tuple[str, ...]
) -> None:
    run = planned(*related, f"{MIX}relatives", "~data.evaluation.eng")
    (mixed,) = (one for one in run.evaluations.values() if "nearest" in one.label)
    assert mixed.label == "task+average(nearest.1, nearest.2, nearest.3)"
    by_language = {one.config.language: one.fingerprint for one in plan.runs.values() if one.config.language}
    roles = mixed.identity["modules"]
    assert [roles[f"nearest.{number}"] for number in (1, 2, 3)] == [by_language[code] for code in ("isl", "eng", "tur")]
    assert mixed.unusual == "modules of isl and eng and tur"
    assert set(by_language.values()) <= {*run.evaluation_needs, *run.depends_on.values()}
    usual = next(one for one in run.evaluations.values() if (one.source, one.label) == ("fao", "task+language"))
    assert usual.identity["modules"]["language"] == by_language["isl"]


def test_a_language_is_not_near_itself_and_too_few_are_refused(
    plan: Plan, planned: Callable[..., Run], related: tuple[str, ...], words: tuple[str, ...]
) -> None:
    two = "compositions.mix.of=[nearest.1,nearest.2,task]"
    run = planned(*related, f"{MIX}stack", two)
    english = next(one for one in run.evaluations.values() if one.source == "eng" and "nearest" in one.label)
    assert english.unusual == "modules of isl and tur"

    def line(*more: str) -> str:
        with pytest.raises(UsageError) as fault:
            planned(*more)
        return fault.value.lines[0]

    three = line(*related, f"{MIX}stack", "compositions.mix.of=[nearest.3,task]")
    assert three.startswith("language_modules.among: 2 languages besides eng, but nearest.3 is asked for")
    assert "no module nearest.0" in line(*related, f"{MIX}stack", "compositions.mix.of=[nearest.0,task]")
    assert "names the language's module, but the run has none" in line(*words, f"{MIX}stack", two)


def test_a_module_is_learned_from_the_text_of_several_languages(
    plan: Plan, planned: Callable[..., Run], adapted: tuple[str, ...]
) -> None:
    alone = planned(*adapted)
    run = planned(*adapted, "+language_modules.learned_from.fao=[eng,fao]")
    assert run is alone  # English, which it is trained with, has its own module as before
    runs = [one for one in plan.runs.values() if one.config.language == "fao"]
    assert [sorted(one.config.data.sources) for one in runs] == [["text"], ["eng", "fao"]]
    pair = runs[1]
    assert {name: source.language for name, source in pair.config.data.sources.items()} == {"eng": "eng", "fao": "fao"}
    assert [source.location().name for source in pair.config.data.sources.values()] == ["en.txt", "fo.txt"]
    asked = [one for one in run.evaluations.values() if (one.source, one.label) == ("fao", "task+language")]
    assert {one.identity["modules"]["language"] for one in asked} == {one.fingerprint for one in runs}
    only = Plan(plan.store)
    only.runs[pair.fingerprint] = pair
    assert carry_out(only, None, silent).failures == {}
    assert load_module(plan.store.module_file(pair.fingerprint)).header.language == "fao"


def test_what_it_is_learned_from_is_checked(planned: Callable[..., Run], adapted: tuple[str, ...]) -> None:
    expected = {
        "+language_modules.learned_from.fao=[fao,fao]": "must be different languages, at least one",
        "+language_modules.learned_from.fao=[]": "must be different languages, at least one",
        "+language_modules.learned_from.fao=[xx]": "language_modules.learned_from.fao=['xx']: xx is",
    }
    for word, said in expected.items():
        with pytest.raises(UsageError, match="learned_from") as fault:
            planned(*adapted, word)
        assert said in str(fault.value)
    with pytest.raises(UsageError, match="a language module is learned from its own language"):
        planned("experiment=nano_language", "language=fao", "data.sources.text.language=isl")


@pytest.mark.parametrize("name", [*FAMILIES, *PAIRS])
def test_families_are_those_of_uriel_and_pairs_have_english(name: str) -> None:
    config = checked(compose([f"language_modules={name}", "experiment=nano_fields"])).language_modules
    for language, others in config.learned_from.items():
        assert language in others
        if name in PAIRS:
            assert others == ["eng", language]
        else:
            assert len({family_of(one) for one in others}) == 1 and len(others) > 1
