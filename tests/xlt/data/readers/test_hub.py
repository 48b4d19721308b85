"""The hub reader on local folders laid out as data sets of the hub are; no network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.source_configs import source_config
from xlt.config import DataConfig, HubConfig, SourceConfig
from xlt.data.examples import Answer
from xlt.data.readers import conll, hub
from xlt.data.sources import read_source, reader_of, source_faults, source_identity
from xlt.errors import UsageError

TAGS = ["O", "B-PER", "B-DATE"]
README = "---\nconfigs:\n- config_name: hau\n  data_files: [{split: train, path: hau.jsonl}]\n---\n"


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def on_hub(id: Path | str, columns: dict[str, str], **changes: Any) -> SourceConfig:
    """A source from the hub; changes are of the source, or of its `hub` where that has the key."""
    values: dict[str, Any] = dict(subset=None, revision="main", splits={"dev": "validation"}, codes={})
    of_hub = {name: changes.pop(name) for name in list(changes) if name in values}
    return source_config(
        "conll", "hau", None, hub=HubConfig(id=str(id), fields=columns, **(values | of_hub)), **changes
    )


@pytest.fixture
def tagged(tmp_path: Path) -> Path:
    """Parquet files of tagged words, as the hub exports them: a folder a subset, a folder a split."""
    names = datasets.ClassLabel(names=TAGS)
    features = datasets.Features({"tokens": [datasets.Value("string")], "ner_tags": [names], "kind": names})
    for subset, word in (("ha", "Musa"), ("ig", "Eze")):
        for split in ("train", "validation"):
            rows = {"tokens": [[word, split], ["x"]], "ner_tags": [[1, 2], [0]], "kind": [1, 0]}
            file = tmp_path / "set" / subset / split / "0000.parquet"
            file.parent.mkdir(parents=True)
            datasets.Dataset.from_dict(rows, features=features).to_parquet(str(file))
    return tmp_path / "set"


def test_class_numbers_become_names_and_then_the_words_of_the_task(tagged: Path) -> None:
    fields = {"words": "tokens", "ner": "ner_tags", "label": "kind"}
    source = on_hub(
        tagged, fields, subset="{code}", codes={"hau": "ha"}, revision="refs/convert/parquet", labels={"B-DATE": "O"}
    )
    first, second = read_source("s", source, seed=1)
    assert (first.words, first.columns, first.label) == (("Musa", "train"), {"ner": ("B-PER", "O")}, "B-PER")
    assert (second.words, second.columns, second.label) == (("x",), {"ner": ("O",)}, "O")
    assert first.place.endswith("set/ha/train:1")


def test_the_split_has_the_name_that_the_data_set_gives_it(tagged: Path) -> None:
    source = on_hub(tagged, {"words": "tokens"}, subset="ig", revision="refs/convert/parquet", split="dev")
    assert next(hub.read(source)).words == ("Eze", "validation")


def test_a_subset_is_one_that_the_card_of_the_data_set_names(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    (tmp_path / "hau.jsonl").write_text('{"text": "sannu", "label": "x"}\n', encoding="utf-8")
    source = on_hub(tmp_path, {"text": "text", "label": "label"}, subset="{code}")
    assert [example.text for example in hub.read(source)] == ["sannu"]
    source.language = "ibo"
    with pytest.raises(
        UsageError, match=r"\(subset ibo, split train, revision main\) cannot be loaded: .*'ibo' not found"
    ):
        list(hub.read(source))


def test_answers_come_as_lists_in_a_mapping_or_as_a_list_of_pairs(tmp_path: Path) -> None:
    fields = {"text": "question", "pair": "context", "answers": "answers", "id": "id"}
    shapes: list[Any] = [{"text": ["b", "a b"], "answer_start": [2, 0]}, [{"text": "b", "answer_start": 2}]]
    for number, answers in enumerate(shapes):
        row = {"id": "q", "question": "?", "context": "a b", "answers": answers}
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "train.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (one,), (other,) = (list(hub.read(on_hub(tmp_path / str(number), fields))) for number in (0, 1))
    assert one.answers == (Answer("b", 2), Answer("a b", 0))
    assert other.answers == (Answer("b", 2),)


def test_the_hub_is_used_where_there_is_no_path_whatever_the_local_format() -> None:
    source = on_hub("owner/name", {"words": "tokens"}, fields={"words": "0", "ner": "-1"})
    assert reader_of(source) is hub
    source.path = "somewhere"
    assert reader_of(source) is conll


def test_what_is_wrong_is_said_in_one_line_with_the_local_way(tagged: Path) -> None:
    exported = {"subset": "ha", "revision": "refs/convert/parquet"}
    for source, fault in (
        (
            on_hub("nobody/nothing", {"text": "t"}),
            r"nobody/nothing \(split train, revision main\) cannot be loaded: .*Hub",
        ),
        (on_hub(tagged, {"text": "t"}, split="test", **exported), r"split test, .* cannot be loaded: Unknown split"),
    ):
        with pytest.raises(UsageError, match=fault) as caught:
            list(hub.read(source))
        assert len(caught.value.lines) == 1
        assert caught.value.lines[0].endswith("; to read local files instead, set data_dir=FOLDER")
    with pytest.raises(UsageError, match=r"set/ha/train:1: no column 't' \(fields.text\).* tokens, ner_tags"):
        list(hub.read(on_hub(tagged, {"text": "t"}, **exported)))


def test_a_hub_that_did_not_answer_once_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load_dataset(id: str, **options: object) -> None:
        asked.append(id)
        raise ConnectionError("no answer\nafter five tries")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UsageError, match=r"cannot be loaded: no answer; to read local files"):
        list(hub.read(on_hub("owner/slow", {"text": "text"})))
    assert asked == ["owner/slow"]
    assert datasets.config.HF_HUB_OFFLINE


def test_a_class_number_that_the_data_set_does_not_know_is_refused(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["yes"])})
    made = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, -1]}, features=features)
    made.to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(UsageError, match=r"/train:2: column 'label' .*-1.* class"):
        list(hub.read(on_hub(tmp_path, {"text": "text", "label": "label"})))


def test_code_that_comes_with_a_data_set_is_never_run(tmp_path: Path) -> None:
    script = tmp_path / "evil"
    script.mkdir()
    (script / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    (script / "train.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    with pytest.raises(UsageError, match=r"evil \(split train, revision main\) cannot be loaded: .*scripts"):
        list(hub.read(on_hub(script, {"text": "text"})))
    assert not (tmp_path / "ran").exists()


def test_the_identity_says_which_data_and_asks_no_network() -> None:
    fields = {"words": "tokens"}
    variants = [
        on_hub("owner/name", fields),
        on_hub("owner/other", fields),
        on_hub("owner/name", fields, subset="{code}"),
        on_hub("owner/name", fields, subset="{code}", codes={"hau": "ha"}),
        on_hub("owner/name", fields, revision="2.7"),
        on_hub("owner/name", fields, split="dev"),
        on_hub("owner/name", {"words": "words"}),
    ]
    identities = [source_identity(source) for source in variants]
    assert all(one != other for number, one in enumerate(identities) for other in identities[:number])
    assert all(hub.files(source) == [] for source in variants)


def test_a_local_folder_is_known_by_its_content_not_its_place(tagged: Path, tmp_path: Path) -> None:
    before = source_identity(on_hub(tagged, {"words": "tokens"}))
    tagged.rename(tmp_path / "elsewhere")
    assert source_identity(on_hub(tmp_path / "elsewhere", {"words": "tokens"})) == before
    (tmp_path / "elsewhere" / "more.txt").touch()
    assert source_identity(on_hub(tmp_path / "elsewhere", {"words": "tokens"})) != before


def test_fields_of_the_hub_and_a_hub_itself_are_needed() -> None:
    with pytest.raises(UsageError, match=r"hub.fields=\{\}: "):
        list(hub.read(on_hub("owner/name", {})))
    with pytest.raises(UsageError, match=r"hub=null: reader hub needs hub.id"):
        hub.files(source_config("hub", "hau", None))


def test_a_gated_data_set_is_refused_with_what_opens_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(id: str, **options: object) -> None:
        raise datasets.exceptions.DatasetNotFoundError(
            f"Dataset '{id}' is a gated dataset on the Hub.\nAsk for access."
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UsageError) as caught:
        list(hub.read(on_hub("owner/gated", {"text": "text"})))
    (line,) = caught.value.lines
    for fact in ("owner/gated", "gated", "conditions", "log in", "HF_TOKEN", "data_dir=FOLDER"):
        assert fact in line


def test_rows_without_a_class_can_be_left_out(tmp_path: Path) -> None:
    """SNLI marks pairs without an agreed label with -1."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["yes", "no"])})
    made = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, -1, 1]}, features=features)
    made.to_parquet(str(tmp_path / "train.parquet"))
    fields = {"text": "text", "label": "label"}
    for where in ({"label": {"not": -1}}, {"label": ["yes", "no"]}):
        examples = list(hub.read(on_hub(tmp_path, fields, where=where)))
        assert [(example.text, example.label) for example in examples] == [("a", "yes"), ("c", "no")]
    with pytest.raises(UsageError, match=r"where.label.not=-1"):
        list(hub.read(on_hub(tmp_path, fields)))


def test_a_nested_column_is_read_with_the_names_of_its_classes(tmp_path: Path) -> None:
    inner = {"en": datasets.Value("string"), "kind": datasets.ClassLabel(names=["x", "y"])}
    made = datasets.Dataset.from_dict(
        {"translation": [{"en": "cat", "kind": 1}]}, features=datasets.Features({"translation": inner})
    )
    made.to_parquet(str(tmp_path / "train.parquet"))
    (example,) = hub.read(
        on_hub(tmp_path, {"text": "translation.{code}", "label": "translation.kind"}, codes={"hau": "en"})
    )
    assert (example.text, example.label) == ("cat", "y")


def test_a_key_of_the_reader_of_files_is_no_fault_where_the_hub_is_read(tagged: Path) -> None:
    on_the_hub = on_hub(tagged, {"words": "tokens"}, subset="{code}", codes={"hau": "ha"})
    of_tsv = replace(on_the_hub, reader="tsv", quoting="rfc")
    nothing: dict[str, Any] = dict(sources={}, validation={}, excluded={}, search={})
    assert source_faults(DataConfig(evaluation={"s": of_tsv}, **nothing)) == []
    of_conll = replace(on_the_hub, quoting="rfc")
    (line,) = source_faults(DataConfig(evaluation={"s": of_conll}, **nothing))
    assert "quoting=rfc" in line and "conll" in line and "tsv" in line
