"""Tasks as text to text: what is written is a greedy continuation, and it is scored as the task says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tokenizer_kinds import KINDS
from xlt.data.encoding import Encoder
from xlt.data.examples import Answer, Example, Turn
from xlt.data.mix import LoadedSource
from xlt.data.streams import stream
from xlt.engine.evaluation import evaluate
from xlt.errors import UsageError
from xlt.methods.flix import Flix
from xlt.methods.method import Budget, Setting
from xlt.models.loading import take_apart
from xlt.models.transfer import TransferModel
from xlt.tasks.joint_texts import JointTexts
from xlt.tasks.text_to_text import TextToText
from xlt.tasks.written_scores import SCORES

TEXTS = ("the cat sat", "on the mat, 5kg of it", "ok", "the cat sat on the mat on the mat")


def _encoder(template: str | None = None) -> Encoder:
    tokenizer = next(iter(KINDS.values()))()
    tokenizer.chat_template = template
    return Encoder(tokenizer)


def _task(scored_as: str = "text", length: int = 96, new: int = 8, name: str = "t") -> TextToText:
    return TextToText(name, scored_as, length, new, "tulu")


def _example(asked: str, said: str, *answers: str) -> Example:
    given = tuple(Answer(text, 0) for text in answers)
    return Example("f:1", turns=(Turn("user", asked), Turn("assistant", said)), answers=given)


def _model(encoder: Encoder) -> TransferModel:
    torch.manual_seed(3)
    shape = LlamaConfig(
        vocab_size=len(encoder.tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256, initializer_range=0.5,
        pad_token_id=encoder.pad_id, eos_token_id=encoder.tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    return take_apart(LlamaForCausalLM(shape), "tiny").eval()


@torch.no_grad()
def _greedily(model: TransferModel, prompt: list[int], most: int, end: int | None) -> list[int]:
    """The likeliest token after each text, one at a time, in a text of its own."""
    ids = [*prompt]
    while len(ids) < len(prompt) + most and (len(ids) == len(prompt) or ids[-1] != end):
        batch = torch.tensor([ids])
        hidden = model.encode(batch, torch.ones_like(batch))
        ids.append(int(model.language_model_logits(hidden[:, -1]).argmax()))
    return ids[len(prompt) :]


def test_what_is_written_is_the_greedy_continuation_of_each_prompt() -> None:
    encoder, task = _encoder(), _task()
    rows = task.features([_example(text, "ok") for text in TEXTS], encoder)
    model = _model(encoder)
    batch = task.collate(rows, encoder, stream(0, "x"))
    written = task.predict(model, batch, rows)
    end = encoder.tokenizer.eos_token_id
    for text, row in zip(written, rows, strict=True):
        ids = _greedily(model, row["prompt"], 8, end)
        assert text == encoder.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert len(set(written)) > 1


def test_a_row_has_the_prompt_that_a_prediction_has_and_all_that_is_right() -> None:
    encoder, task = _encoder(), _task("answer")
    examples = [_example("who?", "Ana"), _example("who is it?", "Ana", "Ana", "Ana Sousa")]
    rows = task.features(examples, encoder)
    asked = task.inputs(examples, encoder)
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in asked] == [row["input_ids"] for row in asked]
    assert [row["right"] for row in rows] == [["Ana"], ["Ana", "Ana Sousa"]]
    for row in rows:  # what is learned begins where the prompt ends
        assert row["input_ids"][: len(row["prompt"])] == row["prompt"]
        assert all(label == -100 for label in row["labels"][: len(row["prompt"])])
        assert row["labels"][len(row["prompt"])] != -100


def test_a_prompt_that_leaves_no_room_is_a_wrong_answer_and_is_counted() -> None:
    encoder, task = _encoder(), _task(length=40, new=8)
    long, short = _example("the cat sat on the mat " * 9, "ok"), _example("a", "ok")
    rows = task.features([long, short], encoder)
    assert rows[0]["prompt"] == [] and rows[1]["prompt"] and len(rows) == 2
    model = _model(encoder)
    written = task.predict(model, task.collate(rows, encoder, stream(0, "x")), rows)
    assert written[0] == "" and task.predict(model, {}, rows[:1]) == [""]
    found = task.metrics([task.compare(["", "ok"], {}, rows)])
    assert found == {"exact_match": 50.0, "too_long": 50.0}
    with pytest.raises(UsageError, match=r"f:1: the prompt has \d+ tokens, but task.max_length"):
        task.inputs([long], encoder)


@pytest.mark.parametrize(
    ("scored_as", "pairs", "expected"),
    [
        (
            "entities",  # 2 of 3 written are right, 2 of 4 right ones are written
            [("PER: Ana $$ LOC: Rome", ["PER: Ana $$ ORG: Rome"]), ("PER: Bo $$ nothing", ["PER: Bo $$ PER: Bo"])],
            {"f1": 100 * 4 / 7, "precision": 100 * 2 / 3, "recall": 50.0},
        ),
        ("entities", [("none", ["none"])], {"f1": 0.0, "precision": 0.0, "recall": 0.0}),
        (
            "answer",
            [("The red cat!", ["a red dog", "red cat"]), ("blue sky", ["blue sea"]), ("", ["x"])],
            {"f1": 100 * (1 + 0.5 + 0) / 3, "exact_match": 100 / 3},
        ),
        ("text", [("[IN:A  x ]", ["[IN:A x ]"]), ("[in:a x ]", ["[IN:A x ]"])], {"exact_match": 50.0}),
        ("label", [("Sports ", ["sports"]), ("sport", ["sports"])], {"accuracy": 50.0}),
        ("translation", [("the cat sat", ["the cat sat"])], {"chrf": 100.0}),
    ],
)
def test_scores_on_paper(scored_as: str, pairs: list[Any], expected: Mapping[str, float]) -> None:
    metric, scores = SCORES[scored_as]
    assert scores(pairs) == pytest.approx(expected)
    assert metric in expected


def test_one_evaluation_of_several_sources_scores_every_example_once() -> None:
    encoder, task = _encoder(), _task("label", new=4)
    model = _model(encoder)
    examples = [_example(text, "ok") for text in TEXTS]
    rows = task.features(examples, encoder)
    written = task.predict(model, task.collate(rows, encoder, stream(0, "x")), rows)
    right = [_example(text, said or "x") for text, said in zip(TEXTS, written, strict=True)]
    sources = [
        LoadedSource(language, language, task.features(part, encoder), 1, {"task": "t", "language": language})
        for language, part in (("eng", right[:1]), ("fao", [*right[1:3], _example(TEXTS[3], "something else")]))
    ]
    found = evaluate(model, task, sources, encoder, 2, "fp32")
    known = sum(bool(said) for said in written[:3])
    assert found == {"accuracy": 100 * known / 4, "too_long": 0.0}


def test_in_a_batch_of_several_languages_each_example_is_written_with_its_own_deltas() -> None:
    """The batch has a prompt that is too long, too; the texts are those of each language alone."""
    encoder, task = _encoder(), _task("label", new=6)
    model = _model(encoder)
    described = [{"task": "t", "language": language} for language in ("eng", "fao")]
    method = Flix({"task": 2, "language": 2}, 2, "b", [], 0.0, "example", False)
    (phase,) = method.phases(Budget(4, 1, None, 1, 1e-3))
    method.attach(model, phase, Setting(False, lambda *name: stream(1, *name), described=described))
    with torch.no_grad():
        for number, value in enumerate(method.trainable().values()):
            value.copy_(torch.randn(value.shape, generator=stream(number, "deltas")))
    model.eval()
    asked = [*TEXTS, "the cat sat on the mat " * 40]
    rows = task.features([_example(text, "ok") for text in asked], encoder)
    batch = task.collate(rows, encoder, stream(0, "x"))
    alone = []
    for one in described:
        method.examples([one])
        alone.append(task.predict(model, batch, rows))
    mixed = [number % 2 for number in range(len(rows))]
    method.examples([described[which] for which in mixed])
    found = task.predict(model, batch, rows)
    assert found == [alone[which][number] for number, which in enumerate(mixed)]
    assert alone[0] != alone[1] and found[-1] == ""


def test_the_mean_is_over_the_tasks_that_select() -> None:
    parts = {"ner": _task("entities"), "qa": _task("answer"), "mt": _task("translation")}
    found = {"ner": {"f1": 40.0}, "qa": {"f1": 60.0, "exact_match": 1.0}, "mt": {"chrf": 90.0}}
    all_three = JointTexts("three", parts).summary(found)
    assert all_three["mean"] == pytest.approx(190 / 3) and all_three["mt/chrf"] == 90.0
    two = JointTexts("three", parts, ["ner", "qa"])
    assert two.summary(found)["mean"] == pytest.approx(50.0) and two.summary(found)["mt/chrf"] == 90.0
    assert two.summary({name: found[name] for name in ("ner", "qa")})["mean"] == pytest.approx(50.0)
    assert not JointTexts.has_head and JointTexts.needs_lm_head and two.head(16) is None
    assert two.part({"task": "qa"}) is parts["qa"]


def test_what_cannot_be_scored_is_refused() -> None:
    last = Example("f:2", turns=(Turn("assistant", "hi"), Turn("user", "ho")))
    with pytest.raises(UsageError, match=r"f:2: .*ends with a turn of the user"):
        _task().check([last], "s")
