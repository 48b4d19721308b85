"""A checkpoint has the tensors that its config says; what it lacks is drawn from the run's seed, or refused."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model_families import FAMILIES, save_family
from xlt.errors import UsageError
from xlt.models.checkpoint import load_config
from xlt.models.loading import (
    inspect_checkpoint,
    load_pretrained,
    load_tokenizer,
    model_identity,
    whole_pretrained,
)
from xlt.models.transfer import TransferModel
from xlt.modules import same_base

Tensors = dict[str, torch.Tensor]
# Of NomicBERT transformers 5 renames and joins tensors.
SOME = ["BERT", "XLM-R", "ALBERT", "DeBERTa v3", "X-MOD", "NomicBERT", "T5", "M2M-100", "GPT-2", "Llama"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @functools.cache
    def make(family: str) -> Path:
        if not FAMILIES[family].exists:
            pytest.skip(f"this version of transformers has no {family}")
        folder = tmp_path_factory.mktemp("whole")
        save_family(family, folder)
        return folder

    return make


@pytest.fixture
def changed(whole: Callable[[str], Path], tmp_path: Path) -> Callable[..., str]:
    """`changed("BERT", change, num_hidden_layers=1)`: a copy with tensors as `change` leaves them, and settings."""

    def make(family: str, change: Callable[[Tensors], Any] = lambda _: None, **settings: Any) -> str:
        for file in whole(family).iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        weights = tmp_path / "model.safetensors"
        tensors = load_file(weights)
        change(tensors)
        save_file(tensors, weights, {"format": "pt"})
        config = tmp_path / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | settings), "utf-8")
        return str(tmp_path)

    return make


def refusals(path: str, *, needs_head: bool = False) -> list[str]:
    """The lines at planning, which must be those of loading."""
    report = inspect_checkpoint(path, None, load_config(path), needs_head=needs_head, trust_remote_code=False)
    try:
        load_pretrained(path, head_seed=1 if needs_head else None)
    except UsageError as error:
        assert list(report.faults) == error.lines
        return error.lines
    assert not report.faults
    return []


def body_tensors(path: Path) -> list[str]:
    """Names in the file of the body's tensors."""
    model = load_pretrained(str(path))
    own = {id(p) for p in model.backbone.parameters()}
    names = {name for name, p in whole_pretrained(model).named_parameters() if id(p) in own}
    stored = load_file(path / "model.safetensors")
    return sorted(names & stored.keys()) or sorted(stored)


def without(*names: str) -> Callable[[Tensors], None]:
    return lambda tensors: [tensors.pop(name) for name in names] and None


def without_those(prefix: str) -> Callable[[Tensors], None]:
    return lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(prefix)] and None


@pytest.mark.parametrize("family", SOME)
def test_a_whole_checkpoint_is_taken_and_one_without_a_tensor_refused(
    family: str, whole: Callable[[str], Path], changed: Callable[..., str]
) -> None:
    names = [name for name in body_tensors(whole(family)) if family != "T5" or not name.startswith("decoder.")]
    assert refusals(str(whole(family)), needs_head=family != "T5") == []
    for name in {names[0], names[len(names) // 2], names[-1]}:
        (line,) = refusals(changed(family, without(name)))
        assert "model.path=" in line and "lacks" in line, line
        if family != "NomicBERT":
            assert name in line


@pytest.mark.parametrize(("family", "key"), [("BERT", "num_hidden_layers"), ("GPT-2", "n_layer"), ("T5", "num_layers")])
def test_a_config_with_fewer_layers_than_the_file_drops_none_silently(
    family: str, key: str, changed: Callable[..., str]
) -> None:
    (line,) = refusals(changed(family, **{key: 1}))
    assert "has the tensors" in line and ".1." in line and "config.json" in line


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"num_hidden_layers": 3}, "lacks the tensors bert.encoder.layer.2."),
        ({"vocab_size": 5000}, "word_embeddings.weight"),
        ({"max_position_embeddings": 24}, "position_embeddings.weight in another shape"),
        ({"intermediate_size": 12}, "intermediate.dense.bias"),
    ],
)
def test_a_config_that_disagrees_with_the_file_is_refused(
    setting: dict[str, int], said: str, changed: Callable[..., str]
) -> None:
    (line,) = refusals(changed("BERT", **setting))
    assert said in line and ("another shape" in line or "lacks" in line), line


def _other_heads(tensors: Tensors) -> None:
    tensors["bert.pooler.dense.weight"] = torch.ones(16, 16)
    tensors["cls.seq_relationship.weight"] = torch.ones(2, 16)
    tensors["classifier.weight"] = torch.ones(3, 16)
    tensors["bert.embeddings.position_ids"] = torch.arange(512)[None]


def _old_names(tensors: Tensors) -> None:
    for name in [name for name in tensors if "LayerNorm" in name]:
        tensors[name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = (
            tensors.pop(name)
        )


@pytest.mark.parametrize("change", [_other_heads, _old_names])
def test_heads_of_other_tasks_and_old_names_are_no_fault(
    change: Callable[[Tensors], None], whole: Callable[[str], Path], changed: Callable[..., str]
) -> None:
    path = changed("BERT", change)
    assert refusals(path, needs_head=True) == []
    assert load_pretrained(path).base_hash == load_pretrained(str(whole("BERT"))).base_hash


def test_files_in_parts_and_torchs_format_are_taken(whole: Callable[[str], Path], tmp_path: Path) -> None:
    model = whole_pretrained(load_pretrained(str(whole("BERT"))))
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert refusals(str(tmp_path), needs_head=True) == []
    gone = sorted(tmp_path.glob("*.safetensors"))[1]
    shard = load_file(gone)
    lost = sorted(shard)[0]
    shard.pop(lost)
    save_file(shard, gone, {"format": "pt"})
    assert any(lost in line for line in refusals(str(tmp_path), needs_head=True))
    for file in tmp_path.glob("*.safetensors*"):
        file.unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert refusals(str(tmp_path), needs_head=True) == []
    tensors = model.state_dict()
    tensors.pop("bert.encoder.layer.0.output.dense.bias")
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"lacks the tensor bert\.encoder\.layer\.0\.output\.dense\.bias"):
        load_pretrained(str(tmp_path))


def _head(model: TransferModel) -> Tensors:
    assert model.lm_head is not None
    return {name: p.detach().clone() for name, p in model.lm_head.named_parameters()}


def test_a_head_that_is_missing_comes_from_the_seed_alone(changed: Callable[..., str]) -> None:
    path = changed("BERT", without_those("cls."))
    assert refusals(path, needs_head=True) == []
    assert inspect_checkpoint(path, None, load_config(path), needs_head=True, trust_remote_code=False).draws_head
    heads = []
    for seed, state in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        heads.append(_head(load_pretrained(path, head_seed=seed)))
        assert torch.equal(torch.get_rng_state(), before)  # what is drawn after it does not depend on the checkpoint
    name = next(name for name, p in heads[0].items() if "transform" in name and p.dim() == 2)
    assert all(torch.equal(heads[0][n], heads[1][n]) for n in heads[0])
    assert not torch.equal(heads[0][name], heads[2][name])
    assert 0.01 < float(heads[0][name].std()) < 0.03
    embeddings = load_pretrained(path, head_seed=1).backbone.embeddings.word_embeddings.weight  # type: ignore[union-attr]
    assert torch.equal(
        embeddings, load_file(Path(path) / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    )


def test_a_missing_head_that_nobody_uses_is_left_out(changed: Callable[..., str]) -> None:
    path = changed("BERT", without_those("cls."))
    model = load_pretrained(path)
    assert model.lm_head is None and refusals(path) == []
    assert model.pretrained_parameters == sum(p.numel() for p in model.backbone.parameters())


@pytest.mark.parametrize(
    ("family", "lost"), [("BERT", "cls.predictions.transform.dense.weight"), ("Llama", "lm_head.weight")]
)
def test_a_part_of_a_head_and_a_decoders_head_are_not_drawn(
    family: str, lost: str, changed: Callable[..., str]
) -> None:
    path = changed(family, without(lost))
    (line,) = refusals(path, needs_head=True)
    assert lost in line and "language-model head" in line
    assert load_pretrained(path).lm_head is None  # a task that does not use it


def test_an_encoder_saved_without_its_decoder_is_the_same_each_time(changed: Callable[..., str]) -> None:
    path = changed("T5", without_those("decoder."))
    assert refusals(path) == []
    assert load_pretrained(path).base_hash == load_pretrained(path).base_hash


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, changed: Callable[..., str]) -> None:
    name = "bert.encoder.layer.1.output.dense.bias"

    def change(tensors: Tensors) -> None:
        tensors[name][3] = value

    with pytest.raises(UsageError, match=rf"model\.path=.*{name}.*NaN or infinite"):
        load_pretrained(changed("BERT", change))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "quantization_config"),
        ({"_attn_implementation": "somebody/attention"}, "attn_implementation=somebody/attention"),
    ],
)
def test_a_config_that_names_other_code_or_weights_is_refused(
    settings: dict[str, Any], said: str, changed: Callable[..., str]
) -> None:
    path = changed("BERT", **settings)
    with pytest.raises(UsageError, match=said):
        load_config(path)


def test_a_folder_with_a_peft_adapter_is_refused(changed: Callable[..., str]) -> None:
    path = changed("BERT")
    (Path(path) / "adapter_config.json").write_text("{}", "utf-8")
    with pytest.raises(UsageError, match=r"adapter_config\.json"):
        load_config(path)


def test_the_hash_of_a_base_model_covers_its_head(whole: Callable[[str], Path], changed: Callable[..., str]) -> None:
    def change(tensors: Tensors) -> None:
        tensors["cls.predictions.transform.dense.weight"][0, 0] += 1

    base, other_head = load_pretrained(str(whole("BERT"))).base_hash, load_pretrained(changed("BERT", change)).base_hash
    without_head = load_pretrained(changed("BERT", without_those("cls."))).base_hash
    assert not same_base(base, other_head)
    assert same_base(base, without_head) and same_base(without_head, other_head)  # nothing says that the heads differ
    assert without_head == base.split("+")[0]
    assert same_base(f"{base}-nf4", f"{base}-nf4") and not same_base(base, f"{base}-nf4")


def test_the_hash_of_a_base_model_covers_constants_that_a_checkpoint_stores() -> None:
    class Scaled(torch.nn.Module):
        def __init__(self, scale: float, mask: float) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor(scale))
            self.register_buffer("mask", torch.tensor(mask), persistent=False)

    from xlt.models.transfer import parameter_hash

    assert parameter_hash(Scaled(1.0, 0.0)) == parameter_hash(Scaled(1.0, 9.0)) != parameter_hash(Scaled(2.0, 0.0))


CODE = """
from pathlib import Path
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

(Path(__file__).parent / "ran").write_text("")
Path({marker!r}).write_text("")

class OwnConfig(BertConfig):
    model_type = "of_somebody"

class OwnModel(BertForMaskedLM):
    config_class = OwnConfig

class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def with_code(changed: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A model that brings its own code, and the file that the code makes."""
    marker = tmp_path / "outside"
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForMaskedLM": "own.OwnModel"}
    path = changed("BERT", model_type="of_somebody", auto_map=own)
    (Path(path) / "own.py").write_text(CODE.format(marker=str(marker)), "utf-8")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
    return path, marker


@pytest.mark.parametrize("load", [load_config, load_pretrained])
def test_code_beside_a_model_is_not_run_and_nobody_is_asked(
    load: Callable[[str], Any], with_code: tuple[str, Path]
) -> None:
    path, marker = with_code
    with pytest.raises(UsageError, match=r"model\.path=.*auto_map.*model\.trust_remote_code=true") as refused:
        load(path)
    assert len(refused.value.lines) == 1 and not marker.exists()


def test_code_beside_a_model_is_run_for_those_who_say_so(with_code: tuple[str, Path]) -> None:
    path, marker = with_code
    model = load_pretrained(path, trust_remote_code=True)
    assert marker.exists() and type(whole_pretrained(model)).__name__ == "OwnModel"


def test_code_beside_a_tokenizer_is_not_run(whole: Callable[[str], Path], changed: Callable[..., str]) -> None:
    path = Path(changed("BERT"))
    settings = json.loads((path / "tokenizer_config.json").read_text("utf-8"))
    settings |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    (path / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    marker = path / "outside"
    (path / "own.py").write_text(CODE.format(marker=str(marker)), "utf-8")
    with contextlib.suppress(UsageError):  # transformers 5 may take its own class instead
        load_tokenizer(str(path))
    assert not marker.exists()


def test_the_code_beside_a_model_is_part_of_its_identity(with_code: tuple[str, Path]) -> None:
    path, _ = with_code
    before = model_identity(path, None)
    (Path(path) / "own.py").write_text("", "utf-8")
    model_identity.cache_clear()
    assert model_identity(path, None) != before
