"""Bottleneck and invertible adapters against their definitions, written out block by block."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from tests.tolerance import summation_tolerance
from xlt.models.sublayers import find_blocks, output_embeddings
from xlt.models.transfer import TransferModel, split_pretrained
from xlt.modules import ModuleFileError, ModuleHeader, ModuleStack, load_module
from xlt.modules.adapter import Adapter, BottleneckAdapter, Ends, InvertibleAdapter
from xlt.modules.insertion import insert
from xlt.modules.module_file import write_module_file

SIZE: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2,
}  # fmt: skip
DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
FAMILIES: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZE, **DROPOUT)),
    "xlm-roberta": lambda: XLMRobertaForMaskedLM(XLMRobertaConfig(**SIZE, **DROPOUT)),
    "deberta-v2": lambda: DebertaV2ForMaskedLM(
        DebertaV2Config(
            **SIZE, **DROPOUT, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=4,
            max_relative_positions=8, norm_rel_ebd="layer_norm", share_att_key=True,
        )
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZE)),
}  # fmt: skip
IDS = torch.tensor([[3, 14, 15, 9, 26], [5, 35, 8, 9, 7]])
every_family = pytest.mark.parametrize("family", FAMILIES)


def _model(family: str) -> TransferModel:
    """A float64 model whose normalisations and biases are not at their trivial start."""
    torch.manual_seed(0)
    model = TransferModel(*split_pretrained(FAMILIES[family]()), "hash", family).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def _adapter(seed: int, bottleneck: int = 4, size: int = 12) -> BottleneckAdapter:
    torch.manual_seed(seed)
    return BottleneckAdapter(size, bottleneck, "relu").double()


def _module(
    model: TransferModel, seed: int, *, language: str | None, whole: dict[str, Tensor] | None = None
) -> Adapter:
    """Pfeiffer adapters in all blocks but the last; a language's is invertible too."""
    placements = {
        block.norm or block.path: "norm" if block.norm is not None else "sum" for block in find_blocks(model)[:-1]
    }
    adapters = {path: _adapter(seed * 10 + number) for number, path in enumerate(placements)}
    header = ModuleHeader(
        kind="adapter", method="mad_x", base_model="m", base_hash="hash", language=language,
        task=None if language is not None else "pos",
    )  # fmt: skip
    invertible, ends = None, None
    if language is not None:
        torch.manual_seed(seed)
        invertible = InvertibleAdapter(12, (3, 3), "relu").double()
        ends = Ends(find_blocks(model)[0].path, output_embeddings(model))
    return Adapter(header, adapters, placements, invertible, ends, whole)


@torch.no_grad()
def _hidden(model: TransferModel) -> Tensor:
    return model.encode(IDS, torch.ones_like(IDS))


def _by_hand(model: TransferModel, modules: Sequence[Adapter], invertible: InvertibleAdapter | None) -> Tensor:
    """A post-norm encoder's output by Eq. 2.8: in each block (h, r) -> U relu(D x) + r, one adapter after the other.

    h is the feed-forward layer's output, x its sum with the layer's input after normalisation, r = h at first and then
    what the adapter before made of it.
    """
    encoder: Any = model.backbone
    inputs = encoder.embeddings(IDS)
    if invertible is not None:
        inputs = invertible(inputs)
    for number, block in enumerate(encoder.encoder.layer):
        middle = block.attention(inputs, None)
        middle = middle[0] if isinstance(middle, tuple) else middle
        residual = block.output.dense(block.intermediate(middle))
        for module in modules:
            adapter = module.adapters.get(f"backbone.encoder.layer.{number}.output.LayerNorm")
            if adapter is not None:
                read = block.output.LayerNorm(residual + middle)
                narrow = (read @ adapter.down.weight.T + adapter.down.bias).clamp(min=0)
                residual = narrow @ adapter.up.weight.T + adapter.up.bias + residual
        inputs = block.output.LayerNorm(residual + middle)
    return inputs


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_a_stack_is_equation_2_8_one_adapter_after_the_other(family: str) -> None:
    model = _model(family)
    language, task = _module(model, 1, language="fao"), _module(model, 2, language=None)
    assert language.invertible is not None
    with torch.no_grad():
        expected = {
            (): _by_hand(model, [], None),
            (task,): _by_hand(model, [task], None),
            (language, task): _by_hand(model, [language, task], language.invertible),
        }
    for modules, hidden in expected.items():
        ModuleStack(model).set(modules)
        torch.testing.assert_close(_hidden(model), hidden, atol=1e-12, rtol=0)


def test_gradients_are_those_of_the_definition() -> None:
    model = _model("bert")
    language, task = _module(model, 1, language="fao"), _module(model, 2, language=None)
    for network in task.adapters.values():
        network.requires_grad_(True)
    parameters = [parameter for network in task.adapters.values() for parameter in network.parameters()]
    weights = torch.randn(*IDS.shape, 12, dtype=torch.float64)
    expected = torch.autograd.grad((_by_hand(model, [language, task], language.invertible) * weights).sum(), parameters)
    ModuleStack(model).set([language, task])
    found = torch.autograd.grad((model.encode(IDS, torch.ones_like(IDS)) * weights).sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-10)


def test_a_pre_norm_block_reads_the_sum_and_adds_to_it() -> None:
    model = _model("llama")
    language, task = _module(model, 1, language="fao"), _module(model, 2, language=None)
    assert language.invertible is not None
    backbone: Any = model.backbone
    with torch.no_grad():
        state = language.invertible(backbone.embed_tokens(IDS))
        turned = backbone.rotary_emb(state, torch.arange(5)[None])
        causal = torch.full((5, 5), float("-inf"), dtype=torch.float64).triu(1)[None, None]
        for number, layer in enumerate(backbone.layers):
            state = layer(state, attention_mask=causal, position_embeddings=turned)
            for module in (language, task):
                adapter = module.adapters.get(f"backbone.layers.{number}")
                if adapter is not None:
                    state = state + adapter.up(adapter.down(state).clamp(min=0))
        expected = backbone.norm(state)
    ModuleStack(model).set([language, task])
    torch.testing.assert_close(_hidden(model), expected, atol=1e-12, rtol=0)


@every_family
def test_the_language_stands_below_whichever_came_first(family: str) -> None:
    model = _model(family)
    language, task = _module(model, 1, language="fao"), _module(model, 2, language=None)
    ModuleStack(model).set([language, task])
    usual = _hidden(model)
    ModuleStack(model).set([task, language])
    assert torch.equal(_hidden(model), usual)
    other = _module(model, 2, language="deu")  # the task's networks as a language's, the language's as a task's
    swapped = Adapter(task.header, language.adapters, language.placements)
    ModuleStack(model).set([Adapter(other.header, task.adapters, task.placements), swapped])
    assert (_hidden(model) - usual).abs().max() > 1e-3


@every_family
def test_a_removed_adapter_leaves_nothing_behind(family: str) -> None:
    model = _model(family)
    plain = _hidden(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stack = ModuleStack(model)
    language, task = _module(model, 1, language="fao"), _module(model, 2, language=None)
    stack.set([language, task])
    assert (_hidden(model) - plain).abs().max() > 1e-3
    stack.set([language])
    stack.set([])
    assert torch.equal(_hidden(model), plain)
    assert model.state_dict().keys() == state.keys()
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


@every_family
def test_the_output_embeddings_see_the_inverse(family: str) -> None:
    model = _model(family)
    assert model.lm_head is not None
    language = _module(model, 1, language="fao")
    assert language.invertible is not None and language.ends is not None and language.ends.output is not None
    output = model.get_submodule(language.ends.output)
    seen: list[Tensor] = []
    hidden = torch.randn(4, 12, dtype=torch.float64)
    with torch.no_grad():
        handle = output.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
        model.language_model_logits(hidden)
        handle.remove()
        language.apply(model)
        logits = model.language_model_logits(hidden)
        torch.testing.assert_close(logits, output.forward(language.invertible.inverse(seen[0])), atol=1e-12, rtol=0)
        torch.testing.assert_close(language.invertible(language.invertible.inverse(hidden)), hidden, atol=1e-12, rtol=0)


def test_an_invertible_adapter_on_paper() -> None:
    """x = (1 | 2): F(x2) = 3 relu(2 * 2 - 1) + 1 = 10, y1 = 11; G(y1) = relu(-11) = 0 and +5, y2 = 7."""
    adapter = InvertibleAdapter(2, (1, 1), "relu")
    values = {"first": (2.0, -1.0, 3.0, 1.0), "second": (-1.0, 0.0, 1.0, 5.0)}
    with torch.no_grad():
        for name, (down, shift, up, added) in values.items():
            coupling = getattr(adapter, name)
            for parameter, value in zip(coupling.parameters(), (down, shift, up, added), strict=True):
                parameter.fill_(value)
        assert adapter(torch.tensor([1.0, 2.0])).tolist() == [11.0, 7.0]
        assert adapter.inverse(torch.tensor([11.0, 7.0])).tolist() == [1.0, 2.0]


def test_each_placement_on_paper() -> None:
    """N doubles. norm: s = 3, N = 6, A(6) = 60: s = 63, N = 126. sum: 6 -> 66. branch likewise, at the branch."""

    class Double(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            return 2 * value

    for placement, expected in (("norm", 126.0), ("sum", 66.0), ("branch", 66.0)):
        norm = Double()
        take_out = insert(norm, placement, lambda value: 10 * value, below=True)
        assert float(norm(torch.tensor(3.0))) == expected
        take_out()
        assert float(norm(torch.tensor(3.0))) == 6.0


@every_family
def test_a_file_keeps_everything(family: str, tmp_path: Path) -> None:
    model = _model(family)
    module = _module(model, 3, language="fao")
    module.apply(model)
    before, logits = _hidden(model), model.language_model_logits(_hidden(model))
    module.remove(model)
    module.save(tmp_path / "fao.safetensors")
    loaded = load_module(tmp_path / "fao.safetensors")
    assert isinstance(loaded, Adapter) and loaded.header == module.header and loaded.num_entries == module.num_entries
    loaded.apply(model)
    assert torch.equal(_hidden(model), before)
    assert torch.equal(model.language_model_logits(_hidden(model)), logits)
    half = tmp_path / "half.safetensors"
    module.save(half, torch.float16)
    assert half.stat().st_size < (tmp_path / "fao.safetensors").stat().st_size
    assert next(iter(Adapter.load(half).adapters.values())).down.weight.dtype == torch.float32


def test_a_language_module_does_without_the_head_that_a_task_has_no_use_for() -> None:
    model = _model("bert")
    language = _module(model, 1, language="fao")
    language.apply(model)
    hidden = _hidden(model)
    language.remove(model)
    model.lm_head = None
    language.apply(model)
    assert torch.equal(_hidden(model), hidden)


def test_over_a_bfloat16_base_the_adapter_stays_float32() -> None:
    model = _model("bert").bfloat16()
    task = _module(model, 2, language=None)
    for network in task.adapters.values():
        network.float()
    plain = _hidden(model)
    task.apply(model)
    assert _hidden(model).dtype == torch.bfloat16
    assert not torch.equal(_hidden(model), plain)
    assert all(network.down.weight.dtype == torch.float32 for network in task.adapters.values())


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    model = _model("bert")
    plain = _hidden(model)
    faulty = {
        r"backbone\.layers\.0": _module(_model("llama"), 1, language=None),
        "hidden size 8.*12": Adapter(
            _module(model, 1, language=None).header,
            {"backbone.encoder.layer.0.output.LayerNorm": _adapter(1, size=8)},
            {"backbone.encoder.layer.0.output.LayerNorm": "norm"},
        ),
        r"'head\.weight'": _module(model, 1, language=None, whole={"head.weight": torch.zeros(2)}),
    }
    for message, module in faulty.items():
        with pytest.raises(ValueError, match=message):
            module.apply(model)
    assert torch.equal(_hidden(model), plain)
    with pytest.raises(ValueError, match="placements"):
        Adapter(_module(model, 1, language=None).header, {"a": _adapter(1)}, {"a": "beside"})
    with pytest.raises(ValueError, match="ends"):
        Adapter(_module(model, 1, language=None).header, {}, {}, InvertibleAdapter(4, (1, 1), "relu"))
    with pytest.raises(ValueError, match="'adapter'"):
        Adapter(ModuleHeader(kind="sparse_delta", method="m", base_model="b", base_hash="h"), {}, {})
    module = _module(model, 1, language="fao")
    layout, tensors = module.to_tensors(None)
    for changed in ({**tensors, "adapter:nowhere:up.bias": torch.zeros(3)}, dict(list(tensors.items())[1:])):
        write_module_file(tmp_path / "x", {**dataclasses.asdict(module.header), "layout": layout}, changed)
        with pytest.raises(ModuleFileError, match="tensors do not fit"):
            load_module(tmp_path / "x")


def test_a_place_of_the_inverse_that_is_not_there_leaves_no_adapter_in_the_model(tmp_path: Path) -> None:
    model = _model("bert")
    module = _module(model, 1, language="est")
    assert module.ends is not None and module.invertible is not None
    before = model.encode(IDS, torch.ones_like(IDS))
    module.ends = Ends(module.ends.block, "lm_head.nowhere")
    with pytest.raises(ValueError, match=r"no output embeddings at lm_head\.nowhere"):
        module.write_into(model)
    assert torch.equal(model.encode(IDS, torch.ones_like(IDS)), before)
    module.ends, module.invertible = Ends(module.ends.block, None), InvertibleAdapter(10, (2, 2), "relu")
    with pytest.raises(ValueError, match=r"invertible adapter is for hidden size 10, the model has 12"):
        module.write_into(model)
    module = _module(model, 1, language=None)
    wide = next(name for name, layer in model.named_modules() if name.endswith("intermediate.dense"))
    module.adapters[wide], module.placements[wide] = _adapter(1), "branch"
    with pytest.raises(ValueError, match=r"intermediate\.dense is for outputs of width 12, that layer has"):
        module.write_into(model)
    module = _module(model, 1, language="est")
    header = {**dataclasses.asdict(module.header), **{"layout": module.to_tensors(None)[0]}}
    header["layout"]["invertible"]["output"] = ["x"]
    write_module_file(tmp_path / "list.safetensors", header, module.to_tensors(None)[1])
    with pytest.raises(ModuleFileError, match=r"\['x'\].* no paths"):
        load_module(tmp_path / "list.safetensors")


def test_the_numbers_are_those_of_the_adapters_library() -> None:
    """Against what `scripts/parity_adapters.py --golden` kept of the library's: a stack, an invertible one below.

    The numbers are float64 of one machine. Another may be off by the order of its sums, over the hidden and the
    feed-forward size in each block, and for gradients over the positions too.
    """
    golden = Path(__file__).parents[2] / "data" / "adapters"
    kept = load_file(golden / "results.safetensors")
    size = {**SIZE, **DROPOUT, "vocab_size": 60, "hidden_size": 24, "intermediate_size": 40}
    bert = BertForMaskedLM(BertConfig(**size, max_position_embeddings=16))
    model = TransferModel(*split_pretrained(bert), "hash", "bert").double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(kept[f"base/{name}"])
    modules = [Adapter.load(golden / f"{name}.safetensors") for name in ("language", "task")]
    ModuleStack(model).set(modules)
    networks = [
        network
        for module in modules
        for network in (*module.adapters.values(), *([module.invertible] if module.invertible is not None else []))
    ]
    parameters = [parameter.requires_grad_(True) for network in networks for parameter in network.parameters()]
    hidden = model.encode(kept["ids"], torch.ones_like(kept["ids"]))
    terms = size["num_hidden_layers"] * (size["hidden_size"] + size["intermediate_size"])
    tolerance = summation_tolerance(terms, torch.float64) * float(kept["hidden"].abs().max())
    torch.testing.assert_close(hidden, kept["hidden"], atol=tolerance, rtol=0)
    torch.testing.assert_close(model.language_model_logits(hidden), kept["logits"], atol=tolerance, rtol=0)
    gradients = torch.autograd.grad((hidden * kept["weights"]).sum(), parameters)
    assert len(gradients) == sum(name.startswith("gradient/") for name in kept)
    wanted = [kept[f"gradient/{number}"] for number in range(len(gradients))]
    largest = max(float(gradient.abs().max()) for gradient in wanted)
    tolerance = summation_tolerance(terms + kept["ids"].numel(), torch.float64) * largest
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=0)
