from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from xlt.compose import checked, compose, hydra_ready
from xlt.data import selection
from xlt.data.encoding import Encoder
from xlt.data.mix import LoadedSource
from xlt.data.source_report import SourceReport, form_note
from xlt.engine import run_data
from xlt.engine.build import build_task
from xlt.engine.run_data import RunData
from xlt.errors import UsageError
from xlt.source_code import SourceCode, read_source


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with hydra_ready():
        yield


@pytest.fixture(autouse=True)
def _nothing_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_data, "_CHECKED", {})


@pytest.fixture
def make(tmp_path: Path, tiny_bert: Path) -> Callable[..., RunData]:
    """Data of a run on lines of English text; a line is its number in letters."""
    lines = ["".join(chr(ord("a") + int(digit)) for digit in str(number)) for number in range(100, 200)]
    (tmp_path / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def made(*words: str) -> RunData:
        overrides = [
            "experiment=language",
            "language=eng",
            "task=mlm_lines",
            f"data.sources.text.path={tmp_path / 'text.txt'}",
            f"output_dir={tmp_path / 'outputs'}",
            f"model.path={tiny_bert}",
            f"data_dir={tmp_path}",
            "task.max_length=16",
            *words,
        ]
        config = checked(compose(overrides))
        return RunData(config, build_task(config.task))

    return made


def texts(sources: list[LoadedSource], encoder: Encoder) -> list[str]:
    rows = [row["input_ids"] for source in sources for row in source.features]
    return [encoder.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]


def test_without_validation_a_share_of_each_gold_source_is_held_out_and_nothing_is_in_both(
    make: Callable[..., RunData], encoder: Encoder
) -> None:
    data = make("data.held_out_fraction=0.1")
    learned, held = texts(data.load("sources", encoder), encoder), texts(data.load("validation", encoder), encoder)
    assert (len(learned), len(held)) == (90, 10)
    assert not set(learned) & set(held)
    assert held != texts(make("data.held_out_fraction=0.1", "seed=2").load("validation", encoder), encoder)


@pytest.mark.parametrize("origin", ["gold", "few-shot", "translated"])
def test_what_one_language_holds_out_no_other_learns_in_translation(
    origin: str, tmp_path: Path, tiny_bert: Path
) -> None:
    """AmericasNLI's dev sets are translations of each other, and one lacks some of the others' examples."""
    for code, missing in (("aym", ()), ("cni", range(0, 60, 7))):
        (tmp_path / "americasnli" / code).mkdir(parents=True)
        rows = [f"{n}\t{code}\tp{n}x\th{n}\tneutral\n" for n in range(60) if n not in missing]
        text = "id\tlanguage\tpremise\thypothesis\tlabel\n" + "".join(rows)
        (tmp_path / "americasnli" / code / "dev.tsv").write_text(text, encoding="utf-8")
    words = [f"+source@data.sources.{code}=americasnli" for code in ("aym", "cni")]
    words += [f"data.sources.{code}.{key}" for code in ("aym", "cni") for key in (f"language={code}", "split=dev")]
    words += ["task=nli", f"data_dir={tmp_path}", f"model.path={tiny_bert}", f"output_dir={tmp_path / 'outputs'}"]
    config = checked(compose([*words, "data.held_out_fraction=0.2", f"data.sources.cni.origin={origin}"]))
    data = RunData(config, build_task(config.task))
    ids = {
        part: [{example.id for example in data._selection.examples(part, name)} for name in data.sources(part)]
        for part in ("sources", "validation")
    }
    assert len(ids["sources"]) == 2 and not set.union(*ids["sources"]) & set.union(*ids["validation"])
    assert len(ids["validation"][0]) in range(6, 19)
    assert ids["validation"][1:] == (
        [] if origin != "gold" else [ids["validation"][0] - {str(n) for n in range(0, 60, 7)}]
    )
    assert set.union(*ids["sources"], *ids["validation"]) == {str(n) for n in range(60)}


def test_few_shot_and_translated_sources_are_not_held_out_of(make: Callable[..., RunData], encoder: Encoder) -> None:
    more = ["+source@data.sources.few=mono", "data.sources.few.origin=few-shot", "data.sources.few.cap=10"]
    data = make(*more, "data.sources.few.path=${data.sources.text.path}")
    assert list(data.sources("validation")) == ["text"]
    assert len(data.load("sources", encoder, ["few"])[0].features) == 10


def test_what_is_tokenised_is_kept_and_not_read_again(
    make: Callable[..., RunData], encoder: Encoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = make()
    first.check()
    before = texts(first.load("sources", encoder), encoder)
    monkeypatch.setattr(run_data, "_CHECKED", {})
    monkeypatch.setattr(selection, "read_source", None)  # whoever calls it fails
    again = make()
    again.check()
    assert texts(again.load("sources", encoder), encoder) == before
    assert not [path for path in (tmp_path / "outputs").rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("word", ["task.max_length=12", "data.sources.text.cap=50", "data.held_out_fraction=0.2"])
def test_other_settings_have_other_features(word: str, make: Callable[..., RunData], encoder: Encoder) -> None:
    make().load("sources", encoder)
    folder = next(path for path in Path(make()._cache).iterdir() if path.name == "features")
    before = len(list(folder.iterdir()))
    make(word).load("sources", encoder)
    assert len(list(folder.iterdir())) == before + 1


@pytest.mark.parametrize(
    ("module", "before", "after"),
    [
        ("xlt.data.running_text", 'else " "', 'else "  "'),  # what stands between words without a text
        ("xlt.data.encoding", "bisect_right(begins, start) - 1", "bisect_left(begins, start) - 1"),
        ("xlt.data.readers.text", "line.strip()", "line.rstrip()"),
    ],
)
def test_code_that_cuts_words_otherwise_makes_other_features(
    module: str,
    before: str,
    after: str,
    make: Callable[..., RunData],
    encoder: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def changed(name: str) -> str | None:
        code = read_source(name)
        assert code is None or name != module or before in code
        return code.replace(before, after) if code is not None and name == module else code

    make().load("sources", encoder)
    (folder,) = Path(make()._cache).glob("features")
    files = len(list(folder.iterdir()))
    monkeypatch.setattr(run_data, "installed", functools.cache(lambda: SourceCode(changed)))
    make().load("sources", encoder)
    assert len(list(folder.iterdir())) == files + 1


def test_a_changed_file_is_read_afresh(make: Callable[..., RunData], encoder: Encoder, tmp_path: Path) -> None:
    make().load("sources", encoder)
    (tmp_path / "text.txt").write_text("bada\nbado\nbadi\n", encoding="utf-8")
    assert set(texts(make().load("sources", encoder), encoder)) < {"bada", "bado", "badi"}


def test_checking_leaves_nothing_on_disk(make: Callable[..., RunData], tmp_path: Path) -> None:
    make().check()
    assert not (tmp_path / "outputs").exists()


def test_texts_of_excluded_sources_are_not_learned_from(
    make: Callable[..., RunData], encoder: Encoder, tmp_path: Path
) -> None:
    (tmp_path / "out.txt").write_text("BAA\nbab!\n", encoding="utf-8")  # 100 and 101, case and punctuation apart
    excluded = ["+source@data.excluded.out=mono", f"data.excluded.out.path={tmp_path / 'out.txt'}"]
    data = make(*excluded)
    found = texts([*data.load("sources", encoder), *data.load("validation", encoder)], encoder)
    assert len(found) == 98
    assert not {"baa", "bab"} & set(found)


def test_too_few_examples_to_hold_some_out_are_refused(make: Callable[..., RunData], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"data.sources.text: 1 examples are too few to hold some out"):
        make().check()


def test_examples_are_numbered_through_a_source(
    make: Callable[..., RunData], encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_data, "_CHUNK", 7)
    data = make()
    plain = data._task.features
    monkeypatch.setattr(
        data._task, "features", lambda e, n: [row | {"example": i} for i, row in enumerate(plain(e, n))]
    )
    (source,) = data.load("sources", encoder)
    assert [row["example"] for row in source.features] == list(range(len(source.features)))


def test_a_languages_own_share_is_held_out_of_its_sources(make: Callable[..., RunData], encoder: Encoder) -> None:
    def held(*words: str) -> int:
        return len(texts(make("data.held_out_fraction=0.1", *words).load("validation", encoder), encoder))

    assert (held(), held("+data.held_out_fractions.eng=0.02"), held("+data.held_out_fractions.fao=0.02")) == (10, 2, 10)


def test_a_training_source_with_fewer_examples_than_its_cap_is_named(
    make: Callable[..., RunData], encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def notes(*words: str) -> list[str]:
        made = make(*words)
        made.check()
        return _notes(made)

    assert notes("data.sources.text.cap=100") == []
    (line,) = notes("data.sources.text.cap=101")
    assert line == "data.sources.text.cap=101: the source has only 100 examples; all are used"
    made = make("data.sources.text.cap=200")
    made.check()
    made.load("sources", encoder)
    monkeypatch.setattr(run_data, "_CHECKED", {})
    assert notes("data.sources.text.cap=200") == [line.replace("101", "200")]  # also when nothing is read again


def test_rows_left_out_are_counted_and_the_count_is_kept_with_the_features(
    make: Callable[..., RunData], encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["+data.sources.text.where.text.matches='^b[ab]'"]  # 20 of 100 lines
    made = make(*words)
    made.check()
    assert _notes(made) == ["data.sources.text: where leaves out 80 of 100 rows (text: 80)"]
    made.load("sources", encoder)
    monkeypatch.setattr(run_data, "_CHECKED", {})
    again = make(*words)
    again.check()
    report = again.reports()["data.sources.text"]
    assert (report.rows, report.left_out) == (100, {"text": 80})


def test_different_unicode_forms_of_training_and_evaluation_are_reported(
    make: Callable[..., RunData], tmp_path: Path
) -> None:
    text = "Tất cả mọi người sinh ra đều được hưởng tự do\n"
    for name, form in (("learned", "NFC"), ("evaluated", "NFD")):
        (tmp_path / f"{name}.txt").write_text(unicodedata.normalize(form, text) * 40, encoding="utf-8")
    words = [
        f"data.sources.text.path={tmp_path / 'learned.txt'}",
        "+source@data.evaluation.x=mono",
        f"data.evaluation.x.path={tmp_path / 'evaluated.txt'}",
        "data.evaluation.x.split=test",
    ]
    with pytest.raises(UsageError, match=r"data.sources.text: .*also in the evaluation data"):
        make(*words, "data.leaks=refuse").check()
    made = make(*words, "data.leaks=allow")
    made.check()
    note = str(form_note(made.reports()))
    assert "NFC: data.sources.text" in note and "NFD: data.evaluation.x" in note


def test_the_tokenizer_decides_whether_forms_matter(
    make: Callable[..., RunData], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make()
    report = SourceReport(sample="e\u0301te\u0301")
    for normalizer, matter in ((normalizers.NFC(), False), (normalizers.NFKD(), False), (None, True)):
        tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "\u00e9": 1, "e": 2, "\u0301": 3, "t": 4}, "[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
        monkeypatch.setattr(run_data, "load_tokenizer", lambda *_, fast=fast, **__: fast)
        monkeypatch.setattr(run_data, "Encoder", _Lines)
        assert made.forms_matter([report]) == matter


def _notes(made: RunData) -> list[str]:
    return [line for key, report in made.reports().items() for line in report.notes(key)]


class _Lines:
    """The part of an encoder that is used here; its constructor needs a tokenizer that knows the letter a."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer

    def lines(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts)["input_ids"]
