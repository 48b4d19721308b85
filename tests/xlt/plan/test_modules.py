"""Which module a language gets, where there are several varieties of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.xlt.conftest import LANGUAGE_RECIPE
from xlt.errors import UsageError
from xlt.models.loading import load_pretrained
from xlt.modules import Entries, ModuleHeader, SparseDelta
from xlt.plan.checks import module_faults, user_file_faults
from xlt.plan.planner import Run

LATIN = "+language_modules.paths.fao_Latn"
TREEBANK = "Faroese-FarPaHC"


@pytest.fixture
def module(tmp_path: Path, tiny_bert: Path) -> Callable[[str], Path]:
    """`module(language)`: a file with a language module of the tiny model."""
    model = load_pretrained(str(tiny_bert))
    name = next(name for name, _ in model.named_parameters() if name.endswith("layer.0.attention.self.query.weight"))

    def make(language: str) -> Path:
        header = ModuleHeader(
            kind="sparse_delta", method="lt_sft", base_model="b", base_hash=model.base_hash, language=language
        )
        delta = Entries(torch.tensor([3]), torch.tensor([0.1]), torch.Size([32, 32]))
        SparseDelta(header, {name: delta}, {}).save(tmp_path / language)
        return tmp_path / language

    return make


def test_a_module_of_one_variety_is_not_taken_for_the_language_nor_for_another_variety(
    planned: Callable[..., Run], words: tuple[str, ...], module: Callable[[str], Path]
) -> None:
    given = (f"+language_modules.paths.eng={module('eng')}", f"{LATIN}={module('fao_Latn')}")
    for language in ("fao", "fao_Runr"):
        variety = (f"data.evaluation.fao.language={language}", f"+data.evaluation.fao.codes.fao_Runr={TREEBANK}")
        with pytest.raises(UsageError) as refused:
            planned(*words, *given, *variety)
        (line,) = refused.value.lines
        assert f"no module for {language}; give +language_modules.paths.{language}=FILE" in line
        assert f"+language_modules.stand_in.{language}=fao_Latn" in line
    run = planned(*words, *given, "+language_modules.stand_in.fao=fao_Latn")
    used = {
        (wanted.source, wanted.modules[0].language, wanted.unusual)
        for wanted in run.evaluations.values()
        if wanted.label == "task+language"
    }
    assert ("fao", "fao_Latn", "module of fao_Latn") in used


def test_a_file_of_another_variety_is_refused_with_the_way_to_use_it(
    planned: Callable[..., Run], words: tuple[str, ...], module: Callable[[str], Path]
) -> None:
    files = {language: module(of) for language, of in {"eng": "eng", "fao": "fao_Latn"}.items()}
    run = planned(*words, *(f"+language_modules.paths.{language}={file}" for language, file in files.items()))
    (line,) = module_faults(run.config.language_modules)
    assert "a module of language fao_Latn, wanted fao" in line
    assert "language_modules.paths.fao_Latn" in line and "language_modules.stand_in.fao=fao_Latn" in line


def test_each_variety_has_a_language_module_of_its_own(planned: Callable[..., Run], adapted: tuple[str, ...]) -> None:
    recipe = ",".join(f"'{word}'" for word in (*LANGUAGE_RECIPE, "+data.sources.text.codes.fao_Latn=fo"))
    codes = (f"language_modules.overrides=[{recipe}]", f"+data.evaluation.fao.codes.fao_Latn={TREEBANK}")

    def modules(language: str) -> dict[str | None, Path]:
        run = planned(*adapted, *codes, f"data.evaluation.fao.language={language}")
        composed = [wanted for wanted in run.evaluations.values() if wanted.label == "task+language"]
        return {wanted.modules[0].language: wanted.modules[0].path for wanted in composed}

    plain, variety = modules("fao"), modules("fao_Latn")
    assert "fao" in plain and "fao_Latn" not in plain  # `variety` has both: the task's run is the same
    assert plain["fao"] != variety["fao_Latn"]  # though both are learned from the same text


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("data.evaluation.fao.language=iw", r"data\.evaluation\.fao\.language=iw: .*did you mean heb\?"),
        ("data.evaluation.fao.language=zh-yue", r"language=zh-yue: .*did you mean yue\?"),
        ("data.evaluation.fao.language=az-Arab", r"language=az-Arab: .*did you mean aze_Arab\?"),
        ("data.evaluation.fao.language=ajp", r"language=ajp: .*apc took its place"),
        ("data.evaluation.fao.language=fao_latn", r"language=fao_latn: .*did you mean fao_Latn\?"),
        ("+data.evaluation.fao.codes.iw=x", r"data\.evaluation\.fao\.codes\.iw: .*did you mean heb\?"),
        ("+data.evaluation.fao.hub.codes.iw=x", r"data\.evaluation\.fao\.hub\.codes\.iw: .*did you mean heb\?"),
        ("+data.held_out_fractions.mol=0.1", r"data\.held_out_fractions\.mol: .*ron took its place"),
        ("+language_modules.stand_in.fao=isl_latn", r"language_modules\.stand_in\.fao=isl_latn: .*isl_Latn\?"),
        ("language_modules.among=[bat-smg]", r"language_modules\.among: bat-smg is .*did you mean sgs\?"),
        ("target=zh-CN", r"target=zh-CN: .*did you mean zho_Hans\?"),
        ("language=ENG", r"language=ENG: .*did you mean eng\?"),
    ],
)
def test_wherever_a_language_stands_a_wrong_code_is_one_line(
    word: str, said: str, planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        planned(*words, word)
    assert len([line for line in refused.value.lines if "eng is of" not in line and "of language eng" not in line]) == 1


@pytest.mark.parametrize(
    ("other", "fits"), [("body", True), ("body+head", True), ("body+another", False), ("another+head", False)]
)
def test_module_files_of_one_base_fit_together_also_if_one_has_no_hash_of_the_head(
    other: str, fits: bool, module_header: Callable[..., ModuleHeader], tmp_path: Path
) -> None:
    paths = {}
    for language, base_hash in (("eng", "body+head"), ("fao", other)):
        paths[language] = str(tmp_path / language)
        delta = Entries(torch.tensor([3]), torch.tensor([0.1]), torch.Size([32, 32]))
        SparseDelta(module_header(base_hash=base_hash, language=language), {"w": delta}, {}).save(paths[language])
    nothing = SimpleNamespace(path=None, student=None, paths={})
    config: Any = SimpleNamespace(
        language_modules=SimpleNamespace(paths=paths),
        task_modules=nothing,
        evaluation=nothing,
        start=nothing,
        teacher=nothing,
        model=nothing,
    )
    assert [line.partition("=")[0] for line in user_file_faults(config)] == (
        [] if fits else ["language_modules.paths.fao"]
    )


def test_a_text_of_one_language_is_learned_from_and_those_of_the_others_stay(
    planned: Callable[..., Run], adapted: tuple[str, ...], shelf: Path, tmp_path: Path
) -> None:
    text = tmp_path / "own.txt"
    text.write_text("".join(f"gott kvøld {number}\n" for number in range(9)), encoding="utf-8")
    before = planned(*adapted)
    (used,) = before.evaluation_needs - set(before.depends_on.values())
    run = planned(*adapted, f"+language_modules.texts.fao={text}")
    assert run.fingerprint == before.fingerprint  # the English module is the same
    assert len(run.evaluation_needs - {used, *run.depends_on.values()}) == 1
    lacking = tmp_path / "lacking"
    shutil.copytree(shelf, lacking)
    (lacking / "mono" / "fo.txt").unlink()
    without = [word for word in adapted if not word.startswith("data_dir=")]
    assert planned(*without, f"data_dir={lacking}", f"+language_modules.texts.fao={text}").evaluation_needs
    for words, said in (
        ((*adapted, f"+language_modules.texts.fao={tmp_path / 'absent'}"), "absent: no such file"),
        ((*adapted, f"+language_modules.texts.fao={text}", "language_modules.experiment=null"), "experiment is null"),
    ):
        with pytest.raises(UsageError, match=said):
            planned(*words)


def test_a_language_that_goes_without_a_module_is_marked_and_needs_no_text(
    planned: Callable[..., Run], adapted: tuple[str, ...], shelf: Path, tmp_path: Path
) -> None:
    shutil.copytree(shelf, tmp_path / "lacking")
    (tmp_path / "lacking" / "mono" / "fo.txt").unlink()
    words = [*(word for word in adapted if not word.startswith("data_dir=")), f"data_dir={tmp_path / 'lacking'}"]
    run = planned(*words, "+language_modules.stand_in.fao=none")
    assert run.evaluation_needs <= set(run.depends_on.values())
    composed = {one.source: one for one in run.evaluations.values() if one.label == "task+language"}
    assert composed["fao"].unusual == "no language module" and composed["eng"].unusual == ""
    assert [module.language for module in composed["fao"].modules] == [None]
    keys = {one.source: key for key, one in run.evaluations.items() if one.label != "task+language"}
    assert keys.get("fao") not in {key for key, one in run.evaluations.items() if one.label == "task+language"}


def test_training_without_language_modules_is_that_of_a_run_that_has_none(
    planned: Callable[..., Run], words: tuple[str, ...], module: Callable[[str], Path]
) -> None:
    modules = [f"+language_modules.paths.{language}={module(language)}" for language in ("eng", "fao")]
    plain, usual = planned(*words), planned(*words, *modules)
    on_base = planned(*words, *modules, "+language_modules.stand_in.eng=none")
    # Code of modules counts where there are any, also that of kinds which other tests have defined in this process.
    settings, of_plain, of_usual = ({**run.identity, "code": None} for run in (on_base, plain, usual))
    assert settings == of_plain != of_usual
    assert on_base.standing.language_modules == {} and [*usual.standing.language_modules] == ["eng"]
    composed = {one.source: one for one in on_base.evaluations.values() if one.label == "task+language"}
    assert composed["fao"].modules[0].language == "fao" and composed["fao"].unusual == ""
    assert composed["eng"].unusual == "no language module"


def test_of_two_source_languages_not_one_alone_goes_without_a_module(
    planned: Callable[..., Run], words: tuple[str, ...], module: Callable[[str], Path]
) -> None:
    faroese = ["+source@data.sources.fao=ud_fao", "data.sources.fao.split=train"]
    modules = [f"+language_modules.paths.{language}={module(language)}" for language in ("eng", "fao")]
    with pytest.raises(UsageError, match=r"stand_in\.eng=none: the run is trained with a module of fao; .* or none"):
        planned(*words, *faroese, *modules, "+language_modules.stand_in.eng=none")
