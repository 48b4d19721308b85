from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import sacrebleu
import torch

from tests.tolerance import summation_tolerance
from tests.translators import parallel, taught_translator, tokenizer, translator
from xlt.compose import compose, hydra_ready
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import LoadedSource
from xlt.data.streams import stream
from xlt.engine.evaluation import evaluate
from xlt.engine.micro_batches import rows_of
from xlt.errors import UsageError
from xlt.models.loading import whole_pretrained
from xlt.models.transfer import TransferModel
from xlt.tasks.translation import Translation

Batch = dict[str, torch.Tensor]


def task(max_length: int = 32, beams: int = 1, smoothing: float = 0.0, **tokens: str) -> Translation:
    return Translation(max_length, beams, smoothing, "chrf", "auto", tokens)


@pytest.fixture(scope="module")
def wide() -> tuple[TransferModel, Encoder]:
    """A translator in float64, in evaluation mode."""
    model, encoder = translator(("ind", "jav", "mad"), spread=0.3)
    return model.double(), encoder


def collated(examples: Sequence[Example], encoder: Encoder, made: Translation | None = None) -> Batch:
    made = made or task()
    return made.collate(made.features(examples, encoder), encoder, stream(0, "x"))


def test_inputs_of_a_worked_example() -> None:
    """Encoder: language, text, end. Decoder: end, language, text; it is taught language, text, end."""
    encoder = Encoder(tokenizer(("ind", "jav")))
    ind, jav, end, pad = encoder.tokenizer.convert_tokens_to_ids(["ind_Latn", "jav_Latn", "</s>", "<pad>"])
    nasi, air, sega = encoder.lines(["nasi", "air", "sega"])
    assert len(nasi) == len(sega) == 1 and len(air) == 1
    examples = [
        Example("f:1", "nasi", pair="sega sega", languages=("ind", "jav")),
        Example("f:2", "sega nasi", pair="air", languages=("jav", "ind")),
    ]
    batch = collated(examples, encoder)
    (n,), (a,), (s,) = nasi, air, sega
    assert batch["input_ids"].tolist() == [[ind, n, end, pad], [jav, s, n, end]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["decoder_input_ids"].tolist() == [[end, jav, s, s], [end, ind, a, pad]]
    assert batch["labels"].tolist() == [[jav, s, s, end], [ind, a, end, -100]]
    assert task().targets(batch) == 4 + 3


def test_texts_that_are_too_long_lose_their_end_and_keep_the_end_token(wide: tuple[TransferModel, Encoder]) -> None:
    encoder = wide[1]
    example = Example("f:1", "nasi air " * 20, pair="sega banyu " * 20, languages=("ind", "jav"))
    (row,) = task(10).features([example], encoder)
    (whole,) = task(1000).features([example], encoder)
    for name in ("input_ids", "target_ids"):
        assert row[name] == [*whole[name][:9], whole[name][-1]]
    assert row["reference"] == example.pair


def test_the_loss_is_the_sum_of_transformers_mean_loss(wide: tuple[TransferModel, Encoder]) -> None:
    """To float32's precision, which the logits are cast to and their losses added in."""
    model, encoder = wide
    batch = collated([*parallel("ind", "jav", 5), *parallel("mad", "ind", 3)], encoder)
    told = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    with torch.no_grad():
        mean = whole_pretrained(model)(**told).loss  # shifts the labels itself
        found = task().loss(model, batch)
    tolerance = summation_tolerance(task().targets(batch), torch.float32)
    assert float(found) / task().targets(batch) == pytest.approx(float(mean), rel=tolerance)


def test_label_smoothing_is_the_formula_in_training_and_absent_in_evaluation(
    wide: tuple[TransferModel, Encoder],
) -> None:
    """(1 - e) * -log p(target) + e * mean over the vocabulary of -log p (Szegedy et al. 2016, §7)."""
    model, encoder = wide
    examples = parallel("ind", "jav", 4)
    batch = collated(examples, encoder)
    expected, plain = 0.0, 0.0
    with torch.no_grad():
        for example in examples:  # each for itself
            one = collated([example], encoder)
            told = {name: one[name] for name in ("input_ids", "attention_mask", "decoder_input_ids")}
            log = whole_pretrained(model)(**told).logits[0].log_softmax(-1)
            for at, label in enumerate(one["labels"][0].tolist()):
                plain -= float(log[at, label])
                expected -= 0.8 * float(log[at, label]) + 0.2 * float(log[at].mean())
        tolerance = summation_tolerance(task().targets(collated(examples, encoder)), torch.float32)
        assert float(task(smoothing=0.2).loss(model, batch)) == pytest.approx(plain, rel=tolerance)
        model.train()  # without dropout
        found = float(task(smoothing=0.2).loss(model, batch))
        model.eval()
    assert found == pytest.approx(expected, rel=tolerance) != pytest.approx(plain, rel=1e-4)


def _same_width() -> list[Example]:
    """The longest text of the batch is as long as the longest translation, but not of the same example."""
    return [
        Example("f:1", "nasi air nasi air nasi", pair="sega", languages=("ind", "jav")),
        Example("f:2", "air", pair="sega banyu sega banyu sega", languages=("ind", "jav")),
        Example("f:3", "air nasi", pair="banyu sega", languages=("ind", "jav")),
    ]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("examples", [_same_width(), parallel("ind", "jav", 5)])
def test_micro_batches_have_the_loss_and_the_gradient_of_the_whole_batch(
    examples: list[Example], size: int, wide: tuple[TransferModel, Encoder]
) -> None:
    model, encoder = wide
    batch = collated(examples, encoder)

    def gradients(parts: list[Batch]) -> tuple[float, int, dict[str, torch.Tensor]]:
        model.zero_grad()
        total = 0.0
        for part in parts:
            loss = task().loss(model, part)
            loss.backward()
            total += float(loss.detach())
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return total, sum(task().targets(part) for part in parts), found

    loss, count, whole = gradients([batch])
    rows = [range(len(examples))[at : at + size] for at in range(0, len(examples), size)]
    parts = [rows_of(batch, some, has_targets=True) for some in rows]
    assert parts[0]["input_ids"].shape[1] == int(parts[0]["attention_mask"].sum(1).max())
    cut_loss, cut_count, cut = gradients(parts)
    # Losses are added in float32, target by target.
    assert (cut_loss, cut_count) == (pytest.approx(loss, rel=summation_tolerance(count, torch.float32)), count)
    assert cut.keys() == whole.keys()
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    # Gradients have float32's precision, in which the loss is computed; a key's bias has no gradient but rounding.
    tolerance = summation_tolerance(1, torch.float32) * largest
    for name, gradient in whole.items():
        assert torch.allclose(cut[name], gradient, rtol=1e-4, atol=tolerance), name


def test_the_widths_coincide_in_the_example_of_the_trap(wide: tuple[TransferModel, Encoder]) -> None:
    batch = collated(_same_width(), wide[1])
    assert batch["input_ids"].shape == batch["labels"].shape
    part = rows_of(batch, range(1, 2), has_targets=True)
    assert part["labels"].shape[1] > part["input_ids"].shape[1]


def _generated(model: TransferModel, batch: Batch, language: int, beams: int, most: int) -> torch.Tensor:
    """As the family's users call transformers."""
    return whole_pretrained(model).generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        forced_bos_token_id=language,
        num_beams=beams,
        do_sample=False,
        max_new_tokens=most,
    )


@pytest.mark.parametrize("beams", [1, 4])
def test_translations_are_transformers_own_with_the_language_forced(beams: int) -> None:
    """Half-taught, so that beams end at different lengths: which is best depends on how these are counted."""
    model, encoder = taught_translator([("ind", "jav")], 60)
    examples, words, made = parallel("ind", "jav", 40, words=(1, 4)), encoder.tokenizer, task(16, beams)
    rows = made.features(examples, encoder)
    batch = made.collate(rows, encoder, stream(0, "x"))
    ids = _generated(model, batch, words.convert_tokens_to_ids("jav_Latn"), beams, 16)
    assert torch.equal(made._generate(model, encoder, batch, batch["labels"][:, 0], beams), ids[:, 2:])
    wanted = [text.strip() for text in words.batch_decode(ids, skip_special_tokens=True)]
    assert len(set(wanted)) > 10 and len({len(text.split()) for text in wanted}) > 2
    texts = [str(example.text) for example in examples]
    assert made.translate(model, encoder, texts, ("ind", "jav"), beams) == wanted
    assert made.score(model, batch, rows) == (wanted, [example.pair for example in examples], ["jav"] * 40)


def test_each_text_of_a_mixed_batch_is_translated_into_its_own_language() -> None:
    model, encoder = taught_translator([("ind", "jav"), ("ind", "mad")], 120)
    model.double()  # batches of other sizes are added in other orders, which must not decide between two beams
    examples = [*parallel("ind", "jav", 3, words=(1, 4)), *parallel("ind", "mad", 3, words=(1, 4))]
    made = task(16, beams=3)
    rows = made.features(examples, encoder)
    mixed = made.collate(rows, encoder, stream(0, "x"))
    found = made._generate(model, encoder, mixed, mixed["labels"][:, 0], 3)
    for number, (row, language) in enumerate(zip(rows, ["jav"] * 3 + ["mad"] * 3, strict=True)):
        token = encoder.tokenizer.convert_tokens_to_ids(f"{language}_Latn")
        ids = _generated(model, made.collate([row], encoder, stream(0, "x")), token, 3, 16)[0, 2:]
        assert torch.equal(found[number, : len(ids)], ids)
    assert not torch.equal(found[:3], found[3:])  # of the same texts


def test_a_translation_is_no_longer_than_it_may_be(wide: tuple[TransferModel, Encoder]) -> None:
    model, encoder = wide
    batch = collated(parallel("ind", "jav", 3), encoder)
    for most in (8, 12):
        made = task(most)._generate(model, encoder, batch, batch["labels"][:, 0], 1)
        assert made.shape[1] <= most - 1
    assert made.shape[1] == 11  # it does go on that long


def test_metrics_are_sacrebleus_over_all_texts_together() -> None:
    made = [["saya makan nasi di rumah", "kamu minum air"], ["itu besar sekali dan baik", ""]]
    references = [["saya makan nasi di pasar", "kamu minum air"], ["itu kecil sekali dan baik", "baik"]]
    flat, wanted = sum(made, []), sum(references, [])  # noqa: RUF017
    languages = [["jav", "jav"], ["jav", "jav"]]
    found = task().metrics(list(zip(made, references, languages, strict=True)))
    assert found == {
        "chrf": sacrebleu.corpus_chrf(flat, [wanted], word_order=2).score,
        "bleu": sacrebleu.corpus_bleu(flat, [wanted]).score,
    }
    assert 0 < found["bleu"] < 100
    right = task().metrics([(wanted, wanted, ["jav"] * 4)])
    assert right == {"chrf": pytest.approx(100.0), "bleu": pytest.approx(100.0)}


def test_equal_texts_have_100_points_in_every_script() -> None:
    """Sentences without spaces are one word each to sacrebleu's default, which has no 4-grams of them: 0 points."""
    texts = {
        "zho": "今天天气很好我们去公园",
        "yue_Hant": "今日天氣好好我哋去公園",
        "jpn": "今日は天気がいいので公園に行きます",
        "tha": "วันนี้อากาศดีมากเราไปสวนสาธารณะ",
        "mya": "ဒီနေ့ရာသီဥတုကောင်းတယ်",
        "eng": "the weather is fine today",
    }
    for language, text in texts.items():
        found = task().metrics([([text] * 3, [text] * 3, [language] * 3)])
        assert found == {"chrf": pytest.approx(100.0), "bleu": pytest.approx(100.0)}, language
    assert sacrebleu.corpus_bleu([texts["zho"]] * 3, [[texts["zho"]] * 3]).score == 0
    together = (list(texts.values()), list(texts.values()), list(texts))
    assert task().metrics([together])["bleu"] == pytest.approx(100.0)


def test_the_signatures_are_sacrebleus_for_the_target_languages() -> None:
    encoder = Encoder(tokenizer(("ind", "zho")))
    rows = task().features([Example("f:1", "air", pair="水", languages=("ind", "zho"))], encoder)
    assert rows[0]["target_language"] == "zho"
    signatures = task().signatures(rows)
    assert "|tok:zh|" in signatures["bleu"] and f"version:{sacrebleu.__version__}" in signatures["bleu"]
    assert "|nw:2|" in signatures["chrf"]  # chrF++


def test_checkpoints_are_selected_by_chrf_unless_said_otherwise() -> None:
    with hydra_ready():
        config = compose(["task=translation"])
    assert (config.task.metric, config.task.bleu_tokenizer) == ("chrf", "auto")


def test_an_unknown_language_is_one_line(wide: tuple[TransferModel, Encoder]) -> None:
    model, encoder = wide
    example = Example("f:1", "air", pair="aer", languages=("ind", "bew"))
    for call in (
        lambda: task().features([example], encoder),
        lambda: task().translate(model, encoder, ["air"], ("bew", "ind"), 1),
        lambda: task().check_languages(encoder, ["ind", "bew"]),
    ):
        with pytest.raises(UsageError) as refused:
            call()
        (line,) = refused.value.lines
        assert line.startswith("language bew: ") and "+model.new_languages.bew=" in line and "task.tokens.bew" in line
    with pytest.raises(UsageError, match=r"language ind: .* idn_Latn.*task\.tokens\.ind"):
        task(ind="idn_Latn").features(parallel("ind", "jav", 1), encoder)


def test_a_variety_has_its_own_token_and_no_other(wide: tuple[TransferModel, Encoder]) -> None:
    encoder = Encoder(tokenizer(("ace_Arab", "ace_Latn", "ind")))
    example = Example("f:1", "air", pair="ie", languages=("ind", "ace_Arab"))
    (row,) = task().features([example], encoder)
    assert row["target_ids"][0] == encoder.tokenizer.convert_tokens_to_ids("ace_Arab")
    with pytest.raises(UsageError, match=r"language jav_Java: the model has no token for it, but for jav, jav_Latn; "):
        task().check_languages(wide[1], ["jav_Java"])


def test_a_language_has_the_token_that_the_task_gives_it(wide: tuple[TransferModel, Encoder]) -> None:
    encoder = wide[1]
    (row,) = task(bew="mad_Latn").features([Example("f:1", "air", pair="aer", languages=("ind", "bew"))], encoder)
    assert row["target_ids"][0] == encoder.tokenizer.convert_tokens_to_ids("mad_Latn")


def test_a_large_vocabulary_is_listed_once_for_many_examples(
    wide: tuple[TransferModel, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, calls = wide[1], []
    listed = type(encoder.tokenizer).get_vocab
    monkeypatch.setattr(type(encoder.tokenizer), "get_vocab", lambda self: calls.append(1) or listed(self))
    task().features(parallel("ind", "jav", 20), encoder)
    assert len(calls) <= 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"languages": None}, r"f:1: .*text_language or pair_language of data\.sources\.x"),
        ({"text": ""}, r"f:1: .*no text, .*translation.*data\.sources\.x"),
        ({"pair": None}, r"f:1: .*no second text, .*translation.*data\.sources\.x"),
    ],
)
def test_examples_that_are_no_parallel_text_are_refused(changes: dict[str, Any], said: str) -> None:
    right = Example("f:1", "air", pair="banyu", languages=("ind", "jav"))
    task().check([right], "data.sources.x")
    with pytest.raises(UsageError, match=said) as refused:
        task().check([right, dataclasses.replace(right, **changes)], "data.sources.x")
    assert len(refused.value.lines) == 1


def test_steps_learn_the_translations_by_heart(fit: Callable[..., dict[str, float]]) -> None:
    examples = parallel("ind", "jav", 6, words=(1, 3))
    model, encoder = translator(("ind", "jav"), spread=0.02)
    source = LoadedSource("s", "jav", task().features(examples, encoder))
    before = evaluate(model, task(), [source], encoder, 4, "fp32")
    after = fit(task(), examples, model=model, words=encoder, max_steps=120, learning_rate=1e-2)
    assert after["chrf"] > 90 > 40 > before["chrf"]


@pytest.mark.parametrize("method", ["lt_sft", "bitfit", "full", "lora"])
def test_two_steps_with_a_method_that_leaves_a_module(method: str, fit: Callable[..., dict[str, float]]) -> None:
    model, encoder = translator(("ind", "jav"))
    found = fit(task(), parallel("ind", "jav", 6), model=model, words=encoder, max_steps=2, method=method)
    assert set(found) == {"chrf", "bleu"}
