"""What a pass through a model left behind, against what transformers gives out itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.xlt.models.conftest import encoder_model
from xlt.models.loading import whole_pretrained
from xlt.models.tracing import Tracer
from xlt.models.transfer import TransferModel, recompute_activations


def _batch() -> dict[str, Tensor]:
    ids = torch.randint(5, 40, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(9) < torch.tensor([9, 4, 6])[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


def _maps(model: TransferModel, trace_attention: list, real: Tensor) -> list[Tensor]:
    maps = [part if isinstance(part, Tensor) else part.map() for part in trace_attention]
    return [part * real[:, None, :, None] for part in maps]


@pytest.mark.parametrize("blocks", [[0, 1, 2, 3], [1, 3], [2]])
def test_trace_is_what_transformers_gives_out(family: str, blocks: list[int]) -> None:
    model, batch = encoder_model(family).eval().double(), _batch()
    with Tracer(model, blocks).watch() as trace:
        model.encode(**batch)
    whole = whole_pretrained(model).base_model
    whole.set_attn_implementation("eager")
    wanted = whole(**batch, output_attentions=True, output_hidden_states=True)
    real = batch["attention_mask"]
    hidden = [wanted.hidden_states[0], *(wanted.hidden_states[number + 1] for number in blocks)]
    for ours, theirs in zip(trace.hidden, hidden, strict=True):
        torch.testing.assert_close(ours * real[..., None], theirs * real[..., None])
    attention = [wanted.attentions[number] * real[:, None, :, None] for number in blocks]
    for ours, theirs in zip(_maps(model, trace.attention, real), attention, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_dropout_does_not_reach_the_maps(family: str) -> None:
    torch.manual_seed(0)
    model, batch = encoder_model(family, dropout=0.5), _batch()
    model.train()
    with Tracer(model, [0]).watch() as trace:
        model.encode(**batch)
    (found,) = _maps(model, trace.attention, batch["attention_mask"])
    torch.testing.assert_close(found.sum(-1), batch["attention_mask"][:, None].expand(3, 2, 9).float())


def test_watching_changes_nothing_and_passes_outside_leave_nothing(family: str) -> None:
    model, batch = encoder_model(family).eval(), _batch()
    before = model.encode(**batch)
    tracer = Tracer(model, [1])
    with tracer.watch() as trace:
        watched = model.encode(**batch)
    after = model.encode(**batch)
    assert torch.equal(before, watched) and torch.equal(before, after)
    assert (len(trace.hidden), len(trace.attention)) == (2, 1)


def test_two_passes_in_one_watch_are_refused(family: str) -> None:
    model, batch = encoder_model(family).eval(), _batch()
    with pytest.raises(ValueError, match="in one pass"), Tracer(model, [1]).watch():
        model.encode(**batch)
        model.encode(**batch)


def test_gradients_pass_through_recomputed_blocks() -> None:
    """With activation checkpointing a block is computed again in the backward pass; the trace is of the first time."""
    found = []
    for again in (False, True):
        model, batch = encoder_model("bert", dropout=0.0).double(), _batch()
        model.train()
        if again:
            recompute_activations(model)
        with Tracer(model, [1, 3]).watch() as trace:
            model.encode(**batch)
        loss = sum(part.map().square().sum() for part in trace.attention) + trace.hidden[1].square().sum()  # type: ignore[union-attr]
        loss.backward()  # type: ignore[union-attr]
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 20
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_a_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="blocks 0 to 3: block 4"):
        Tracer(encoder_model("bert"), [4])
