"""Instruction tuning: what is taught is what the assistant says, to the character, in every tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.source_configs import source_config
from tests.tokenizer_kinds import KINDS, SENTENCES
from tests.tolerance import summation_tolerance
from xlt.config import InstructionConfig
from xlt.data.encoding import Encoder
from xlt.data.examples import Answer, Example, Turn
from xlt.data.sources import read_source
from xlt.data.streams import stream
from xlt.errors import UsageError
from xlt.models.transfer import TransferModel, split_pretrained
from xlt.tasks.instruct import Instruct, tulu

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} [END]\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


def _conversation(*texts: str, system: str | None = None) -> Example:
    turns = [Turn("user" if n % 2 == 0 else "assistant", text) for n, text in enumerate(texts)]
    return Example("f:1", turns=(*([Turn("system", system)] if system else []), *turns))


def _encoder(kind: str, template: str | None = None) -> Encoder:
    tokenizer = KINDS[kind]()
    tokenizer.chat_template = template
    return Encoder(tokenizer)


def _taught(row: dict[str, Any], encoder: Encoder) -> str:
    return encoder.tokenizer.decode([label for label in row["labels"] if label != -100])


def test_tulus_format_on_paper() -> None:
    text, taught = tulu(
        (Turn("user", "Hi "), Turn("assistant", "Hello."), Turn("user", "?"), Turn("assistant", "!")), "</s>"
    )
    assert text == "<|user|>\nHi\n<|assistant|>\nHello.</s>\n<|user|>\n?\n<|assistant|>\n!</s>\n"
    assert [text[start:end] for start, end in taught] == ["Hello.</s>", "!</s>"]


@pytest.mark.parametrize("template", ["tulu", "tokenizer"])
@pytest.mark.parametrize("name", SENTENCES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_taught_is_what_the_assistant_says(kind: str, name: str, template: str) -> None:
    """And the ends of its turns; compared as the tokenizer reads the answers."""
    encoder = _encoder(kind, CHAT)
    answer = SENTENCES[name][1].strip()
    example = _conversation("the cat", answer, "on the mat", "ok", system="5kg")
    (row,) = Instruct(500, template, packing=False).features([example], encoder)
    end = str(encoder.tokenizer.eos_token or "") if template == "tulu" else " [END]"
    squeezed = "".join(_taught(row, encoder).split())
    for said in (answer, "ok"):
        read = encoder.tokenizer.decode(encoder.lines([said + end])[0])
        assert "".join(read.split()) in squeezed
    assert "|user|" not in squeezed


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_the_tokens_themselves_and_the_prefix_is_not_taught(kind: str) -> None:
    encoder = _encoder(kind)
    (row,) = Instruct(500, "tulu", packing=False).features([_conversation("the cat", "sat on it")], encoder)
    assert row["input_ids"][: len(encoder.prefix)] == encoder.prefix
    assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))
    assert row["labels"][: len(encoder.prefix)] == [-100] * len(encoder.prefix)


def test_a_long_conversation_loses_its_end_and_one_without_answer_left_is_left_out() -> None:
    encoder = _encoder("byte BPE" if "byte BPE" in KINDS else next(iter(KINDS)))
    long, short = _conversation("the cat sat " * 40, "ok"), _conversation("a", "the cat sat on the mat " * 40)
    rows = Instruct(60, "tulu", packing=False).features([long, short], encoder)
    assert len(rows) == 1
    assert len(rows[0]["input_ids"]) == 60 == len(rows[0]["labels"])


def test_packing_keeps_every_conversation_whole_and_teaches_the_same() -> None:
    encoder = _encoder(next(iter(KINDS)))
    examples = [_conversation("the cat " * n, "sat on " * n) for n in (1, 3, 2, 5, 1, 4)]
    apart = Instruct(120, "tulu", packing=False).features(examples, encoder)
    packed = Instruct(120, "tulu", packing=True).features(examples, encoder)
    assert len(packed) < len(apart)
    assert max(len(row["input_ids"]) for row in packed) <= 120
    assert [t for row in packed for t in row["input_ids"]] == [t for row in apart for t in row["input_ids"]]
    taught = [label for row in packed for label in row["labels"] if label != -100]
    assert taught == [label for row in apart for label in row["labels"][1:] if label != -100]


def _tiny_llama(vocabulary: int) -> TransferModel:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256,
    )  # fmt: skip
    return TransferModel(*split_pretrained(LlamaForCausalLM(shape)), "random", "tiny")


def test_the_loss_is_summed_over_taught_tokens_given_all_before() -> None:
    """Against log-probabilities position by position, in float64."""
    encoder = _encoder(next(iter(KINDS)))
    task = Instruct(200, "tulu", packing=False)
    rows = task.features([_conversation("the cat", "sat"), _conversation("a", "ok", "mat", "the the")], encoder)
    batch = task.collate(rows, encoder, stream(0, "x"))
    model = _tiny_llama(len(encoder.tokenizer)).double()
    with torch.no_grad():
        logits = model.lm_head(model.encode(batch["input_ids"], batch["attention_mask"]))
    expected, count = 0.0, 0
    for number, row in enumerate(rows):
        for position in range(1, len(row["labels"])):
            if row["labels"][position] != -100:
                expected -= float(logits[number, position - 1].log_softmax(-1)[row["labels"][position]])
                count += 1
    with torch.no_grad():
        found = float(task.loss(model, batch))
        loss, _, scored = task.score(model, batch, rows)
    assert task.targets(batch) == count
    tolerance = summation_tolerance(count, torch.float32)  # logits are cast to float32, their losses added in it
    assert found == pytest.approx(expected, rel=tolerance)
    assert (loss, scored) == (pytest.approx(expected, rel=tolerance), count)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (Example("f:3", text="running"), r"f:3: .*no conversation"),
        (Example("f:4", turns=(Turn("user", "hi"),)), r"f:4: .*assistant"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(example: Example, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Instruct(100, "tulu", packing=False).check([example], "s")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template.*task.template=tulu"),
        ("{{ raise_exception('users first') }}", "refuses .*: users first"),
        ("{% for m in messages|reverse %}{{ m['content'] }}{% endfor %}", "one turn after the other"),
        ("{{ messages[0].nothing.there }}", "refuses"),
    ],
)
def test_a_chat_template_that_cannot_serve_is_refused(template: str | None, message: str) -> None:
    encoder = _encoder(next(iter(KINDS)), template)
    with pytest.raises(UsageError, match=message):
        Instruct(100, "tokenizer", packing=False).features([_conversation("a", "b")], encoder)


def _lines(tmp_path: Path, *records: Any) -> str:
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(file)


def test_messages_and_prompts_are_read_as_turns(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    path = _lines(tmp_path, {"messages": said, "dataset": "a"}, {"messages": said[:1], "dataset": "b"})
    (example,) = read_source(
        "s", source_config("jsonl", "eng", path, fields={"messages": "messages"}, where={"dataset": "a"}), 1
    )
    assert example.turns == (Turn("user", "hi"), Turn("assistant", "ho"))
    path = _lines(tmp_path, {"i": "Do it.", "x": "this", "o": "done"}, {"i": "Do.", "x": "", "o": "done"})
    fields = {"prompt": "i", "input": "x", "completion": "o"}
    first, second = read_source("s", source_config("jsonl", "eng", path, fields=fields), 1)
    assert first.turns == (Turn("user", "Do it.\n\nthis"), Turn("assistant", "done"))
    assert second.turns[0].text == "Do."


@pytest.mark.parametrize(
    ("record", "fields", "message"),
    [
        ({"m": "hi"}, {"messages": "m"}, "train.jsonl:1: column 'm' must hold a list of mappings role and content"),
        ({"m": [{"role": "user"}]}, {"messages": "m"}, "must hold a list of mappings"),
        (
            {"m": [{"role": "bot", "content": "x"}]},
            {"messages": "m"},
            "role 'bot' in column 'm'.*system, user",
        ),
        ({"p": "", "c": "x"}, {"prompt": "p", "completion": "c"}, "train.jsonl:1: .*prompt is empty"),
        ({"p": "x", "c": " "}, {"prompt": "p", "completion": "c"}, "train.jsonl:1: .*completion is empty"),
    ],
)
def test_a_broken_conversation_names_file_and_line(record: Any, fields: Any, message: str, tmp_path: Path) -> None:
    source = source_config("jsonl", "eng", _lines(tmp_path, record), fields=fields)
    with pytest.raises(UsageError, match=message):
        list(read_source("s", source, 1))


def test_an_instruction_makes_a_conversation_of_another_tasks_example(tmp_path: Path, monkeypatch) -> None:
    example = Example("f:1", text="who?", pair="it was Ana", answers=(Answer("Ana", 7),))
    path = _lines(tmp_path, {"t": "who?", "c": "it was Ana", "a": [{"text": "Ana", "answer_start": 7}]})
    fields = {"text": "t", "pair": "c", "answers": "a"}
    template = InstructionConfig(prompt="{pair}: {text}", completion="{answer}")
    (found,) = read_source("s", source_config("jsonl", "eng", path, fields=fields, instruction=template), 1)
    assert found.turns == (Turn("user", "it was Ana: who?"), Turn("assistant", "Ana"))
    assert (found.text, found.pair) == (example.text, example.pair)
    wrong = InstructionConfig(prompt="{text}", completion="{label}")
    with pytest.raises(UsageError, match=r"instruction: 'label' in a template is no part of .*; there are text, pair"):
        list(read_source("s", source_config("jsonl", "eng", path, fields=fields, instruction=wrong), 1))


def test_a_prompt_carries_task_and_language(tmp_path: Path) -> None:
    path = _lines(tmp_path, {"t": "nani?", "l": "who"})
    template = InstructionConfig(prompt="{task} in {language}, {domain}: {text}", completion="{label}")
    options = {"fields": {"text": "t", "label": "l"}, "instruction": template}
    features = {"task": "translation", "domain": "news"}
    (found,) = read_source("s", source_config("jsonl", "swa", path, features=features, **options), 1)
    assert found.turns[0] == Turn("user", "translation in Swahili, news: nani?")


def test_a_rule_for_a_column_that_a_reader_does_not_have_is_refused_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a line\n")
    source = source_config("text", "eng", str(tmp_path / "x.txt"), where={"dataset": "a"})
    with pytest.raises(UsageError, match=r"x.txt:1: no column 'dataset' \(where\); there are text"):
        list(read_source("data.sources.s", source, 1))
