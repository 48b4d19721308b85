"""Tasks as text to text: what is written is a greedy continuation, and it is scored as the task says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, LlamaConfig, LlamaForCausalLM

from tests.model_families import save_family
from tests.tokenizer_kinds import KINDS
from xlt.data.encoding import Encoder
from xlt.data.examples import Answer, Example, Turn
from xlt.data.mix import LoadedSource
from xlt.data.streams import stream
from xlt.engine.evaluation import evaluate
from xlt.engine.micro_batches import rows_of
from xlt.errors import UsageError
from xlt.methods.flix import Flix
from xlt.methods.method import Budget, Setting
from xlt.models.families import DECODER, ENCODER, ENCODER_DECODER
from xlt.models.loading import load_pretrained, load_tokenizer, take_apart, whole_pretrained
from xlt.models.transfer import TransferModel
from xlt.tasks.joint_texts import JointTexts
from xlt.tasks.task import pad
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


@pytest.fixture(scope="module", params=["T5", "T5 v1.1", "mT5", "UMT5", "BART", "mBART"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TransferModel, Any]:
    """Folder, our model and transformers' of a tiny encoder-decoder; those of T5 v1.1 and mT5 have two embeddings."""
    name = request.param.split(" ")[0]
    folder = tmp_path_factory.mktemp("pair")
    save_family(name, folder)
    if request.param in ("T5 v1.1", "mT5", "UMT5"):
        apart(folder, says_so=request.param == "T5 v1.1")
    if "BART" in name:
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**settings, "dropout": 0.0}))
    return folder, load_pretrained(str(folder), head_seed=0).eval(), AutoModelForSeq2SeqLM.from_pretrained(folder)


def apart(folder: Path, *, says_so: bool) -> None:
    """Gives a checkpoint of the T5 family output embeddings of their own, as those of T5 v1.1 and mT5 have."""
    weights = load_file(folder / "model.safetensors")
    shared = weights["shared.weight"]
    weights["lm_head.weight"] = shared + torch.randn(shared.shape, generator=stream(5, "apart")) * 0.3
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    if says_so:
        settings = json.loads((folder / "config.json").read_text())
        settings.pop("scale_decoder_outputs", None)
        (folder / "config.json").write_text(json.dumps({**settings, "tie_word_embeddings": False}))


def _plain(scored_as: str = "text", length: int = 96, new: int = 8) -> TextToText:
    return TextToText("t", scored_as, length, new, "plain")


def test_an_encoder_decoder_learns_what_transformers_learns(pair: tuple[Path, TransferModel, Any]) -> None:
    folder, model, theirs = pair
    encoder, task = Encoder(load_tokenizer(str(folder))), _plain(new=32)
    asked = [_example(text, said) for text, said in zip(TEXTS, ("ok", "the mat", "no, the cat", "sat"), strict=True)]
    batch = task.collate(task.features(asked, encoder), encoder, stream(0, "x"))
    rows = [encoder.tokenizer(text)["input_ids"] for text in TEXTS]
    said = [encoder.tokenizer(example.turns[1].text)["input_ids"] for example in asked]
    labels = pad(said, -100)
    found = theirs.eval()(pad(rows, encoder.pad_id), pad([[1] * len(row) for row in rows], 0), labels=labels)
    assert task.targets(batch) == sum(map(len, said))
    loss = task.loss(model, batch)
    torch.testing.assert_close(loss / task.targets(batch), found.loss, rtol=1e-5, atol=1e-6)
    loss.backward()
    (found.loss * task.targets(batch)).backward()
    for name, parameter in model.backbone.named_parameters():
        other = theirs.base_model.get_parameter(name)
        if other.grad is not None and parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-5)
    assert sum(parameter.grad is not None for parameter in model.backbone.decoder.parameters()) > 4
    model.zero_grad()


def test_an_encoder_decoder_writes_the_likeliest_token_each_time(pair: tuple[Path, TransferModel, Any]) -> None:
    """Whatever generation_config.json asks for; the lengths of prompts in a batch do not matter."""
    folder, model, theirs = pair
    encoder, task = Encoder(load_tokenizer(str(folder))), _plain()
    examples = [_example(text, "ok") for text in [*TEXTS, "cat " * 200]]
    rows = task.features(examples, encoder)
    assert rows[-1]["prompt"] == [] and [row["prompt"] for row in task.inputs(examples[:-1], encoder)] == [
        row["prompt"] for row in rows[:-1]
    ]
    own = whole_pretrained(model).generation_config
    own.repetition_penalty, own.num_beams, own.forced_bos_token_id, own.min_length = 3.0, 4, 5, 7
    written = task.predict(model, task.collate(rows, encoder, stream(0, "x")), rows)
    assert whole_pretrained(model).generation_config is own and own.num_beams == 4
    for text, row in zip(written[:-1], rows, strict=False):
        ids, prompt = [model.first_of_target], torch.tensor([row["prompt"]])
        while len(ids) < 9 and (len(ids) == 1 or ids[-1] != own.eos_token_id):
            with torch.no_grad():
                logits = theirs(prompt, decoder_input_ids=torch.tensor([ids])).logits
            ids.append(int(logits[0, -1].argmax()))
        assert text == encoder.tokenizer.decode(ids[1:], skip_special_tokens=True).strip()
    assert written[-1] == ""


def test_templates_are_those_of_the_architecture() -> None:
    assert _plain().architecture_fault(ENCODER_DECODER) is None and _task().architecture_fault(DECODER) is None
    assert "set it to tokenizer or tulu" in str(_plain().architecture_fault(DECODER))
    assert "template to plain" in str(_task().architecture_fault(ENCODER_DECODER))
    assert "is an encoder" in str(_task().architecture_fault(ENCODER))
    two = Example("f:3", turns=(Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d")))
    with pytest.raises(UsageError, match="f:3: there are 3 turns before the answer"):
        _plain().features([two], _encoder())


def test_a_decoder_repeats_itself_if_that_is_likeliest() -> None:
    """The penalty for repetition of the model's own generation_config.json makes no difference."""
    encoder, task = _encoder(), _task(new=12)
    model = _model(encoder)
    rows = task.features([_example(text, "ok") for text in TEXTS], encoder)
    batch = task.collate(rows, encoder, stream(0, "x"))
    plain = task.predict(model, batch, rows)
    whole_pretrained(model).generation_config.repetition_penalty = 5.0
    assert task.predict(model, batch, rows) == plain


def test_micro_batches_keep_whole_answers_where_prompts_and_answers_are_equally_long(
    pair: tuple[Path, TransferModel, Any],
) -> None:
    """The row with the longest answer has a short prompt; its labels are no padding of the prompt."""
    folder, model, _ = pair
    encoder, task = Encoder(load_tokenizer(str(folder))), _plain(new=40)
    long = TEXTS[3]
    batch = task.collate(task.features([_example("ok", long), _example(long, "ok")], encoder), encoder, stream(0, "x"))
    assert batch["labels"].shape == batch["input_ids"].shape and model.decodes
    parts = [rows_of(batch, range(row, row + 1), has_targets=model.decodes) for row in (0, 1)]
    assert sum(map(task.targets, parts)) == task.targets(batch)
    assert parts[0]["input_ids"].shape[1] < parts[0]["labels"].shape[1]
    with torch.no_grad():
        torch.testing.assert_close(sum(task.loss(model, part) for part in parts), task.loss(model, batch))
