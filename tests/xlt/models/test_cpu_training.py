"""Our dropout and attention in the place of torch's while a model trains on a CPU, whatever its family."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from xlt_kernels import lean_attention as lean

from tests.tolerance import summation_tolerance
from tests.xlt.models.conftest import encoder_model
from xlt.models import cpu_training
from xlt.models.cpu_training import fast_training
from xlt.models.tracing import Tracer
from xlt.models.transfer import TransferModel, recompute_activations

_CPU = torch.device("cpu")


def _batch() -> dict[str, Tensor]:
    ids = torch.randint(5, 40, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(9) < torch.tensor([9, 4, 6])[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


def _gradients(model: TransferModel) -> dict[str, Tensor]:
    """Of a training step with dropout drawn from one seed.

    In float64: gradients of this loss reach 70, so that in float32 the order of summation, which differs between
    processors, changes entries that are nearly zero by 1e-5.
    """
    model.train().double()
    torch.manual_seed(5)
    batch = _batch()
    with fast_training(_CPU):
        hidden = model.encode(**batch)
    (hidden * batch["attention_mask"][..., None]).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys() and len(found) > 20
    for name, gradient in wanted.items():
        assert gradient.dtype == torch.float64
        torch.testing.assert_close(found[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


def test_a_model_without_dropout_has_torchs_gradients(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = _gradients(encoder_model(family, dropout=0.0))
    monkeypatch.setattr(cpu_training, "is_leaner", lambda *_: True)
    _equal(_gradients(encoder_model(family, dropout=0.0)), wanted)


def test_all_dropout_of_a_model_is_ours(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If our dropout is replaced by one that keeps all entries, the gradients are those of a model without dropout.

    A dropout of torch's own that remained in the model would change them.
    """
    wanted = _gradients(encoder_model(family, dropout=0.0))

    def keep(shape: tuple[int, ...], probability: float, device: torch.device) -> Tensor:
        assert probability == 0.5
        return torch.full(shape, True, device=device)

    monkeypatch.setattr(lean, "draw_keep_mask", keep)
    monkeypatch.setattr("xlt_kernels.dropout.draw_keep_mask", keep)
    monkeypatch.setattr(lean, "dropout_factors", lambda kept, scaled, dtype: torch.ones(kept.shape, dtype=dtype))
    monkeypatch.setattr(
        "xlt_kernels.dropout.dropout_factors", lambda kept, scaled, dtype: torch.ones(kept.shape, dtype=dtype)
    )
    _equal(_gradients(encoder_model(family, dropout=0.5)), wanted)


def test_what_is_computed_again_in_the_backward_pass_draws_the_same_entries(family: str) -> None:
    found = []
    for again in (False, True):
        model = encoder_model(family, dropout=0.3)
        if again:
            recompute_activations(model)
        found.append(_gradients(model))
    _equal(found[1], found[0])


def test_what_was_computed_by_torch_is_so_again(family: str) -> None:
    model, batch = encoder_model(family, dropout=0.3).train(), _batch()
    recompute_activations(model)
    model.encode(**batch).square().sum().backward()  # torch itself refuses other tensors than before
    assert all(p.grad is not None for p in model.backbone.encoder.parameters())  # type: ignore[union-attr]


def test_a_trace_is_taken_before_attention_is_ours(family: str) -> None:
    model = encoder_model(family, dropout=0.3).train()
    with fast_training(_CPU), Tracer(model, [0, 1, 2, 3]).watch() as trace:
        model.encode(**_batch())
    assert len(trace.attention) == 4 and all(part.requires_grad for part in trace.hidden)


def test_evaluation_and_other_dropout_stay_torchs() -> None:
    values = torch.ones(1000)
    with fast_training(_CPU):
        assert torch.equal(nn.Dropout(0.5).eval()(values), values)
        assert not functional.dropout(values, 1.0).any()
        torch.manual_seed(1)
        in_place = functional.dropout(values.clone(), 0.5, inplace=True)
    torch.manual_seed(1)
    assert torch.equal(functional.dropout(values, 0.5), in_place)


def test_attention_of_fewer_keys_than_queries_is_torchs() -> None:
    """Grouped and causal, as decoders call it."""
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 6, 8, generator=draw, dtype=torch.bfloat16, requires_grad=True)
    key, value = (torch.randn(2, 2, 6, 8, generator=draw, dtype=torch.bfloat16) for _ in range(2))
    wanted = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    with fast_training(_CPU):
        found = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    assert type(found.grad_fn).__name__ == "_LeanAttentionBackward"
    # Both round the distribution and the result to bfloat16, and torch's exponentials depend on the processor.
    tolerance = summation_tolerance(2, torch.bfloat16)
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance * float(value.abs().max()))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_mask_that_is_learned_has_its_gradient(dropout: float) -> None:
    """T5 adds a learned bias by distance."""
    query, key, value = torch.randn(3, 2, 4, 7, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    bias = torch.zeros(1, 4, 7, 7, requires_grad=True)
    with fast_training(_CPU):
        functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout).sum().backward()
    assert bias.grad is not None and bias.grad.abs().max() > 0


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4)])
def test_values_that_do_not_lie_in_the_order_of_their_dimensions_stay_as_they_lie(shape: tuple[int, ...]) -> None:
    backwards = [*reversed(range(len(shape)))]
    values = torch.randn(shape[::-1], generator=torch.Generator().manual_seed(0)).permute(backwards).requires_grad_()
    expected = functional.gelu(values.detach().contiguous(), approximate="tanh")
    with fast_training(torch.device("cpu")):
        found = functional.gelu(values, approximate="tanh")
        dropped = functional.dropout(values, 0.5)
    torch.testing.assert_close(found, expected)
    assert found.stride() == dropped.stride() == values.stride()
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * values[kept])
    (gradient,) = torch.autograd.grad(dropped.sum(), values)
    assert torch.equal(gradient, 2.0 * kept)
