"""LoRA and (IA)^3 in peft's folders: peft computes with ours what we compute, and we with theirs what peft computes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import LABELS
from tests.xlt.use.conftest import CONFIGS
from xlt.engine.peft_folders import is_peft, read_peft, write_peft
from xlt.models.loading import load_pretrained
from xlt.models.transfer import TransferModel, block_linear_layers, is_transposed
from xlt.modules import (
    Feature,
    FeatureMixture,
    LowRankDelta,
    ModuleArtefact,
    ModuleFileError,
    ModuleHeader,
    Rescaling,
)
from xlt.use.export import ExportSettings, export

peft = pytest.importorskip("peft")
IDS = torch.arange(60, 80).view(2, 10)


def header(model: TransferModel, kind: str) -> ModuleHeader:
    return ModuleHeader(kind=kind, method="lora", base_model="tiny", base_hash=model.base_hash, task="pos")


def lora(model: TransferModel, ranks: Mapping[str, int]) -> LowRankDelta:
    torch.manual_seed(3)
    factors = {
        name: (
            torch.randn(ranks[end], layer.weight.shape[1]) * 0.3,
            torch.randn(layer.weight.shape[0], ranks[end]) * 0.3,
        )
        for name, layer in block_linear_layers(model).items()
        for end in ranks
        if name.endswith(f"{end}.weight")
    }
    return LowRankDelta(header(model, "low_rank"), factors, 0.7)


def ia3(model: TransferModel) -> Rescaling:
    torch.manual_seed(4)
    factors: dict[str, Tensor] = {}
    sizes: dict[str, tuple[int, ...]] = {}
    for name, layer in block_linear_layers(model).items():
        output, rows = (1, 0) if is_transposed(layer) else (0, 1)
        if name.endswith(("key.weight", "value.weight", "c_attn.weight")):
            shape = [1, 1]
            shape[output] = layer.weight.shape[output]
            factors[name] = 1 + 0.3 * torch.randn(shape)
            bias = name.replace("weight", "bias")
            factors[bias], sizes[bias] = factors[name].view(-1), tuple(layer.bias.shape)
        elif name.endswith((".output.dense.weight", "mlp.c_proj.weight")) and "attention" not in name:
            shape = [1, 1]
            shape[rows] = layer.weight.shape[rows]
            factors[name] = 1 + 0.3 * torch.randn(shape)
        else:
            continue
        sizes[name] = tuple(layer.weight.shape)
    return Rescaling(header(model, "rescaling"), factors, sizes)


@torch.no_grad()
def ours(module: ModuleArtefact, model: TransferModel) -> Tensor:
    module.apply(model)
    logits = model.language_model_logits(model.eval().encode(IDS, torch.ones_like(IDS)))
    module.remove(model)
    return logits


@torch.no_grad()
def theirs(folder: Path, base: Path) -> Tensor:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    causal = AutoConfig.from_pretrained(base).model_type == "gpt2"
    loader = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    model = peft.PeftModel.from_pretrained(loader.from_pretrained(base), folder).eval()
    return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


@pytest.fixture(params=["bert", "gpt2"])
def base(request: pytest.FixtureRequest, tiny_bert: Path, tmp_path: Path) -> Path:
    if request.param == "bert":
        return tiny_bert
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_positions=48, n_embd=32, n_layer=2, n_head=2)
    ).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def modules(model: TransferModel) -> list[ModuleArtefact]:
    gpt2 = any("c_attn" in name for name in block_linear_layers(model))
    same = {"c_attn": 2, "c_proj": 2} if gpt2 else {"query": 2, "value": 2}
    several = {"c_attn": 2, "c_fc": 3, "c_proj": 2} if gpt2 else {"query": 2, "value": 2, "intermediate.dense": 3}
    return [lora(model, same), lora(model, several), ia3(model)]


@pytest.mark.parametrize("number", [0, 1, 2], ids=["lora", "lora of several ranks", "ia3"])
def test_peft_computes_with_our_folder_what_we_compute(base: Path, tmp_path: Path, number: int) -> None:
    model = load_pretrained(str(base))
    module = modules(model)[number]
    write_peft(module, model, tmp_path / "folder")
    assert is_peft(tmp_path / "folder") and not is_peft(base)
    expected = ours(module, model)
    assert not torch.allclose(expected, theirs_without(base), atol=1e-3)
    torch.testing.assert_close(theirs(tmp_path / "folder", base), expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def theirs_without(base: Path) -> Tensor:
    model = load_pretrained(str(base)).eval()
    return model.language_model_logits(model.encode(IDS, torch.ones_like(IDS)))


@pytest.mark.parametrize("rslora", [False, True])
def test_we_compute_with_pefts_folder_what_peft_computes(base: Path, tmp_path: Path, rslora: bool) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    gpt2 = AutoConfig.from_pretrained(base).model_type == "gpt2"
    plain = (AutoModelForCausalLM if gpt2 else AutoModelForMaskedLM).from_pretrained(base)
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["c_attn", "c_fc"] if gpt2 else ["query", "dense"], use_rslora=rslora,
        rank_pattern={"c_fc" if gpt2 else "attention.output.dense": 2}, fan_in_fan_out=gpt2, init_lora_weights=False,
        exclude_modules=None if gpt2 else ["transform.dense", "cls.predictions.transform.dense"],
        alpha_pattern={"c_fc" if gpt2 else "attention.output.dense": 9},
    )  # fmt: skip
    torch.manual_seed(5)
    wrapped = peft.get_peft_model(plain, config).eval()
    wrapped.save_pretrained(tmp_path / "theirs")
    model = load_pretrained(str(base))
    about = {"base_model": "tiny", "base_hash": model.base_hash, "task": "pos"}
    module = read_peft(tmp_path / "theirs", model, about)
    with torch.no_grad():
        expected = wrapped(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    torch.testing.assert_close(ours(module, model), expected, atol=2e-5, rtol=1e-4)


def test_we_compute_with_pefts_ia3_what_peft_computes(base: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    gpt2 = AutoConfig.from_pretrained(base).model_type == "gpt2"
    plain = (AutoModelForCausalLM if gpt2 else AutoModelForMaskedLM).from_pretrained(base)
    inputs = ["mlp.c_proj"] if gpt2 else ["output.dense"]
    targets = ["c_attn", *inputs] if gpt2 else ["key", "value", *inputs]
    config = peft.IA3Config(
        target_modules=targets, feedforward_modules=inputs, fan_in_fan_out=gpt2, init_ia3_weights=False
    )
    torch.manual_seed(6)
    wrapped = peft.get_peft_model(plain, config).eval()
    wrapped.save_pretrained(tmp_path / "theirs")
    model = load_pretrained(str(base))
    about = {"base_model": "tiny", "base_hash": model.base_hash, "task": "pos"}
    module = read_peft(tmp_path / "theirs", model, about)
    assert isinstance(module, Rescaling) and module.header.method == "ia3"
    with torch.no_grad():
        expected = wrapped(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    torch.testing.assert_close(ours(module, model), expected, atol=2e-5, rtol=1e-4)


def test_an_ia3_folder_comes_back_as_the_module_it_was(base: Path, tmp_path: Path) -> None:
    model = load_pretrained(str(base))
    module = ia3(model)
    write_peft(module, model, tmp_path / "folder")
    about = {"base_model": "tiny", "base_hash": model.base_hash, "task": "pos"}
    back = read_peft(tmp_path / "folder", model, about)
    assert isinstance(back, Rescaling) and back.shapes() == module.shapes()
    assert back.factors.keys() == module.factors.keys()
    assert all(torch.equal(factor, back.factors[name]) for name, factor in module.factors.items())


@pytest.mark.parametrize("language", ["eng", "fao"])
def test_a_part_of_a_mixture_becomes_a_lora(tiny_bert: Path, tmp_path: Path, language: str) -> None:
    model = load_pretrained(str(tiny_bert))
    features = [Feature("task", 2, ("pos",)), Feature("language", 3, ("eng", "fao"))]
    torch.manual_seed(7)
    factors = {
        name: {
            of.name: (
                torch.randn(len(of.values), of.rank, layer.weight.shape[1]) * 0.3,
                torch.randn(len(of.values), layer.weight.shape[0], of.rank) * 0.3,
            )
            for of in features
        }
        for name, layer in block_linear_layers(model).items()
        if "query" in name
    }
    facts = {"task": dataclasses.asdict(CONFIGS["pos"]), "model": {"path": str(tiny_bert)}, "labels": LABELS}
    about = dataclasses.replace(header(model, "feature_mixture"), method="flix", provenance=facts)
    mixture = FeatureMixture(about, features, factors)
    mixture.save(tmp_path / "flix.safetensors")
    folder = tmp_path / "folder"
    settings = ExportSettings([str(tmp_path / "flix.safetensors")], str(folder), to="peft", language=language)
    assert f"of task=pos, language={language} ->" in export(settings)
    expected = ours(mixture.for_features(task="pos", language=language), model)
    torch.testing.assert_close(theirs(folder, tiny_bert), expected, atol=2e-5, rtol=1e-4)
    other = mixture.for_features(task="pos", language={"eng": "fao", "fao": "eng"}[language])
    assert not torch.allclose(ours(other, model), expected, atol=1e-3)
    back = read_peft(folder, model, {"base_model": "tiny", "base_hash": model.base_hash, "task": "pos"})
    torch.testing.assert_close(ours(back, model), expected, atol=2e-5, rtol=1e-4)


def test_tensors_of_other_methods_are_refused_also_without_a_head(tiny_bert: Path, tmp_path: Path) -> None:
    import safetensors.torch

    model = load_pretrained(str(tiny_bert))
    about = {"base_model": "tiny", "base_hash": model.base_hash, "task": "pos"}
    path = "base_model.model.bert.encoder.layer.0.attention.self.query"
    for number, (kind, tensors, fact) in enumerate((
        ("LORA", {"base_model.model.bert.embeddings.word_embeddings.lora_embedding_A": (2, 8)}, "lora_embedding_A"),
        ("LORA", {f"{path}.lora_A.weight": (2, 32)}, "without"),
        ("IA3", {f"{path}.ia3_l": (31, 1)}, "31"),
        ("IA3", {"base_model.model.bert.pooler.dense.ia3_l": (32, 1)}, "pooler"),
        ("OFT", {f"{path}.oft": (2, 2)}, "OFT"),
    )):  # fmt: skip
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": kind}), encoding="utf-8")
        stored = {name: torch.ones(shape) for name, shape in tensors.items()}
        safetensors.torch.save_file(stored, folder / "adapter_model.safetensors")
        with pytest.raises(ModuleFileError, match=fact):
            read_peft(folder, model, about, without_head=True)


def test_what_no_delta_computes_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    model = load_pretrained(str(tiny_bert))
    about = {"base_model": "tiny", "base_hash": model.base_hash, "task": "pos"}
    for name, options in (("dora", {"use_dora": True}), ("bias", {"bias": "all"})):
        config = peft.LoraConfig(r=2, target_modules=["query"], **options)
        peft.get_peft_model(AutoModelForMaskedLM.from_pretrained(tiny_bert), config).save_pretrained(tmp_path / name)
        with pytest.raises(ModuleFileError, match=name):
            read_peft(tmp_path / name, model, about)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_lora_on_changed_base_weights_is_refused_until_peft_has_converted_it(
    tiny_bert: Path, tmp_path: Path, start: str
) -> None:
    from transformers import AutoModelForMaskedLM

    model = load_pretrained(str(tiny_bert))
    about = {"base_model": "tiny", "base_hash": model.base_hash, "task": "pos"}
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=start)
    changed = peft.get_peft_model(AutoModelForMaskedLM.from_pretrained(tiny_bert), config)
    changed.peft_config["default"].init_lora_weights = True
    changed.save_pretrained(tmp_path / "start")  # as peft's documentation says
    changed.peft_config["default"].init_lora_weights = start
    for name, parameter in changed.named_parameters():
        if ".lora_" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    changed.save_pretrained(tmp_path / "changed")
    with pytest.raises(ModuleFileError, match=f"init_lora_weights={start}.*path_initial_model_for_weight_conversion"):
        read_peft(tmp_path / "changed", model, about)
    changed.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    back = read_peft(tmp_path / "plain", model, about)
    expected = theirs(tmp_path / "changed", tiny_bert)
    torch.testing.assert_close(ours(back, model), expected, atol=2e-5, rtol=1e-4)


def test_without_head_never_leaves_out_what_was_trained_in_the_body(tiny_bert: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForTokenClassification

    model = load_pretrained(str(tiny_bert))
    about = {"base_model": "tiny", "base_hash": model.base_hash, "task": "pos"}
    for name, options in {
        "embeddings": {"modules_to_save": ["word_embeddings"]},
        "LayerNorm": {"modules_to_save": ["LayerNorm"]},
        "tokens": {"trainable_token_indices": {"word_embeddings": [7, 8]}},
        "classifier": {"modules_to_save": ["classifier"]},
    }.items():
        config = peft.LoraConfig(r=2, target_modules=["query"], **options)
        base = AutoModelForTokenClassification.from_pretrained(tiny_bert)
        peft.get_peft_model(base, config).save_pretrained(tmp_path / name)
        if name == "classifier":
            with pytest.raises(ModuleFileError, match=r"classifier.*--without-head"):
                read_peft(tmp_path / name, model, about)
            assert len(read_peft(tmp_path / name, model, about, without_head=True).factors) == 2
        else:
            with pytest.raises(ModuleFileError, match="of the model's body"):
                read_peft(tmp_path / name, model, about, without_head=True)


def test_damaged_files_and_settings_are_one_line(tiny_bert: Path, tmp_path: Path) -> None:
    model = load_pretrained(str(tiny_bert))
    about = {"base_model": "tiny", "base_hash": model.base_hash, "task": "pos"}
    write_peft(lora(model, {"query": 2}), model, tmp_path / "lora")
    weights, config = (tmp_path / "lora" / name for name in ("adapter_model.safetensors", "adapter_config.json"))
    sound, settings = weights.read_bytes(), json.loads(config.read_text())
    for end in (4, 100, len(sound) - 8):
        weights.write_bytes(sound[:end])
        with pytest.raises(ModuleFileError, match="is damaged"):
            read_peft(tmp_path / "lora", model, about)
    weights.write_bytes(sound)
    for changes in ({"lora_alpha": "x"}, {"lora_alpha": None}, {"alpha_pattern": {"(": 2}}, {"alpha_pattern": [2]}):
        config.write_text(json.dumps(settings | changes))
        with pytest.raises(ModuleFileError, match="settings that cannot be used"):
            read_peft(tmp_path / "lora", model, about)
