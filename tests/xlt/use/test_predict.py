"""`xlt predict`: every format and task, what stays as it is, languages, interruption, and what is refused."""

from __future__ import annotations

import dataclasses
import io
import json
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import LABELS, sentences
from tests.xlt.use.conftest import CONFIGS, ENTITIES, RELATIONS
from xlt.data.encoding import Encoder
from xlt.data.examples import Answer, Example
from xlt.data.mix import LoadedSource
from xlt.data.readers import conllu as conllu_reader
from xlt.engine.build import build_task
from xlt.engine.evaluation import evaluate
from xlt.engine.training import Interrupted
from xlt.errors import UsageError
from xlt.modules import Entries, SparseDelta, load_module
from xlt.use.loading import LoadedModel, load_model, read_modules, task_of
from xlt.use.output import GrowingOutput
from xlt.use.predict import PredictSettings, predict

# Multi-word tokens, an empty node, comments, FEATS, DEPS, MISC, a line end of Windows, and no line end at the end.
TREEBANK = (
    "# newdoc id = d\n# sent_id = 1\n# text = ban kon.\n"
    "1-2\tbankon\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No\n"
    "1\tban\tb\t_\tV\tTense=Past\t_\t_\t2:nsubj\tGloss=x|Ref=3\n"
    "2\tkon\tk\t_\t_\t_\t_\t_\t_\t_\n"
    "2.1\tnul\t_\tNOUN\t_\t_\t_\t_\t1:dep\t_\n"
    "3\t.\t.\tPUNCT\t_\t_\t_\t_\t_\t_\n\n"
    "# a comment between\n\n\n"
    "# sent_id = 2\r\n1\tmos\t_\t_\t_\t_\t_\t_\t_\t_\r\n2\tdat\t_\t_\t_\t_\t_\t_\t_\t_"
)


def columns(text: str, number: int) -> list[str]:
    return [f[number] for line in text.splitlines() if (f := line.split("\t"))[0].isdecimal()]


def loaded_model(modules: Mapping[str, Path], name: str, *languages: str) -> LoadedModel:
    used = read_modules([str(modules[one]) for one in (name, *languages)], {})
    return load_model(used, task_of(used.main), device="cpu")


def test_conllu_stays_byte_for_byte_but_for_the_tasks_column(predicted: Callable[..., str]) -> None:
    out = predicted("pos", "in.conllu", TREEBANK)
    assert all(tag in LABELS for tag in columns(out, 3))
    before, after = (text.split("\n") for text in (TREEBANK, out))
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        fields, changed = old.split("\t"), new.split("\t")
        if fields[0].isdecimal():
            fields[3] = changed[3]
        assert fields == changed


def test_entities_of_conllu_are_in_misc_and_an_earlier_one_is_replaced(predicted: Callable[..., str]) -> None:
    out = predicted("ner", "in.conllu", TREEBANK.replace("Gloss=x|Ref=3", "Gloss=x|NER=B-OLD|Ref=3"))
    first, *others = columns(out, 9)
    gloss, entity, reference = first.split("|")
    assert (gloss, reference) == ("Gloss=x", "Ref=3") and entity.removeprefix("NER=") in ENTITIES
    assert all(misc.strip().removeprefix("NER=") in ENTITIES for misc in others)
    assert columns(out, 3) == columns(TREEBANK, 3)


def test_parsing_writes_heads_and_relations_that_are_trees(predicted: Callable[..., str]) -> None:
    out = predicted("parsing", "in.conllu", TREEBANK)
    assert all(relation in RELATIONS for relation in columns(out, 7))
    assert columns(out, 8) == columns(TREEBANK, 8)
    heads = columns(out, 6)
    assert heads[:3].count("0") == heads[3:].count("0") == 1


def test_predictions_are_those_that_evaluation_scores(
    predicted: Callable[..., str], modules: Mapping[str, Path], encoder: Encoder
) -> None:
    examples = sentences("eng", 90)
    lines = "\n".join(json.dumps({"words": e.words, "upos": e.columns["upos"]}) for e in examples)
    out = [json.loads(line) for line in predicted("pos", "in.jsonl", lines).splitlines()]
    gold = [tag for example in examples for tag in example.columns["upos"]]
    right = sum(a == b for a, b in zip(gold, (tag for row in out for tag in row["upos"]), strict=True))
    loaded = loaded_model(modules, "pos")
    loaded.speak(None)
    source = LoadedSource("s", "eng", loaded.task.features([with_text(e) for e in examples], loaded.encoder))
    metrics = evaluate(loaded.model, loaded.task, [source], loaded.encoder, 32, "fp32")
    assert metrics["accuracy"] == pytest.approx(100 * right / len(gold))
    assert all(0 < score <= 1 for row in out for score in row["upos_scores"])


def with_text(example: Example) -> Example:
    return Example(example.place, None, example.words, example.columns)


def test_labels_are_not_looked_at(predicted: Callable[..., str]) -> None:
    plain = predicted("pos", "in.conllu", TREEBANK)
    labelled = TREEBANK.replace("\t_\tV\t", "\tNOPE\tV\t")
    assert predicted("pos", "in.conllu", labelled) == plain


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("in.txt", "ban kon mos\nmos dat\n"),
        ("in.conllu", "".join(f"{n}\t{w}" + "\t_" * 8 + "\n" for n, w in enumerate(["ban", "kon", "mos"], 1)) + "\n"
         + "".join(f"{n}\t{w}" + "\t_" * 8 + "\n" for n, w in enumerate(["mos", "dat"], 1)) + "\n"),
        ("in.conll", "ban X\nkon X\nmos X\n\nmos X\ndat X\n"),
        ("in.jsonl", '{"tokens": ["ban", "kon", "mos"]}\n\n{"sentence": "mos dat"}\n'),
        ("in.tsv", "id\ttext\n1\tban kon mos\n2\tmos dat\n"),
        ("in.csv", 'sentence,other\n"ban kon mos","a,b"\nmos dat,c\n'),
    ],
)  # fmt: skip
def test_each_input_format_gives_the_same_tags_in_each_output_format(
    predicted: Callable[..., str], name: str, text: str
) -> None:
    jsonl = [json.loads(line) for line in predicted("pos", name, text, "jsonl").splitlines()]
    assert [row.get("words") or row["tokens"] for row in jsonl] == [["ban", "kon", "mos"], ["mos", "dat"]]
    tags = [row["upos"] for row in jsonl]
    assert columns(predicted("pos", name, text, "conllu"), 3) == [tag for row in tags for tag in row]
    conll = [line.split() for line in predicted("pos", name, text, "conll").splitlines()]
    assert [cells[-1] for cells in conll if cells] == [tag for row in tags for tag in row]
    for to, sign in (("tsv", "\t"), ("csv", ",")):
        header, *rows = predicted("pos", name, text, to).splitlines()
        assert [row.split(sign)[-1].split() for row in rows] == tags and header.endswith("upos")
    assert [line.split() for line in predicted("pos", name, text, "text").splitlines()] == tags


def test_raw_text_is_split_at_punctuation_and_conllu_says_so(predicted: Callable[..., str]) -> None:
    out = predicted("pos", "in.txt", "«ban», kon-mos!\n")
    assert columns(out, 1) == ["«", "ban", "»", ",", "kon-mos", "!"]
    assert columns(out, 9) == ["SpaceAfter=No", "SpaceAfter=No", "SpaceAfter=No", "_", "SpaceAfter=No", "_"]
    assert out.startswith("# text = «ban», kon-mos!\n")
    out = predicted("pos", "zero.txt", "\u200bban\u200bkon,\u200b mos \u200b\n")  # zero-width spaces
    assert columns(out, 1) == ["ban", "kon", ",", "mos"]
    assert columns(out, 9) == ["_", "SpaceAfter=No", "_", "_"]
    assert out.startswith("# text = \u200bban\u200bkon,\u200b mos \u200b\n")


def test_conll_lines_get_a_column_or_one_is_replaced(predicted: Callable[..., str]) -> None:
    text = "-DOCSTART- -X- O\n\n# id 3 x y z\nban V O\nkon N O\n\n"
    added = predicted("ner", "in.conll", text).split("\n")
    replaced = predicted("ner", "in.conll", text, fields={"ner": "-1"}).split("\n")
    for old, longer, same in zip(text.split("\n"), added, replaced, strict=True):
        if old[:3] in ("ban", "kon"):
            assert longer.rpartition(" ")[0] == old and longer.rpartition(" ")[2] in ENTITIES
            assert same.rpartition(" ")[0] == old.rpartition(" ")[0]
            assert same.rpartition(" ")[2] == longer.rpartition(" ")[2]
        else:
            assert old == longer == same


def test_classification_of_pairs_in_tables_keeps_the_other_columns(predicted: Callable[..., str]) -> None:
    text = "id\tpremise\thypothesis\tnote\n7\tban kon\tmos\tx\n8\tmos\tdat\ty\n"
    header, *rows = predicted("nli", "in.tsv", text, scores=True).splitlines()
    assert header == "id\tpremise\thypothesis\tnote\tnli\tnli_score"
    assert [row.split("\t")[:4] for row in rows] == [line.split("\t") for line in text.splitlines()[1:]]
    assert all(row.split("\t")[4] in ("yes", "no") and 0.5 <= float(row.split("\t")[5]) <= 1 for row in rows)
    lines = '{"premise": "ban kon", "hypothesis": "mos", "label": "no"}\n'
    (record,) = map(json.loads, predicted("nli", "in.jsonl", lines).splitlines())
    assert record["label"] == "no" and record["nli"] == max(record["nli_scores"], key=record["nli_scores"].get)
    assert sum(record["nli_scores"].values()) == pytest.approx(1, abs=1e-6)


def test_a_label_of_a_sentence_is_a_comment_of_conllu(predicted: Callable[..., str]) -> None:
    out = predicted("topic", "in.conllu", TREEBANK)
    new = [line for line in out.split("\n") if line.startswith("# topic = ")]
    assert len(new) == 2 and all(line.strip()[-1] in "abc" for line in new)
    assert [line for line in out.split("\n") if not line.startswith("# topic")] == TREEBANK.split("\n")
    assert predicted("topic", "in.conllu", out) == out


def test_questions_are_answered_with_a_span_of_their_context(predicted: Callable[..., str]) -> None:
    context = " ".join(" ".join(example.words or ()) for example in sentences("eng", 12))
    whole = {"data": [{"paragraphs": [{"context": context, "qas": [
        {"id": "q1", "question": "ban kon"}, {"id": "q2", "question": "mos", "answers": []}]}]}]}  # fmt: skip
    out = [json.loads(line) for line in predicted("qa", "in.json", json.dumps(whole)).splitlines()]
    assert [row["id"] for row in out] == ["q1", "q2"]
    for row in out:
        start = row["qa_start"]
        assert row["qa"] and context[start : start + len(row["qa"])] == row["qa"]
    table = predicted("qa", "in.tsv", f"question\tcontext\nban kon\t{context}\n").splitlines()
    assert table[1].split("\t")[-1] == out[0]["qa"]


def test_an_answer_is_chosen(predicted: Callable[..., str]) -> None:
    line = json.dumps({"passage": "ban kon", "question": "mos", "choices": ["dat", "kon", "ban"]})
    (row,) = map(json.loads, predicted("choice", "in.jsonl", line).splitlines())
    assert row["choice"] in "123" and set(row["choice_scores"]) == {"1", "2", "3"}


def test_each_sentence_is_annotated_with_its_languages_module(predicted: Callable[..., str]) -> None:
    texts = [(" ".join(example.words or ()), language) for example, language in
             zip(sentences("eng", 60), ["eng", "fao", "fao"] * 20, strict=True)]  # fmt: skip
    table = "text\tlang\n" + "".join(f"{text}\t{language}\n" for text, language in texts)
    more = ("eng", "fao")
    mixed = predicted("pos", "in.tsv", table, "text", more, language_field="lang").splitlines()
    lines = "".join(f"{text}\n" for text, _ in texts)
    alone = {code: predicted("pos", "in.txt", lines, "text", more, language=code).splitlines() for code in more}
    assert mixed == [alone[language][number] for number, (_, language) in enumerate(texts)]
    assert alone["eng"] != alone["fao"] != predicted("pos", "in.txt", lines, "text").splitlines()


@pytest.mark.parametrize(("size", "done"), [(50, 64 + 50), (60, 0)])  # of chunks in the second command
def test_an_interrupted_output_is_continued_and_equals_an_uninterrupted_one(
    modules: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, done: int
) -> None:
    """If the rule changes by which the input is cut into chunks, what is there cannot be continued."""
    text = "".join(" ".join(example.words or ()) + "\n" for example in sentences("eng", 200))
    (tmp_path / "in.txt").write_text(text)
    monkeypatch.setattr("xlt.use.annotating._CHUNK", 50)
    monkeypatch.setattr("xlt.use.output._SECONDS_BETWEEN_RECORDS", -1.0)

    def run(out: str) -> int:
        settings = PredictSettings([str(modules["pos"])], str(tmp_path / "in.txt"), str(tmp_path / out),
                                   output_format="jsonl", quiet=True, device="cpu")  # fmt: skip
        return predict(settings).done_before

    assert run("whole") == 0
    from xlt.use import predict as module

    original, calls = module.annotate, []

    def dies(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return original(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "annotate", dies)
    with pytest.raises(MemoryError):
        run("out")
    assert not (tmp_path / "out").exists()
    # A killed command has written more than the record says.
    with (tmp_path / "out.partial").open("a") as file:
        file.write('{"half')
    monkeypatch.setattr(module, "annotate", original)
    monkeypatch.setattr("xlt.use.annotating._CHUNK", size)
    assert run("out") == done
    if not done:  # other batches, so other last digits
        (tmp_path / "whole").unlink()
        run("whole")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out"]


def test_a_part_of_another_input_is_not_continued(modules: Mapping[str, Path], tmp_path: Path) -> None:
    for name, text in (("out.partial", "x\n"), ("out.partial.json", "{}")):
        (tmp_path / name).write_text(text)
    (tmp_path / "in.txt").write_text("ban\n")
    predict(PredictSettings([str(modules["pos"])], str(tmp_path / "in.txt"), str(tmp_path / "out"), quiet=True))
    assert columns((tmp_path / "out").read_text(), 1) == ["ban"]


def refusal(run: Callable[[], object]) -> str:
    with pytest.raises((UsageError, ValueError)) as refused:
        run()
    return str(refused.value)


@pytest.mark.parametrize(
    ("task", "name", "text", "facts"),
    [
        ("pos", "in.conllu", "1\tban" + "\t_" * 8 + "\n3\tkon" + "\t_" * 8 + "\n", ["in.conllu:2", "'3'"]),
        ("pos", "in.conllu", b"1\tb\xe9n" + b"\t_" * 8 + b"\n", ["in.conllu:1", "UTF-8"]),
        ("pos", "in.conll", "ban X\nkon\n", ["in.conll:2", "1 columns", "2"]),
        ("pos", "in.jsonl", '{"words": ["a"]}\n{"words": [1, {}]}\n', ["in.jsonl:2", "words"]),
        ("pos", "in.jsonl", '{"words": ["a"]}\n[1]\n', ["in.jsonl:2", "list"]),
        ("topic", "in.tsv", "text\tx\na\tb\nc\n", ["in.tsv:3", "1 columns", "2"]),
        ("topic", "in.tsv", "a\tb\nc\td\n", ["in.tsv:2", "text", "a, b", "--field"]),
        ("topic", "in.tsv", 'text\tx\n"say ""a"""\tb\n', ["in.tsv:2", "in quotes", "--from csv --separator tab"]),
        ("nli", "in.txt", "ban kon\n", ["--from=text", "second text"]),
        ("qa", "in.jsonl", '{"question": "a"}\n', ["in.jsonl:1", "pair", "--field=pair="]),
        ("pos", "in.txt", "\n\n", ["nothing to annotate"]),
        ("pos", "in.xyz", "a\n", ["--from", "conllu"]),
    ],
)
def test_bad_input_is_refused_with_file_and_line_before_the_model_is_loaded(
    predicted: Callable[..., str], monkeypatch: pytest.MonkeyPatch, task: str, name: str, text: str | bytes,
    facts: Sequence[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("xlt.use.predict.load_model", None)
    line = refusal(lambda: predicted(task, name, text))
    assert "\n" not in line and all(fact in line for fact in facts), line


def test_languages_without_a_module_are_refused_with_their_place(predicted: Callable[..., str]) -> None:
    line = refusal(lambda: predicted("pos", "in.tsv", "text\tl\na\teng\nb\tdeu\n", None, ("eng",), language_field="l"))
    assert "in.tsv:3" in line and "deu" in line and "eng" in line
    line = refusal(lambda: predicted("pos", "in.txt", "a b\n", None, ("eng",), language_field="l"))
    assert "--language-field=l: text says no language" in line and "jsonl" in line
    line = refusal(lambda: predicted("pos", "in.tsv", "text\tl\na\tenglish\n", None, ("eng",), language_field="l"))
    assert "in.tsv:2" in line and "english" in line
    line = refusal(lambda: predicted("pos", "in.txt", "a\n", None, ("eng",)))
    assert "in.txt:1" in line and "--language" in line


def test_a_module_that_would_count_twice_or_not_at_all_is_refused(
    modules: Mapping[str, Path], tmp_path: Path, predicted: Callable[..., str]
) -> None:
    copy, general, other = (tmp_path / f"{name}.safetensors" for name in ("copy", "general", "other"))
    copy.write_bytes(modules["pos"].read_bytes())
    module = load_module(modules["eng"])
    assert isinstance(module, SparseDelta)
    for file, factor in ((general, 1.0), (other, 2.0)):
        entries = {name: Entries(one.indices, one.values * factor, one.shape) for name, one in module.entries.items()}
        SparseDelta(dataclasses.replace(module.header, language=None), entries).save(file)
    pos, eng, fao = (str(modules[name]) for name in ("pos", "eng", "fao"))
    for paths, of_language, said in (
        ([pos, str(copy)], {}, "the same module as"),
        ([pos], {"fao": str(copy)}, "is a task module"),
        ([pos, str(general), str(other)], {}, "a second module without a language"),
        ([pos, fao], {"fao": eng}, f"a second module of language fao, beside {fao}"),
    ):
        assert said in refusal(lambda paths=paths, of_language=of_language: read_modules(paths, of_language))
    assert read_modules([pos, str(general)], {"fao": eng}).languages.keys() == {None, "fao"}


def test_how_an_input_is_read_is_refused_where_it_has_no_effect(predicted: Callable[..., str]) -> None:
    for name, file, text, options, said in (
        ("topic", "in.txt", "a b\n", {"separator": "\t"}, "text has no cells"),
        ("topic", "in.txt", "a b\n", {"fields": {"text": "2"}}, "text has no columns to choose"),
        ("pos", "in.conllu", TREEBANK, {"fields": {"words": "2"}}, "conllu has no columns to choose"),
        ("topic", "in.tsv", "text\tx\na\tb\n", {"fields": {"txet": "x"}}, "task topic reads no txet, but id, text"),
        ("pos", "in.conll", "a\tX\n\n", {"fields": {"ner": "-1"}}, "task pos reads no ner"),
        ("topic", "in.txt", "a b\n", {"revision": "v1"}, "--revision=v1: the base model"),
    ):
        assert said in refusal(
            lambda name=name, file=file, text=text, options=options: predicted(name, file, text, None, **options)
        )
    assert '"topic"' in predicted("topic", "in.tsv", "y;x\na;b\n", "jsonl", separator=";", fields={"text": "x"})


def test_a_module_of_an_old_version_needs_the_task_and_says_so(
    modules: Mapping[str, Path], tmp_path: Path, tiny_bert: Path
) -> None:
    new = load_module(modules["pos"])
    assert isinstance(new, SparseDelta)
    header = dataclasses.replace(new.header, provenance={"labels": LABELS})
    SparseDelta(header, new.entries, new.tensors).save(tmp_path / "old.safetensors")
    (tmp_path / "in.txt").write_text("ban kon\n")

    def run(**options: object) -> str:
        predict(PredictSettings([str(tmp_path / "old.safetensors")], str(tmp_path / "in.txt"), str(tmp_path / "out"),
                                quiet=True, device="cpu", **options))  # type: ignore[arg-type]  # fmt: skip
        return (tmp_path / "out").read_text()

    assert "--task" in refusal(run)
    assert "--model" in refusal(lambda: run(task="pos"))
    tags = columns(run(task="pos", model=str(tiny_bert), settings=("max_length=32",)), 3)
    assert len(tags) == 2 and set(tags) <= set(LABELS)


def test_a_header_cannot_name_a_class_that_is_no_task(modules: Mapping[str, Path], tmp_path: Path) -> None:
    new = load_module(modules["pos"])
    assert isinstance(new, SparseDelta)
    for target in ("os.system", "xlt.tasks.tagging.TaggingHead", "xlt.methods.full.Full"):
        facts = {**new.header.provenance, "task": {"_target_": target}}
        SparseDelta(dataclasses.replace(new.header, provenance=facts), new.entries, new.tensors).save(tmp_path / "x.st")
        used = read_modules([str(tmp_path / "x.st")], {})
        assert target in refusal(lambda used=used: task_of(used.main))
    facts = {**new.header.provenance, "task": {**new.header.provenance["task"], "max_length": "much"}}
    SparseDelta(dataclasses.replace(new.header, provenance=facts), new.entries, new.tensors).save(tmp_path / "x.st")
    assert "x.st" in refusal(lambda: task_of(read_modules([str(tmp_path / "x.st")], {}).main))


@pytest.mark.parametrize("name", CONFIGS)
def test_blank_examples_are_accepted_and_their_rows_hold_nothing_of_the_labels(name: str, encoder: Encoder) -> None:
    task = build_task(CONFIGS[name])
    full = {
        "words": ("ban", "kon"), "text": "ban kon", "pair": "mos dat", "choices": ("a", "b"),
    }  # fmt: skip
    parts = {part: full[part] for part in task.reads}
    first = Example("p", **parts, label="1", columns={"upos": ("x", "y")}, answers=(Answer("mos", 0),))
    second = Example("p", **parts)
    task.check([task.blank(first)], "s")
    assert task.inputs([first], encoder) == task.inputs([second], encoder)


def test_a_treebank_line_is_read_by_the_reader_of_treebanks() -> None:
    lines = [(n, line) for n, line in enumerate(TREEBANK.replace("\r", "").split("\n"), start=1)]
    assert [example.words for example in conllu_reader.sentences(lines, "f")] == [("ban", "kon", "."), ("mos", "dat")]


def test_modules_leave_the_base_model_as_it_was(modules: Mapping[str, Path]) -> None:
    loaded = loaded_model(modules, "pos", "eng", "fao")
    before = {name: tensor.clone() for name, tensor in loaded.model.backbone.named_parameters()}
    loaded.speak("eng")
    loaded.speak("fao")
    changed = [
        name for name, tensor in loaded.model.backbone.named_parameters() if not torch.equal(before[name], tensor)
    ]
    assert changed
    loaded._stack.set([])
    assert all(torch.equal(before[name], tensor) for name, tensor in loaded.model.backbone.named_parameters())


def test_a_signal_is_heeded_within_a_group(
    modules: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(" ".join(example.words or ()) + "\n" for example in sentences("eng", 64))
    (tmp_path / "in.txt").write_text(text)
    from xlt.use import predict as module

    original, batches = module.annotate, []

    def signalled(*arguments: Any, after_batch: Callable[[int], None], **options: Any) -> object:
        def after(rows: int) -> None:
            batches.append(rows)
            signal.raise_signal(signal.SIGTERM)
            after_batch(rows)

        return original(*arguments, after_batch=after, **options)

    monkeypatch.setattr(module, "annotate", signalled)
    settings = PredictSettings([str(modules["pos"])], str(tmp_path / "in.txt"), str(tmp_path / "out"),
                               output_format="jsonl", batch_size=4, quiet=True, device="cpu")  # fmt: skip
    with pytest.raises(Interrupted):
        predict(settings)
    assert len(batches) == 1 and not (tmp_path / "out").exists()
    monkeypatch.setattr(module, "annotate", original)
    predict(settings)
    assert len((tmp_path / "out").read_text().splitlines()) == 64


def test_places_that_cannot_be_read_or_written_are_refused(modules: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("ban\n")

    def line(place: str, model: str | None = None) -> str:
        out = str(tmp_path / "out")
        settings = PredictSettings([str(modules["pos"])], place, out, model=model, quiet=True, device="cpu")
        return refusal(lambda: predict(settings))

    assert "is a folder; give a file" in line(str(tmp_path))
    absent = str(tmp_path / "absent")
    assert line(str(tmp_path / "in.txt"), absent) == f"--model={absent}: there is no such folder"
    with pytest.raises(UsageError, match="--output=/proc/x: "), GrowingOutput("/proc/x", {}, resumable=False):
        pass  # a folder in which no file can be made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ban\nประเทศไทย\nไทย\n", ["2 of 3 texts", "in.txt:2", "Thai script", "each letter", "--from words"]),
        ("ひらがなと漢字\n", ["in.txt:1", "Japanese", "each letter"]),
        ("中文\n", ["Chinese"]),
        ("កម្ពុជា\n", ["Khmer"]),
        ("ລາວ\n", ["Lao"]),
        ("မြန်မာ\n", ["Burmese"]),
        ("བོད་ཡིག\n", ["Tibetan"]),
        ("ꦲꦏ꧀ꦱꦫ\n", ["Javanese", "all that stands between two blanks"]),
        ("한국어 문장\nthe letter 中 and я\n", []),
    ],
)
def test_a_script_without_spaces_between_words_is_a_line_before_the_model_is_loaded(
    predicted: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    text: str, said: list[str],
) -> None:  # fmt: skip
    predicted("topic", "in.txt", text)
    predicted("pos", "in.txt", text, input_format="words")
    assert "script" not in capsys.readouterr().err
    monkeypatch.setattr("xlt.use.predict.load_model", None)
    with pytest.raises(TypeError):
        predicted("pos", "in.txt", text)
    lines = [line for line in capsys.readouterr().err.splitlines() if "script" in line]
    assert len(lines) == bool(said) and all(fact in line for line in lines for fact in said)


def test_a_script_without_spaces_in_a_stream_or_from_python_is_one_line(
    modules: Mapping[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream:
        buffer = io.BufferedReader(io.BytesIO("ประเทศ\n".encode() * 200))

    monkeypatch.setattr("xlt.use.texts.sys.stdin", Stream)
    monkeypatch.setattr("xlt.use.output.sys.stdout", io.TextIOWrapper(io.BytesIO()))
    predict(PredictSettings([str(modules["pos"])], "-", "-", input_format="text", quiet=True, device="cpu"))
    assert capsys.readouterr().err.count("Thai script") == 1
    import xlt

    xlt.predict(loaded_model(modules, "pos"), ["ban", "ประเทศ", ("ประเทศ", "ไทย")])
    err = capsys.readouterr().err
    assert err.count("Thai script") == 1 and "1 of 2 texts, first text 2" in err
