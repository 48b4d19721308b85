"""What the code knows of model families, against what transformers computes."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
import transformers as hf

from tests.model_families import FAMILIES
from xlt.errors import UsageError
from xlt.models.families import (
    DECODER,
    ENCODER,
    ENCODER_DECODER,
    architecture,
    built_in_languages,
    family_fault,
    longest_input,
)
from xlt.models.loading import _class_for, skeleton, take_apart
from xlt.models.sublayers import find_blocks

ENCODERS = list(FAMILIES)[: list(FAMILIES).index("T5")]
ENCODER_DECODERS = ["T5", "mT5", "UMT5", "BART", "mBART", "M2M-100"]


def pretrained_of(family: str, **changes: Any) -> Any:
    if not FAMILIES[family].exists:
        pytest.skip(f"this version of transformers has no {family}")
    config = FAMILIES[family].model_config()
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(2)
    pretrained = _class_for(config, needs_head=True).from_config(config).eval()
    with torch.no_grad():
        for parameter in pretrained.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return pretrained


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_architecture_is_what_its_tokens_see(family: str) -> None:
    if not FAMILIES[family].exists:
        pytest.skip(f"this version of transformers has no {family}")
    kinds = dict.fromkeys(ENCODERS, ENCODER) | dict.fromkeys(ENCODER_DECODERS, ENCODER_DECODER)
    assert architecture(FAMILIES[family].model_config()) == kinds.get(family, DECODER)


def test_the_architecture_of_a_model_follows_its_config() -> None:
    assert architecture(hf.BertConfig(is_decoder=True)) == DECODER
    assert architecture(hf.XLMConfig(causal=True)) == DECODER
    assert architecture(hf.BartConfig(is_encoder_decoder=False, is_decoder=True)) == DECODER


@pytest.mark.parametrize(
    "family",
    ["ModernBERT", "ELECTRA", "DistilBERT", "ALBERT", "XLM", "X-MOD", "M2M-100", "Gemma 2", "Cohere", "Granite"],
)
def test_the_parts_compute_the_logits_of_the_whole(family: str) -> None:
    pretrained = pretrained_of(family)
    model = take_apart(pretrained, family).eval()
    ids = torch.randint(5, 90, (2, 6), generator=torch.Generator().manual_seed(1))
    more = {"decoder_input_ids": ids} if model.decodes else {}
    wanted = pretrained(input_ids=ids, **more).logits
    hidden = model.decode(ids, torch.ones_like(ids), ids) if model.decodes else model.encode(ids, torch.ones_like(ids))
    torch.testing.assert_close(model.language_model_logits(hidden), wanted)


def test_a_model_whose_logits_are_not_known_is_refused() -> None:
    pretrained = pretrained_of("Llama")
    inner = pretrained.lm_head.forward
    own = pretrained.forward

    def twice(*args: Any, **kwargs: Any) -> Any:
        output = own(*args, **kwargs)
        output.logits = output.logits * 1.5
        return output

    pretrained.forward = twice
    with pytest.raises(UsageError, match=r"model\.path=odd: LlamaForCausalLM.*logits"):
        take_apart(pretrained, "odd")
    assert pretrained.lm_head.forward == inner


def test_a_decoder_whose_tokens_see_those_after_them_is_refused() -> None:
    pretrained = pretrained_of("Llama")
    for layer in pretrained.model.layers:
        layer.self_attn.is_causal = False
    pretrained.config._attn_implementation = "eager"
    pretrained.model.forward = _without_mask(pretrained.model.forward)
    with pytest.raises(UsageError, match=r"model\.path=odd.*llama.*decoder.*does see"):
        take_apart(pretrained, "odd")


def _without_mask(forward: Any) -> Any:
    def run(input_ids: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        everything = torch.zeros(1, 1, input_ids.shape[1], input_ids.shape[1])
        return forward(input_ids=input_ids, attention_mask=everything, **kwargs)

    run.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        (hf.XLMRobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (hf.MPNetConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (hf.XmodConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (hf.BertConfig(), 512),
        (hf.GPT2Config(), 1024),
        (hf.BartConfig(), 1024),
        (hf.T5Config(), 1 << 30),
        (hf.BloomConfig(), 1 << 30),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_the_longest_input_is_what_the_model_takes(config: Any, longest: int) -> None:
    assert longest_input(config) == longest


@pytest.mark.parametrize("family", ["XLM-R", "MPNet", "X-MOD", "RoBERTa"])
def test_a_text_of_the_longest_input_runs_and_a_longer_one_does_not(family: str) -> None:
    model = take_apart(pretrained_of(family, max_position_embeddings=20), family).eval()
    longest = longest_input(model.backbone.config)
    ids = torch.full((1, longest), 7)
    model.encode(ids, torch.ones_like(ids))
    with pytest.raises((IndexError, RuntimeError)):
        longer = torch.full((1, longest + 1), 7)
        model.encode(longer, torch.ones_like(longer))


def test_a_model_of_text_and_images_is_refused() -> None:
    assert "text and vision" in str(family_fault(hf.Gemma3Config()))
    assert family_fault(hf.Gemma3TextConfig()) is None


def test_x_mod_uses_the_network_of_the_language_and_refuses_one_without() -> None:
    model = take_apart(pretrained_of("X-MOD"), "x-mod").eval()
    assert built_in_languages(model.backbone.config) == {"eng": "en_XX", "deu": "de_DE"}
    ids = torch.arange(5, 11)[None]
    outputs = {}
    for code, number in (("eng", 0), ("deu", 1)):
        model.speak(code)
        outputs[code] = model.encode(ids, torch.ones_like(ids))
        backbone: Any = model.backbone
        wanted = backbone(input_ids=ids, lang_ids=torch.tensor([number])).last_hidden_state
        assert torch.equal(outputs[code], wanted)
    assert not torch.equal(outputs["eng"], outputs["deu"])
    with pytest.raises(UsageError, match=r"model\.path=x-mod.*\bfao\b.*deu, eng"):
        model.speak("fao")


@pytest.mark.parametrize("family", ["BERT", "DeBERTa v3", "ModernBERT", "T5", "M2M-100", "GPT-2", "Gemma 3", "BLOOM"])
def test_a_model_without_weights_has_the_same_blocks(family: str) -> None:
    pretrained = pretrained_of(family)
    whole = take_apart(pretrained, family)
    bare = skeleton(pretrained.config, family)
    if whole.decodes and family != "M2M-100":
        whole.keep_encoder()
        bare.keep_encoder()
    blocks = find_blocks(whole)
    assert blocks == find_blocks(bare) and len(blocks) == (4 if family == "M2M-100" else 2)
    assert all(parameter.is_meta for parameter in bare.parameters())


@pytest.mark.parametrize("family", ["Llama", "Gemma 3", "OLMo 2", "ModernBERT", "T5", "BLOOM", "GPT-2"])
def test_a_blocks_output_is_its_input_and_what_its_sub_layers_return(family: str) -> None:
    """An independent look at where adapters go: x + attention + feed-forward is the block's output, in numbers."""
    model = copy.deepcopy(take_apart(pretrained_of(family), family)).double().eval()
    if model.decodes:
        model.keep_encoder()
    for block in find_blocks(model):
        seen: dict[str, torch.Tensor] = {}

        def look(name: str, seen: dict[str, torch.Tensor] = seen) -> Any:
            def hook(_: Any, given: Any, output: Any) -> None:
                seen[f"{name} in"] = given[0] if given else None
                seen[name] = output[0] if isinstance(output, tuple) else output

            return hook

        paths = {"block": block.path, "attention": block.attention, "feed_forward": block.feed_forward}
        handles = [model.get_submodule(path).register_forward_hook(look(name)) for name, path in paths.items()]
        ids = torch.arange(5, 11)[None]
        with torch.no_grad():
            model.encode(ids, torch.ones_like(ids))
        for handle in handles:
            handle.remove()
        total = seen["block in"] + seen["attention"] + seen["feed_forward"]
        torch.testing.assert_close(total, seen["block"], rtol=0, atol=1e-12)
