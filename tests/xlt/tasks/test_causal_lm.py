from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tolerance import summation_tolerance
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import LoadedSource
from xlt.engine.evaluation import evaluate
from xlt.errors import UsageError
from xlt.models.loading import load_pretrained
from xlt.models.transfer import TransferModel
from xlt.tasks.causal_lm import CausalLanguageModelling
from xlt.tasks.mlm import MaskedLanguageModelling

TEXTS = ["bun lan mi", "mi", "bun bun lan " * 12, " ", "lan mi bun"]
EXAMPLES = [Example(f"f:{number}", text) for number, text in enumerate(TEXTS)]


def task(max_length: int = 16, packing: bool = False) -> CausalLanguageModelling:
    return CausalLanguageModelling(max_length, packing)


def decoder(name: str, folder: Path, encoder: Encoder) -> TransferModel:
    """A tiny decoder as transformers saves it and xlt loads it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {"vocab_size": len(encoder.tokenizer), "bos_token_id": 1, "eos_token_id": 2}
    if name == "gpt2":
        sizes |= {"n_embd": 48, "n_layer": 2, "n_head": 2, "n_positions": 64}
        sizes |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    else:
        sizes |= {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(1)
    pretrained = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes))
    with torch.no_grad():
        for parameter in pretrained.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)  # the output matrix stays as it is (thesis §4.4.2)
    pretrained.save_pretrained(folder)
    return load_pretrained(str(folder)).eval()


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest, tmp_path: Path, encoder: Encoder) -> TransferModel:
    return decoder(request.param, tmp_path / "decoder", encoder)


def test_the_loss_is_the_definition_over_all_next_tokens(model: TransferModel, encoder: Encoder) -> None:
    model.double()
    rows = task().features(EXAMPLES, encoder)
    batch = task().collate(rows, encoder, torch.Generator())
    by_hand, count, right = 0.0, 0, 0
    with torch.no_grad():
        for row in rows:  # each alone, and each token from those before it alone
            ids = row["input_ids"]
            for at in range(1, len(ids)):
                hidden = model.backbone(input_ids=torch.tensor([ids[:at]])).last_hidden_state[0, -1]
                logits = model.lm_head(hidden).tolist()  # type: ignore[misc]
                by_hand += math.log(sum(map(math.exp, logits))) - logits[ids[at]]
                right += logits[ids[at]] == max(logits)
                count += 1
        tolerance = summation_tolerance(count, torch.float32)  # logits are cast to float32, their losses added in it
        assert task().loss(model, batch).item() == pytest.approx(by_hand, rel=tolerance)
        assert task().score(model, batch, rows) == (pytest.approx(by_hand, rel=tolerance), right, count)
    assert task().targets(batch) == count == sum(len(row["input_ids"]) - 1 for row in rows)


def test_labels_are_the_tokens_that_follow_and_nothing_follows_the_last(encoder: Encoder) -> None:
    batch = task().collate([{"input_ids": [1, 7, 8, 2]}, {"input_ids": [1, 2]}], encoder, torch.Generator())
    assert batch["labels"].tolist() == [[7, 8, 2, -100], [2, -100, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize("packing", [True, False])
def test_sequences_are_those_of_masked_language_modelling(packing: bool, encoder: Encoder) -> None:
    masked = MaskedLanguageModelling(16, 0.15, packing).features(EXAMPLES, encoder)
    assert task(packing=packing).features(EXAMPLES, encoder) == masked


def test_a_single_token_that_predicts_nothing_is_left_out(encoder: Encoder) -> None:
    whole = task(1000, packing=True).features(EXAMPLES, encoder)[0]["input_ids"]
    length = next(n for n in range(8, len(whole)) if len(whole) % n == 1)
    rows = task(length, packing=True).features(EXAMPLES, encoder)
    assert [token for row in rows for token in row["input_ids"]] == whole[:-1]


def test_metrics_of_a_worked_example() -> None:
    found = task().metrics([(2.0, 1, 4), (4.0, 2, 8)])
    assert found == {"loss": 0.5, "perplexity": pytest.approx(math.exp(0.5)), "accuracy": 25.0}
    assert math.isfinite(task().metrics([(1e6, 0, 1)])["perplexity"])


def test_a_source_without_running_text_is_refused() -> None:
    with pytest.raises(UsageError, match=r"f:1: .*no running text.* causal_lm .*data\.sources\.x"):
        task().check([Example("f:1", words=("a",))], "data.sources.x")


@pytest.mark.parametrize("method", ["full", "lt_sft"])
def test_two_steps_through_the_engine(
    method: str, model: TransferModel, encoder: Encoder, fit: Callable[..., dict[str, float]]
) -> None:
    assert set(fit(task(), EXAMPLES, model=model, max_steps=2, method=method)) == {"loss", "perplexity", "accuracy"}


def test_more_steps_learn_the_lines_by_heart(
    model: TransferModel, encoder: Encoder, fit: Callable[..., dict[str, float]]
) -> None:
    lines = [Example("f:1", "bun lan mi bun"), Example("f:2", "bun lan mi bun lan mi")]
    before = evaluate(model, task(), [LoadedSource("s", "eng", task().features(lines, encoder))], encoder, 4, "fp32")
    after = fit(task(), lines, model=model, max_steps=150, learning_rate=1e-2)
    assert after["loss"] < 0.3 < 3 < before["loss"]
