"""AdapterHub's format. `tests/data/adapters_hub` is of the `adapters` library: `scripts/parity_adapter_hub.py`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from tests.tolerance import summation_tolerance
from xlt.models.sublayers import find_blocks, output_embeddings
from xlt.models.transfer import TransferModel, split_pretrained
from xlt.modules import ModuleFileError, ModuleHeader, load_module, read_adapter_hub, write_adapter_hub
from xlt.modules.adapter import Adapter, BottleneckAdapter, Ends, InvertibleAdapter
from xlt.modules.adapter_hub_settings import factor_for

GOLDEN = Path(__file__).parents[2] / "data" / "adapters_hub"
SIZE: dict[str, Any] = {
    "vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "max_position_embeddings": 8,
    "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
FAMILIES: dict[str, Callable[..., Any]] = {
    "bert": lambda **size: BertForMaskedLM(BertConfig(**{**SIZE, **size}, type_vocab_size=1)),
    "xlm-roberta": lambda **size: XLMRobertaForMaskedLM(XLMRobertaConfig(**{**SIZE, **size})),
    "llama": lambda **size: LlamaForCausalLM(LlamaConfig(**{**SIZE, **size})),
}
DOWN = "bert.encoder.layer.0.output.adapters.est.adapter_down.0.weight"


def _model(family: str = "bert", **size: int) -> TransferModel:
    return TransferModel(*split_pretrained(FAMILIES[family](**size)), "hash", family).eval()


def _read(folder: Path, model: TransferModel | None = None, **changes: Any) -> Adapter:
    model = model or _model()
    known = {"base_model": "tiny", "base_hash": "hash", "output": output_embeddings(model)}
    blocks = changes.pop("blocks", None) or find_blocks(model)
    return read_adapter_hub(folder, model=model, blocks=blocks, **{**known, **changes})


def _write(module: Adapter, folder: Path, model: TransferModel, **changes: Any) -> None:
    write_adapter_hub(module, folder, model=model, blocks=find_blocks(model), **{"name": "est", **changes})


def _networks(module: Adapter) -> list[Any]:
    return [*module.adapters.values(), *([module.invertible] if module.invertible is not None else [])]


def _module(
    model: TransferModel,
    where: str = "feed_forward",
    sizes: tuple[int, ...] = (3, 3),
    inner: tuple[int, int] | None = None,
    activation: str = "relu",
    **header: Any,
) -> Adapter:
    """With bottlenecks of the given sizes, by block; none where that is 0."""
    torch.manual_seed(1)
    blocks = find_blocks(model)
    adapters, placements = {}, {}
    for block, size in zip(blocks, sizes, strict=True):
        behind = (block.norm or block.path, "norm" if block.norm else "sum")
        both = [(block.attention, "branch"), (block.feed_forward, "branch")]
        for path, placement in [behind] if where == "feed_forward" else both:
            if size:
                adapters[path] = BottleneckAdapter(model.hidden_size, size, activation)
                placements[path] = placement
    invertible = None if inner is None else InvertibleAdapter(model.hidden_size, inner, activation)
    ends = None if inner is None else Ends(blocks[0].path, output_embeddings(model))
    known = {"kind": "adapter", "method": "mad_x", "base_model": "tiny", "base_hash": "hash"}
    return Adapter(ModuleHeader(**{**known, **header}), adapters, placements, invertible, ends)


def _same(a: Adapter, b: Adapter) -> bool:
    (layout, tensors), (other_layout, others) = a.to_tensors(None), b.to_tensors(None)
    return (
        layout == other_layout
        and tensors.keys() == others.keys()
        and all(
            others[name].dtype == tensor.dtype and torch.equal(others[name], tensor) for name, tensor in tensors.items()
        )
    )


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy of the Pfeiffer adapter, with an invertible one, in block 0 of 2, as safetensors."""
    return Path(shutil.copytree(GOLDEN / "pfeiffer_safetensors", tmp_path / "golden"))


def _change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / "adapter_config.json").read_text())
    change(content)
    (folder / "adapter_config.json").write_text(json.dumps(content))


def _change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "adapter.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter.safetensors")


def _as_pickle(folder: Path, names: Callable[[str], str] = str, zipped: bool = True) -> None:
    tensors = {names(name): tensor for name, tensor in load_file(folder / "adapter.safetensors").items()}
    (folder / "adapter.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_adapter.bin", _use_new_zipfile_serialization=zipped)


@pytest.mark.parametrize("name", ["pfeiffer_bin", "pfeiffer_safetensors", "houlsby_safetensors"])
def test_what_the_library_saved_computes_what_the_library_does(name: str) -> None:
    """The stored numbers are float64 of one machine; another may be off by the order of its sums in each block."""
    kept, model = load_file(GOLDEN / "results.safetensors"), _model()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            parameter.copy_(kept[f"base/{path}"])
    module = _read(GOLDEN / name, model, language="est")
    for network in _networks(module):
        network.double()
    model.double()
    plain = model.encode(kept["ids"], torch.ones_like(kept["ids"]))
    module.apply(model)
    hidden = model.encode(kept["ids"], torch.ones_like(kept["ids"]))
    wanted = kept[f"{name}/hidden"]
    terms = SIZE["num_hidden_layers"] * (SIZE["hidden_size"] + SIZE["intermediate_size"])
    tolerance = summation_tolerance(terms, torch.float64) * float(wanted.abs().max())
    torch.testing.assert_close(hidden, wanted, atol=tolerance, rtol=0)
    assert (hidden - plain).abs().max() > 0.1


def test_pickle_and_safetensors_hold_the_same_module() -> None:
    assert _same(_read(GOLDEN / "pfeiffer_bin"), _read(GOLDEN / "pfeiffer_safetensors"))


def test_the_header_says_where_the_module_came_from() -> None:
    header = _read(GOLDEN / "pfeiffer_bin", language="est", task="mlm").header
    assert (header.method, header.language, header.task, header.base_model) == ("mad_x", "est", "mlm", "tiny")
    assert header.provenance["imported_from"] == "AdapterHub"
    assert header.provenance["file"] == "pytorch_adapter.bin" and len(header.provenance["blake2b"]) == 64
    assert (header.provenance["name"], header.provenance["version"]) == ("est", "adapters.1.3.0")
    assert _read(GOLDEN / "houlsby_safetensors").header.method == "houlsby"


def test_what_acts_in_training_alone_is_kept_and_does_nothing(golden: Path) -> None:
    plain = _read(golden)
    _change_config(golden, lambda content: content["config"].update(dropout=0.3))
    assert plain.header.provenance["in_training_only"] == {"init_weights": "bert"}
    module = _read(golden)
    assert module.header.provenance["in_training_only"] == {"dropout": 0.3, "init_weights": "bert"}
    assert _same(module, plain)


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "llama"])
@pytest.mark.parametrize("where", ["feed_forward", "both_sublayers"])
@pytest.mark.parametrize(
    ("sizes", "inner", "activation"),
    [((3, 3), None, "relu"), ((8, 0), (1, 1), "silu"), ((0, 5), (4, 4), "gelu"), ((11, 2), None, "tanh")],
)
def test_what_is_written_is_read_bit_for_bit(
    tmp_path: Path, family: str, where: str, sizes: tuple[int, ...], inner: tuple[int, int] | None, activation: str
) -> None:
    model = _model(family)
    module = _module(model, where, sizes, inner, activation)
    _write(module, tmp_path / "hub", model)
    assert _same(_read(tmp_path / "hub", model), module)


def test_a_wider_dtype_and_a_hidden_size_that_no_factor_divides_are_kept(tmp_path: Path) -> None:
    model = _model(hidden_size=9, num_attention_heads=3)
    module = _module(model, sizes=(4, 5), inner=(2, 2))
    for network in _networks(module):
        network.double()
    _write(module, tmp_path / "hub", model)
    config = json.loads((tmp_path / "hub" / "adapter_config.json").read_text())["config"]
    assert {block: int(9 // factor) for block, factor in config["reduction_factor"].items()} == {"0": 4, "1": 5}
    assert _same(_read(tmp_path / "hub", model), module)
    module.save(tmp_path / "own")
    assert _same(load_module(tmp_path / "own"), module)


@pytest.mark.parametrize("name", ["pfeiffer_safetensors", "houlsby_safetensors"])
def test_what_was_read_is_written_as_the_library_did(tmp_path: Path, name: str) -> None:
    model = _model()
    _write(_read(GOLDEN / name, model), tmp_path / "hub", model)
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {"adapter_config.json", "adapter.safetensors"}
    ours, theirs = (load_file(folder / "adapter.safetensors") for folder in (tmp_path / "hub", GOLDEN / name))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)
    written, kept = (
        json.loads((folder / "adapter_config.json").read_text()) for folder in (tmp_path / "hub", GOLDEN / name)
    )
    assert written.keys() == kept.keys()
    assert {key: kept["config"][key] for key in written["config"]} == written["config"]
    assert (written["model_name"], written["name"], written["hidden_size"]) == ("tiny", "est", 8)
    assert not written["version"].startswith("adapters.")


def _early_config(content: dict[str, Any]) -> None:
    """As the library's first versions wrote it."""
    for key in ("version", "model_class"):
        del content[key]
    content["type"] = "text_lang"
    content["config"] = {
        "adapter_residual_before_ln": False, "attention_type": "sent-lvl-dynamic", "leave_out": [1],
        "invertible_adapter": {"block_type": "nice", "non_linearity": "relu", "reduction_factor": 2},
        "ln_after": False, "ln_before": False, "mh_adapter": False, "new_attention_norm": False,
        "non_linearity": "relu", "original_ln_after": True, "original_ln_before": True, "output_adapter": True,
        "reduction_factor": 2, "residual_before_ln": True,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["lang", "task"])
@pytest.mark.parametrize("zipped", [True, False])
def test_an_adapter_of_the_first_versions_is_read(golden: Path, kind: str, zipped: bool) -> None:
    module = _read(golden)
    _change_config(golden, _early_config)
    early = {"output.adapters": f"output.layer_text_{kind}_adapters", "invertible_adapters": "invertible_lang_adapters"}

    def renamed(name: str) -> str:
        for today, then in early.items():
            name = name.replace(today, then)
        return name

    _as_pickle(golden, renamed, zipped)
    assert _same(_read(golden), module)


def test_both_sublayers_of_the_first_versions_are_read(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "houlsby_safetensors", tmp_path / "golden"))
    module = _read(folder)

    def renamed(name: str) -> str:
        name = name.replace("attention.output.adapters", "attention.output.attention_text_task_adapters")
        return name.replace("output.adapters", "output.layer_text_task_adapters")

    _as_pickle(folder, renamed)
    assert _same(_read(folder), module)


def test_an_invertible_adapter_that_early_task_adapters_never_had_is_not_missed(golden: Path) -> None:
    def without(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if "invertible" in name]:
            del tensors[name]

    _change_tensors(golden, without)
    with pytest.raises(ModuleFileError, match=r"lacks the tensor 'invertible_adapters\.est\.F\.0\.weight' and 7 more"):
        _read(golden)
    _change_config(golden, lambda content: content.update(type="text_task"))
    assert _read(golden).invertible is None


def test_a_configuration_may_be_named_and_tensors_may_lack_the_prefix(tmp_path: Path) -> None:
    model = _model(hidden_size=32)
    for name, where, activation, inner in (
        ("pfeiffer", "feed_forward", "relu", None),
        ("houlsby+inv", "both_sublayers", "silu", (8, 8)),
        ("seq_bn_inv", "feed_forward", "relu", (8, 8)),
        ("double_seq_bn", "both_sublayers", "silu", None),
    ):
        module = _module(model, where, (2, 2), inner, activation)
        _write(module, tmp_path / name, model)
        _change_config(tmp_path / name, lambda content, name=name: content.update(config=name))
        _as_pickle(tmp_path / name, lambda tensor: tensor.removeprefix("bert."))
        assert _same(_read(tmp_path / name, model), module)


class _Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable, *args: object) -> None:
        self._call = (function, args)

    def __reduce__(self) -> tuple:
        return self._call


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_never_run(golden: Path, zipped: bool) -> None:
    exploded = golden / "exploded"
    tensors = {**load_file(golden / "adapter.safetensors"), "more": _Call(os.mkdir, str(exploded))}
    (golden / "adapter.safetensors").unlink()
    torch.save(tensors, golden / "pytorch_adapter.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModuleFileError, match=r"asks for posix\.mkdir, which such a file does not need") as error:
        _read(golden)
    assert "\n" not in str(error.value) and not exploded.exists()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"is_parallel": True}, r"is_parallel=True \(supported: False\)"),
        ({"scaling": 4.0}, r"scaling=4\.0 \(supported: 1\.0\)"),
        ({"scaling": "learned"}, r"scaling='learned' \(supported: 1\.0\)"),
        ({"ln_before": True}, "ln_before=True"),
        ({"ln_after": True}, "ln_after=True"),
        ({"original_ln_after": False}, "original_ln_after=False"),
        ({"residual_before_ln": False}, r"residual_before_ln=False \(supported: True\)"),
        ({"residual_before_ln": "post_add"}, "residual_before_ln='post_add'"),
        ({"use_gating": True, "cross_adapter": True}, "use_gating=True.*, cross_adapter=True"),
        ({"phm_layer": True, "shared_phm_rule": True}, "phm_layer=True"),
        ({"new_attention_norm": True}, "new_attention_norm=True"),
        ({"architecture": "lora"}, r"architecture='lora' \(supported: None\)"),
        ({"architecture": "union"}, "architecture='union'"),
        ({"colour": "red"}, "unknown setting colour='red'"),
        ({"original_ln_before": False}, r"original_ln_before=False; supported: Pfeiffer .*, Houlsby"),
        ({"mh_adapter": True}, "mh_adapter=True"),
        ({"non_linearity": "leakyrelu"}, r"non_linearity='leakyrelu'.*relu, gelu, swish, silu, tanh"),
        ({"non_linearity": None}, "non_linearity=None"),
        ({"inv_adapter": "glow"}, "invertible adapter of kind 'glow'; supported: 'nice'"),
        ({"inv_adapter_reduction_factor": None}, "inv_adapter_reduction_factor=None"),
        ({"inv_adapter_reduction_factor": 4}, r"F\.0\.weight' as \(2, 4\) of float32; its settings ask for \(1, 4\)"),
        ({"inv_adapter_reduction_factor": 5}, r"inv_adapter_reduction_factor=5\b.* 4 inputs"),
        ({"reduction_factor": 0}, "reduction_factor=0"),
        ({"reduction_factor": True}, "reduction_factor=True"),
        ({"reduction_factor": {"1": 2}}, "block 0.*default"),
        ({"reduction_factor": 4}, r"down\.0\.weight' as \(4, 8\) of float32; its settings ask for \(2, 8\)"),
        ({"leave_out": "1"}, "leave_out='1'"),
        ({"leave_out": [1, 7]}, r"leave_out=\[1, 7\], the model in use has blocks 0 to 1"),
        ({"leave_out": [0, 1]}, "every block"),
        ({"leave_out": []}, "block 1.*leave_out"),
        ({"leave_out": [0]}, "block 1.*leave_out"),
        ({"inv_adapter": None}, r"has the tensor 'invertible_adapters\.est\.F.* and 7 more that no setting asks for"),
        ({"invertible_adapter": {"block_type": "nice", "non_linearity": "gelu", "reduction_factor": 2}}, "disagree"),
        ({"invertible_adapter": 3}, "invertible_adapter=3"),
    ],
)
def test_a_setting_of_another_architecture_is_refused_by_name(
    golden: Path, changes: dict[str, Any], fault: str
) -> None:
    _change_config(golden, lambda content: content["config"].update(changes))
    with pytest.raises(ModuleFileError, match=fault) as error:
        _read(golden)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(golden))


@pytest.mark.parametrize("absent", ["mh_adapter", "output_adapter", "reduction_factor", "non_linearity"])
def test_a_missing_setting_without_a_default_is_refused(golden: Path, absent: str) -> None:
    _change_config(golden, lambda content: content["config"].pop(absent))
    with pytest.raises(ModuleFileError, match=rf"has no setting {absent}|{absent}=None"):
        _read(golden)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"hidden_size": 768}, "is for hidden_size=768, the model in use has 8"),
        ({"model_type": "roberta"}, "is for model_type='roberta', the model in use has 'bert'"),
        ({"name": "a.b"}, r"name='a\.b'"),
        ({"name": None}, "name=None"),
        ({"name": "faroese"}, r"lacks the tensor .*faroese\.adapter_down"),
        ({"config": None}, "'config'"),
        ({"config": "lora"}, "has config='lora'; supported by name: pfeiffer, "),
    ],
)
def test_a_configuration_for_something_else_is_refused(golden: Path, changes: dict[str, Any], fault: str) -> None:
    _change_config(golden, lambda content: content.update(changes))
    with pytest.raises(ModuleFileError, match=fault):
        _read(golden)


def test_the_early_gelu_is_another_function(golden: Path) -> None:
    def early(content: dict[str, Any], activation: str) -> None:
        _early_config(content)
        content["config"]["non_linearity"] = content["config"]["invertible_adapter"]["non_linearity"] = activation

    _change_config(golden, lambda content: early(content, "gelu_orig") if "version" in content else None)
    assert {network.activation for network in _read(golden).adapters.values()} == {"gelu"}
    _change_config(golden, lambda content: content["config"].update(non_linearity="gelu", invertible_adapter=None))
    with pytest.raises(ModuleFileError, match=r"non_linearity='gelu' \(now called gelu_new\)"):
        _read(golden)


def test_an_adapter_for_another_number_of_blocks_is_refused(tmp_path: Path) -> None:
    large, small = _model(num_hidden_layers=4), _model(num_hidden_layers=2)
    _write(_module(large, sizes=(3,) * 4), tmp_path / "large", large)
    _write(_module(small, sizes=(3,) * 2), tmp_path / "small", small)
    with pytest.raises(ModuleFileError, match=r"block 3.*0 to 1"):
        _read(tmp_path / "large", small)
    with pytest.raises(ModuleFileError, match=r"block 2.*leave_out"):
        _read(tmp_path / "small", large)


def test_a_model_type_that_nobody_checked_is_refused(golden: Path, tmp_path: Path) -> None:
    model = _model()
    module = _module(model)
    model.backbone.config.model_type = "distilbert"  # type: ignore[union-attr]
    with pytest.raises(ModuleFileError, match="type 'distilbert' are not supported; supported: bert, roberta"):
        _read(golden, model)
    with pytest.raises(ModuleFileError, match="type 'distilbert' are not supported"):
        _write(module, tmp_path / "hub", model)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda tensors: tensors.pop(DOWN), r"lacks the tensor 'encoder.*adapter_down\.0\.weight' and 0 more"),
        (
            lambda tensors: tensors.update({"heads.bias": torch.ones(2)}),
            r"'heads\.bias' and 0 more that no setting asks",
        ),
        (lambda tensors: tensors.update({DOWN: torch.ones(4, 7)}), r"as \(4, 7\) of float32; .* ask for \(4, 8\)"),
        (lambda tensors: tensors.update({DOWN: torch.ones(4, 8, dtype=torch.int32)}), r"as \(4, 8\) of int32"),
        (lambda tensors: tensors.clear(), "has no adapters in block 0"),
    ],
)
def test_tensors_that_do_not_fit_the_settings_are_refused(
    golden: Path, change: Callable[[dict[str, Tensor]], object], fault: str
) -> None:
    _change_tensors(golden, change)
    with pytest.raises(ModuleFileError, match=fault) as error:
        _read(golden)
    assert str(error.value).startswith(str(golden / "adapter.safetensors"))


def test_damaged_and_missing_files_are_refused(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(ModuleFileError, match=r"adapter_config\.json: there is no such file"):
        _read(tmp_path / "absent")
    data = (golden / "adapter.safetensors").read_bytes()
    for changed in (data[:-10], data[:30], b""):
        (golden / "adapter.safetensors").write_bytes(changed)
        with pytest.raises(ModuleFileError, match=r"adapter\.safetensors: .*; expected a Pfeiffer or Houlsby adapter"):
            _read(golden)
    (golden / "adapter.safetensors").unlink()
    with pytest.raises(ModuleFileError, match=r"pytorch_adapter\.bin: there is no such file"):
        _read(golden)
    data = (GOLDEN / "pfeiffer_bin" / "pytorch_adapter.bin").read_bytes()
    for changed in (data[:-200], data[:30], b"", b"\x80\x02}."):
        (golden / "pytorch_adapter.bin").write_bytes(changed)
        with pytest.raises(ModuleFileError, match=r"pytorch_adapter\.bin: .*; expected a Pfeiffer or Houlsby adapter"):
            _read(golden)
    for content, fault in (([1], "dict of tensors"), ({"a": 3}, "'a', which is not a tensor"), ({3: 3}, "contains 3")):
        torch.save(content, golden / "pytorch_adapter.bin")
        with pytest.raises(ModuleFileError, match=fault):
            _read(golden)
    for text in ("", "{", "[1]", "\xff"):
        (golden / "adapter_config.json").write_text(text, encoding="latin1")
        with pytest.raises(ModuleFileError, match=r"adapter_config\.json: .*; expected a Pfeiffer or Houlsby adapter"):
            _read(golden)


def test_a_head_is_left_out_only_when_asked(tmp_path: Path) -> None:
    model = _model()
    plain = _module(model, task="pos")
    module = Adapter(plain.header, plain.adapters, plain.placements, tensors={"head.weight": torch.ones(2, 8)})
    with pytest.raises(ModuleFileError, match=r"head\.weight.*without_head=True"):
        _write(module, tmp_path / "hub", model)
    assert not (tmp_path / "hub").exists()
    _write(module, tmp_path / "hub", model, without_head=True)
    assert _same(_read(tmp_path / "hub", model), plain)


def test_a_module_that_the_format_cannot_express_is_refused(tmp_path: Path) -> None:
    model = _model()
    blocks = find_blocks(model)
    other = BottleneckAdapter(8, 3, "gelu")

    def refused(adapters: dict[str, BottleneckAdapter], placements: dict[str, str], fault: str, *more: Any) -> None:
        module = Adapter(_module(model).header, adapters, placements, *more)
        with pytest.raises(ModuleFileError, match=fault) as error:
            _write(module, tmp_path / "hub", model)
        assert "\n" not in str(error.value) and not list(tmp_path.iterdir())

    plain, both = _module(model), _module(model, "both_sublayers")
    first = blocks[0].attention
    refused({first: other}, {first: "branch"}, "block 0 has bottlenecks")
    refused({**both.adapters, first: BottleneckAdapter(8, 4, "relu")}, both.placements, r"bottlenecks \[4, 3\]")
    refused({**plain.adapters, blocks[1].norm or "": other}, plain.placements, "activations are gelu, relu")
    refused({**plain.adapters, first: other}, {**plain.placements, first: "branch"}, "puts an adapter at backbone")
    refused(plain.adapters, dict.fromkeys(plain.adapters, "sum"), r"puts an adapter at .* \(placement sum\)")
    refused({}, {}, "puts an adapter at all")
    invertible = InvertibleAdapter(8, (2, 2), "relu")
    refused(plain.adapters, plain.placements, r"is before backbone.*\.1, not", invertible, Ends(blocks[1].path, None))
    unequal, ends = InvertibleAdapter(8, (1, 4), "relu"), Ends(blocks[0].path, None)
    refused(plain.adapters, plain.placements, "1 of 4, 4 of 4", unequal, ends)
    with pytest.raises(ModuleFileError, match=r"name='a\.b'"):
        _write(plain, tmp_path / "hub", model, name="a.b")
    with pytest.raises(ModuleFileError, match="belongs to base model 'tiny' with hash other"):
        _write(_module(model, base_hash="other"), tmp_path / "hub", model)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    for step in range(3):  # each of the two files, and the name
        calls = iter(range(9))

        def fails(*_: object, calls: Any = calls, step: int = step) -> None:
            if next(calls) == step:
                raise OSError("no space left")

        with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
            patch.setattr(os, "fsync", fails)
            patch.setattr(Path, "replace", fails)
            _write(_module(model), tmp_path / "hub", model)
        assert not list(tmp_path.iterdir())


def test_nothing_that_is_there_is_overwritten(golden: Path) -> None:
    model = _model()
    before = {path.name: path.read_bytes() for path in golden.iterdir()}
    with pytest.raises(ModuleFileError, match="not an empty folder"):
        _write(_module(model), golden, model)
    assert {path.name: path.read_bytes() for path in golden.iterdir()} == before
    with pytest.raises(ModuleFileError, match="not an empty folder"):
        _write(_module(model), golden / "adapter_config.json", model)
    (golden / "empty").mkdir()
    _write(_module(model), golden / "empty", model)
    assert _same(_read(golden / "empty", model), _module(model))


def test_a_reduction_factor_makes_exactly_the_size_asked_for() -> None:
    for inputs in range(1, 70):
        for inner in range(1, 140):
            assert int(inputs // factor_for([(inputs, inner)])) == inner
    assert factor_for([(768, 48)]) == 16 and isinstance(factor_for([(768, 48)]), int)
    assert factor_for([(384, 192), (385, 192)]) == 2
    with pytest.raises(ValueError, match="1 of 4, 4 of 4"):
        factor_for([(4, 1), (4, 4)])
