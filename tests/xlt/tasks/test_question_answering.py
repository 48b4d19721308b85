from __future__ import annotations

import json
import math
import os
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tokenizer_kinds import KINDS, SENTENCES
from xlt.data.encoding import Encoder
from xlt.data.examples import Answer, Example
from xlt.data.feature_cache import cached
from xlt.data.mix import Features, LoadedSource
from xlt.engine.evaluation import evaluate
from xlt.errors import UsageError
from xlt.models.loading import load_tokenizer
from xlt.models.transfer import TransferModel
from xlt.tasks.question_answering import (
    Prediction,
    QuestionAnswering,
    QuestionAnsweringConfig,
    answer_tokens,
    best_spans,
    overlap_f1,
    tokens_of,
)


def task(
    max_length: int = 48, stride: int = 8, question: int = 12, longest: int = 10, normalisation: str = "squad"
) -> QuestionAnswering:
    return QuestionAnswering("qa", max_length, stride, question, longest, normalisation)


def example(question: str, context: str, *answers: str) -> Example:
    found = tuple(Answer(answer, context.index(answer)) for answer in answers)
    return Example("f:1", question, pair=context, answers=found)


class Scripted(TransferModel):
    """A model whose start and end logits are what a test says of each window: rows of (start, end) per position."""

    causal = False

    def __init__(self, logits: list[list[tuple[float, float]]]) -> None:
        nn.Module.__init__(self)
        self.head = nn.Identity()
        width = max(map(len, logits))
        self.hidden = torch.tensor([[*row, *[(50.0, 50.0)] * (width - len(row))] for row in logits])

    def encode(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        return self.hidden


def script(row: Features, start: int, end: int, height: float = 9.0) -> list[tuple[float, float]]:
    """Logits that are highest at a start and an end."""
    return [(height * (at == start), height * (at == end)) for at in range(len(row["input_ids"]))]


def predict(qa: QuestionAnswering, rows: list[Features], words: Encoder, logits: Any) -> list[Prediction]:
    return qa.score(Scripted(logits), qa.collate(rows, words, torch.Generator()), rows)


def test_question_and_context_are_joined_as_the_tokenizer_joins_them(encoder: Encoder) -> None:
    item = example("bun lan", "mi bun lan", "bun")
    (row,) = task().features([item], encoder)
    assert row["input_ids"] == encoder.tokenizer(item.text, item.pair)["input_ids"]
    context = row["input_ids"][row["context_at"] : -len(encoder.pair_suffix)]
    assert context == encoder.lines([str(item.pair)])[0]
    assert len(row["offsets"]) == 2 * len(context)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SENTENCES)
def test_an_answer_in_any_script_is_cut_from_the_context_at_its_own_characters(name: str, kind: str) -> None:
    words, qa = Encoder(KINDS[kind]()), task(400, 100, 20, 100)
    sentence, context = SENTENCES[name]
    at = 0
    for word in sentence:
        at = context.index(word, at)
        item = Example("f:1", "the cat", pair=context, answers=(Answer(word, at),))
        qa.check([item], "s")
        at += len(word)
        (row,) = qa.features([item], words)
        assert 0 < row["context_at"] <= row["start"] <= row["end"]
        (found,) = predict(qa, [row], words, [script(row, row["start"], row["end"])])
        if found.text != word:  # a piece goes over the end of the word
            assert word in found.text
            spans = [context[start:end] for start, end in words.located([context])[0].spans]
            assert any(word not in span and span not in word for span in spans) or found.text in spans
            assert name in ("number and unit", "emoji", "unspaced Thai", "unspaced Chinese", "unseen script")


def test_an_answer_ends_with_the_marks_of_its_last_letter(encoder: Encoder) -> None:
    words = Encoder(KINDS["WordPiece"]())  # drops accents, so its pieces end before them
    context = "Yoru\u0300ba\u0301 ni\u0301"
    (row,) = task().features([example("the", context, "Yoru\u0300ba\u0301")], words)
    assert row["offsets"][2 * (row["end"] - row["context_at"]) + 1] == 7
    (found,) = predict(task(), [row], words, [script(row, row["start"], row["end"])])
    assert found.text == "Yoru\u0300ba\u0301"


def long_example(answer: slice) -> tuple[Example, list[str]]:
    words = [f"{'bdgk'[n % 4]}{'aeiou'[n % 5]}n{n}" for n in range(60)]
    context = " ".join(words)
    return example("bun lan", context, " ".join(words[answer])), words


def test_windows_cover_the_context_in_steps_of_the_stride(encoder: Encoder) -> None:
    item, _ = long_example(slice(0, 1))
    rows = task(stride=7).features([item], encoder)
    (pieces,) = encoder.lines([str(item.pair)])
    room = encoder.pair_room(48) - len(encoder.lines(["bun lan"])[0])
    assert len(rows) == math.ceil((len(pieces) - room) / 7) + 1
    for number, row in enumerate(rows):
        part = row["input_ids"][row["context_at"] : -len(encoder.pair_suffix)]
        assert part == pieces[7 * number : 7 * number + room]
        assert len(row["input_ids"]) <= 48
        assert (row["example"], row["window"]) == (0, number)
    assert 7 * (len(rows) - 1) + room >= len(pieces) > 7 * (len(rows) - 2) + room


def test_an_answer_that_crosses_the_end_of_a_window_is_learned_and_found_in_another(encoder: Encoder) -> None:
    item, words = long_example(slice(0, 1))
    first = task().features([item], encoder)[0]
    size = len(first["offsets"]) // 2
    spans = encoder.located([str(item.pair)])[0].spans
    cut = spans[size - 1][0]  # the last piece of the first window
    number = next(n for n in range(60) if len(" ".join(words[: n + 1])) > cut)
    item, _ = long_example(slice(number - 1, number + 2))
    answer = item.answers[0].text
    qa = task(longest=30)
    rows = qa.features([item], encoder)
    assert (rows[0]["start"], rows[0]["end"]) == (0, 0)  # begins there, but does not end there
    holding = [row for row in rows if row["start"]]
    assert holding and all(len(row["text"]) < len(str(item.pair)) for row in rows)
    scripts = [script(row, row["start"], row["end"], 9.0 if row["start"] else 20.0) for row in rows]
    for row, logits in zip(rows, scripts, strict=True):
        if not row["start"]:  # without an answer: certain of the first position, which is no span
            assert logits[0] == (20.0, 20.0)
    found = predict(qa, rows, encoder, scripts)
    assert qa.metrics([found[3:], found[:3]]) == {"f1": 100, "exact_match": 100}
    assert {found[rows.index(row)].text for row in holding} == {answer}


def test_an_answer_that_stands_in_no_window_in_full_is_learned_as_none(encoder: Encoder) -> None:
    item, _ = long_example(slice(1, 50))
    assert all((row["start"], row["end"]) == (0, 0) for row in task().features([item], encoder))


def test_a_long_question_keeps_its_beginning_and_leaves_room(encoder: Encoder) -> None:
    item = example("bun lan mi " * 30, "mi bun lan", "bun")
    (row,) = task().features([item], encoder)
    assert row["context_at"] == encoder.second_at(encoder.lines([str(item.text)])[0][:12])


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_definition_in_float64_over_positions_that_may_answer(
    kind: str, wide_bert: Callable[..., TransferModel]
) -> None:
    words, qa = Encoder(KINDS[kind]()), task(16, 6, 4)
    model = wide_bert(qa, len(words.tokenizer))
    items = [
        example("the cat", "the mat, ok", "mat"),
        example("the", "the cat sat on the mat, the cat sat, 5kg of it ok", "the cat sat, 5kg"),
        example("mat", "the 今天天气 mat", "今天"),
    ]
    rows = qa.features(items, words)
    assert len(rows) > len(items)
    batch = qa.collate(rows, words, torch.Generator())
    assert ("token_type_ids" in batch) == (kind == "WordPiece")
    by_hand = 0.0
    for row in rows:  # each alone, without padding
        given = {name: torch.tensor([row[name]]) for name in ("input_ids", "token_type_ids") if name in row}
        with torch.no_grad():
            logits = model.head(model.backbone(**given).last_hidden_state)[0].tolist()  # type: ignore[misc]
        spans = [row["offsets"][at : at + 2] for at in range(0, len(row["offsets"]), 2)]
        allowed = [0] + [row["context_at"] + n for n, (start, end) in enumerate(spans) if end > start]
        for side, target in ((0, row["start"]), (1, row["end"])):
            total = sum(math.exp(logits[at][side]) for at in allowed)
            by_hand += (math.log(total) - logits[target][side]) / 2
    with torch.no_grad():
        assert qa.loss(model, batch).item() == pytest.approx(by_hand, rel=1e-5)
    assert qa.targets(batch) == len(rows)


def test_the_best_span_is_that_of_an_exhaustive_search() -> None:
    draw = torch.Generator().manual_seed(1)
    for length, longest in ((1, 1), (1, 5), (7, 3), (12, 1), (12, 40)):
        start, end = (torch.randn(6, length, generator=draw) for _ in range(2))
        allowed = torch.rand(6, length, generator=draw) < 0.7
        scores, first, last = best_spans(start, end, allowed, longest)
        for row in range(6):
            spans = [
                (start[row, i].item() + end[row, j].item(), i, j)
                for i in range(length)
                for j in range(i, min(i + longest, length))
                if allowed[row, i] and allowed[row, j]
            ]
            if spans:
                best = max(spans)
                assert scores[row].item() == pytest.approx(best[0])
                assert (first[row].item(), last[row].item()) == best[1:]
            else:
                assert scores[row] == -torch.inf


def test_impossible_spans_are_never_predicted_however_likely_the_model_finds_them(encoder: Encoder) -> None:
    qa = task(longest=2)
    rows = qa.features([example("bun lan", "mi ba ge ki", "ba"), example("bun", "mi", "mi")], encoder)
    at, size = rows[0]["context_at"], len(rows[0]["offsets"]) // 2
    logits = script(rows[0], 0, 0, 90.0)  # the first position
    logits[at - 2] = (80.0, 80.0)  # the question
    logits[-1] = (70.0, 70.0)  # the last special token
    logits[at + 3] = (60.0, 0.0)  # a start after every likely end
    logits[at + 4] = (0.0, 1.0)
    logits[at] = (0.0, 50.0)
    starts = [logits[at + n][0] for n in range(size)]
    ends = [logits[at + n][1] for n in range(size)]
    best = max((starts[i] + ends[j], i, j) for i in range(size) for j in range(i, min(i + 2, size)))
    found = predict(qa, rows, encoder, [logits, script(rows[1], rows[1]["start"], rows[1]["end"])])
    low, high = rows[0]["offsets"][2 * best[1]], rows[0]["offsets"][2 * best[2] + 1]
    assert found[0].score == best[0] == 61
    assert found[0].text == "mi ba ge ki"[low:high]
    assert found[1].text == "mi"  # padding has logits of 50 (Scripted)


def test_a_context_that_the_tokenizer_makes_nothing_of_has_no_answer_and_counts() -> None:
    words, qa = Encoder(KINDS["WordPiece"]()), task()
    rows = qa.features([example("the", "\u200b", "\u200b"), example("the", "cat", "cat")], words)
    assert (rows[0]["offsets"], rows[0]["start"]) == ([], 0)
    found = predict(qa, rows, words, [script(row, row["start"], row["end"]) for row in rows])
    assert (found[0].text, found[1].text) == ("", "cat")
    assert qa.metrics([found])["f1"] == 50


def guess(number: Any, score: float, window: int, text: str, *answers: str) -> Prediction:
    return Prediction(number, score, window, text, list(answers))


def test_metrics_of_a_worked_example() -> None:
    # First: the window of the larger score; "cat sat" of "the cat": 2 * 1 / (2 + 1); second: exact but for case and
    # article; third: nothing shared.
    scores = [
        [guess(0, 1.0, 0, "the cat", "the cat"), guess(1, 3.0, 0, "A Dog!", "bird", "dog")],
        [guess(0, 2.0, 1, "cat sat", "the cat"), guess(2, 0.5, 0, "mat", "bird")],
    ]
    expected = {"f1": pytest.approx(100 * (2 / 3 + 1 + 0) / 3), "exact_match": pytest.approx(100 / 3)}
    assert task().metrics(scores) == task().metrics(scores[::-1]) == expected


def test_questions_of_two_sources_are_not_confused_and_ties_go_to_the_first_window() -> None:
    scores = [[guess((0, 4), 1.0, 0, "a", "x"), guess((1, 4), 9.0, 0, "x", "x")]]
    assert task().metrics(scores)["exact_match"] == 50
    tied = [guess(0, 1.0, 1, "b", "x"), guess(0, 1.0, 0, "x", "x")]
    assert task().metrics([tied])["exact_match"] == task().metrics([tied[::-1]])["exact_match"] == 100


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The  Cat!", ["cat"]),
        ("an apple a day", ["apple", "day"]),
        ("theory", ["theory"]),
        ("U.S.", ["us"]),
        ("self-made", ["selfmade"]),
        ("the-cat", ["thecat"]),
        ("$5 (five)", ["5", "five"]),
        ("a", []),
        ("\u201cthe cat\u201d", ["\u201c", "cat\u201d"]),  # not ASCII: stays, and ends a word for the rule of articles
        ("今天，天气", ["今天，天气"]),
        ("  \n\t", []),
    ],
)
def test_answers_are_normalised_as_squad_does(text: str, tokens: list[str]) -> None:
    assert answer_tokens(text, multilingual=False) == tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The  Cat!", ["cat"]),
        ("\u201cthe cat\u201d", ["cat"]),
        ("今天，天气", ["今", "天", "天", "气"]),
        ("2008年6月", ["2008", "年", "6", "月"]),
        ("ok今天ok 5", ["ok", "今", "天", "ok", "5"]),
        ("วันนี้", ["วั", "น", "นี้"]),
        ("カメラ", ["カ", "メ", "ラ"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया"]),
        ("¿Qué?", ["qué"]),
        ("", []),
    ],
)
def test_multilingual_normalisation_knows_all_punctuation_and_scripts_without_spaces(
    text: str, tokens: list[str]
) -> None:
    assert answer_tokens(text, multilingual=True) == tokens


def plain_f1(given: str, gold: str) -> float:
    """SQuAD's F1 in plain steps."""

    def words(text: str) -> list[str]:
        letters = [c for c in text.lower() if c not in string.punctuation]
        return [word for word in "".join(letters).split() if word not in ("a", "an", "the")]

    left, right = words(given), words(gold)
    remaining, shared = list(right), 0
    for word in left:
        if word in remaining:
            remaining.remove(word)
            shared += 1
    if shared == 0:
        return 0.0
    precision, recall = shared / len(left), shared / len(right)
    return 2 * precision * recall / (precision + recall)


def test_f1_agrees_with_its_definition_on_many_answers() -> None:
    draw = random.Random(1)
    vocabulary = ["the", "a", "An", "cat", "Cat,", "sat", "(mat)", "U.S.", "--", "5%"]
    for _ in range(500):
        given, gold = (" ".join(draw.choices(vocabulary, k=draw.randint(0, 6))) for _ in range(2))
        found = overlap_f1(answer_tokens(given, False), answer_tokens(gold, False))
        assert found == pytest.approx(plain_f1(given, gold))


def test_two_empty_answers_match_exactly_but_share_nothing() -> None:
    assert task().metrics([[guess(0, 1.0, 0, "the", "a")]]) == {"f1": 0, "exact_match": 100}


def test_normalisation_is_a_config_value() -> None:
    scores = [[guess(0, 1.0, 0, "今天", "今天天气")]]
    assert task().metrics(scores)["f1"] == 0
    assert task(normalisation="multilingual").metrics(scores)["f1"] == pytest.approx(100 * 4 / 6)


def test_pieces_of_white_space_are_of_no_answer() -> None:
    spans = [(0, 3), (4, 4), (4, 5), (4, 5), (5, 8)]
    assert tokens_of(Answer("x", 4), spans) == (2, 3)
    assert tokens_of(Answer("bc ", 1), spans) == (0, 0)
    assert tokens_of(Answer("bc x", 1), spans) == (0, 3)
    assert tokens_of(Answer(" ", 3), spans) == (-1, -1)
    assert tokens_of(Answer("\u200b \u200b", 3), [(0, 3), (4, 4)]) == (-1, -1)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Example("f:2", "q"), r"f:2: .*no context, .* qa .*data\.sources\.x"),
        (Example("f:2", pair="c"), r"f:2: .*no question, .* qa .*data\.sources\.x"),
        (Example("f:2", "q", pair="c"), r"f:2: .*no answer, .* qa .*data\.sources\.x"),
        (Example("f:2", "q", pair="the cat", answers=(Answer(" ", 3),)), "f:2: .*empty"),
        (
            Example("f:2", "q", pair="the cat", answers=(Answer("the", 0), Answer("cat", 3))),
            r"f:2: .*'cat'.* character 3 .*' ca'",
        ),
        (Example("f:2", "q", pair="the cat", answers=(Answer("cat", -3),)), "character -3"),
        (Example("f:2", "q", pair="the cat", answers=(Answer("cat", 99),)), "character 99"),
    ],
)
def test_examples_that_do_not_fit_the_task_are_refused_with_their_place(broken: Example, message: str) -> None:
    fine = example("q", "👍 cat", "cat")
    task().check([fine], "s")
    with pytest.raises(UsageError, match=message):
        task().check([fine, broken], "data.sources.x")


def test_windows_that_would_leave_text_out_are_refused() -> None:
    def faults(stride: int) -> list[str]:
        return list(QuestionAnsweringConfig("", "qa", 48, stride, 12, 10, "squad").faults("task"))

    assert not faults(32)
    assert faults(33) == [
        "task.stride=33: must be at most task.max_length - task.max_question_tokens - 4 special tokens = 32, "
        "or windows would leave text out"
    ]


def test_rows_come_back_from_the_disk_as_they_were(encoder: Encoder, tmp_path: Path) -> None:
    items = [long_example(slice(3, 5))[0], example("bun", "mi ọ̀rọ̀ 👍🏽", "ọ̀rọ̀", "👍🏽")]
    rows = task().features(items, encoder)
    assert list(cached(tmp_path / "x.arrow", rows)) == rows


def test_every_way_of_batching_finds_the_same(encoder: Encoder, wide_bert: Callable[..., TransferModel]) -> None:
    items = [long_example(slice(n, n + 2))[0] for n in range(0, 50, 9)]
    items += [example("bun lan mi", "mi ba ge ki", "ba ge"), example("bun", "mi", "mi")]
    qa = task()
    model = wide_bert(qa, len(encoder.tokenizer))
    source = LoadedSource("s", "eng", qa.features(items, encoder))
    results = [evaluate(model, qa, [source], encoder, size, "fp32") for size in (1, 3, 64)]
    assert results[0] == results[1] == results[2]


def test_two_steps_through_the_engine_and_a_few_more_learn_the_answers(fit: Callable[..., dict[str, float]]) -> None:
    contexts = ["mi bun lan ki", "bun ki mi lan", "lan mi ki bun"]
    examples = [example(word, context, word) for context in contexts for word in ("bun", "lan")]
    examples.append(long_example(slice(20, 21))[0])
    assert set(fit(task(), examples, max_steps=2, method="lt_sft", dense_max_steps=2)) == {"f1", "exact_match"}
    found = fit(task(), examples, max_steps=200, batch_size=12, learning_rate=4e-3, warmup_fraction=0.1)
    assert found == {"f1": 100, "exact_match": 100}


@pytest.mark.real
def test_gold_spans_give_back_the_answers_of_xquad_in_every_language() -> None:
    path, data = os.environ.get("XLT_MODEL_PATH"), os.environ.get("XLT_DATA_DIR")
    if not path or not data:
        pytest.skip("XLT_MODEL_PATH or XLT_DATA_DIR is not set")
    words, qa = Encoder(load_tokenizer(path)), task(384, 128, 64, 10**3)
    for file in sorted(Path(data).glob("xquad/xquad.*.json")):
        items = []
        for article in json.loads(file.read_text())["data"][::6]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = tuple(Answer(a["text"], a["answer_start"]) for a in question["answers"])
                    items.append(Example(str(file), question["question"], pair=paragraph["context"], answers=answers))
        qa.check(items, "s")
        found = []
        for row in qa.features(items, words):
            if row["start"]:
                found += predict(qa, [row], words, [script(row, row["start"], row["end"])])
        assert len({prediction.example for prediction in found}) == len(items)
        assert qa.metrics([found])["exact_match"] > 95, file.name
