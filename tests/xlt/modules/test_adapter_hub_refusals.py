"""Files in AdapterHub's format that are refused: pickles that call functions, unknown settings, damaged files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.xlt.modules.adapter_hub_files import (
    DOWN,
    GOLDEN,
    change_config,
    change_tensors,
    convert_to_early_config,
    make_module,
    read,
    tiny_model,
    write,
)
from xlt.modules import ModuleFileError


class _Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable, *args: object) -> None:
        self._call = (function, args)

    def __reduce__(self) -> tuple:
        return self._call


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_never_run(golden_adapter: Path, zipped: bool) -> None:
    exploded = golden_adapter / "exploded"
    tensors = {**load_file(golden_adapter / "adapter.safetensors"), "more": _Call(os.mkdir, str(exploded))}
    (golden_adapter / "adapter.safetensors").unlink()
    torch.save(tensors, golden_adapter / "pytorch_adapter.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModuleFileError, match=r"asks for posix\.mkdir, which such a file does not need") as error:
        read(golden_adapter)
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
    golden_adapter: Path, changes: dict[str, Any], fault: str
) -> None:
    change_config(golden_adapter, lambda content: content["config"].update(changes))
    with pytest.raises(ModuleFileError, match=fault) as error:
        read(golden_adapter)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(golden_adapter))


@pytest.mark.parametrize("absent", ["mh_adapter", "output_adapter", "reduction_factor", "non_linearity"])
def test_a_missing_setting_without_a_default_is_refused(golden_adapter: Path, absent: str) -> None:
    change_config(golden_adapter, lambda content: content["config"].pop(absent))
    with pytest.raises(ModuleFileError, match=rf"has no setting {absent}|{absent}=None"):
        read(golden_adapter)


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
def test_a_configuration_for_something_else_is_refused(
    golden_adapter: Path, changes: dict[str, Any], fault: str
) -> None:
    change_config(golden_adapter, lambda content: content.update(changes))
    with pytest.raises(ModuleFileError, match=fault):
        read(golden_adapter)


def test_the_early_gelu_is_another_function(golden_adapter: Path) -> None:
    def early(content: dict[str, Any], activation: str) -> None:
        convert_to_early_config(content)
        content["config"]["non_linearity"] = content["config"]["invertible_adapter"]["non_linearity"] = activation

    change_config(golden_adapter, lambda content: early(content, "gelu_orig") if "version" in content else None)
    assert {network.activation for network in read(golden_adapter).adapters.values()} == {"gelu"}
    change_config(
        golden_adapter, lambda content: content["config"].update(non_linearity="gelu", invertible_adapter=None)
    )
    with pytest.raises(ModuleFileError, match=r"non_linearity='gelu' \(now called gelu_new\)"):
        read(golden_adapter)


def test_an_adapter_for_another_number_of_blocks_is_refused(tmp_path: Path) -> None:
    large, small = tiny_model(num_hidden_layers=4), tiny_model(num_hidden_layers=2)
    write(make_module(large, sizes=(3,) * 4), tmp_path / "large", large)
    write(make_module(small, sizes=(3,) * 2), tmp_path / "small", small)
    with pytest.raises(ModuleFileError, match=r"block 3.*0 to 1"):
        read(tmp_path / "large", small)
    with pytest.raises(ModuleFileError, match=r"block 2.*leave_out"):
        read(tmp_path / "small", large)


def test_a_model_type_that_nobody_checked_is_refused(golden_adapter: Path, tmp_path: Path) -> None:
    model = tiny_model()
    module = make_module(model)
    model.backbone.config.model_type = "distilbert"  # type: ignore[union-attr]
    with pytest.raises(ModuleFileError, match="type 'distilbert' are not supported; supported: bert, roberta"):
        read(golden_adapter, model)
    with pytest.raises(ModuleFileError, match="type 'distilbert' are not supported"):
        write(module, tmp_path / "hub", model)


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
    golden_adapter: Path, change: Callable[[dict[str, Tensor]], object], fault: str
) -> None:
    change_tensors(golden_adapter, change)
    with pytest.raises(ModuleFileError, match=fault) as error:
        read(golden_adapter)
    assert str(error.value).startswith(str(golden_adapter / "adapter.safetensors"))


def test_damaged_and_missing_files_are_refused(golden_adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ModuleFileError, match=r"adapter_config\.json: there is no such file"):
        read(tmp_path / "absent")
    data = (golden_adapter / "adapter.safetensors").read_bytes()
    for changed in (data[:-10], data[:30], b""):
        (golden_adapter / "adapter.safetensors").write_bytes(changed)
        with pytest.raises(ModuleFileError, match=r"adapter\.safetensors: .*; expected a Pfeiffer or Houlsby adapter"):
            read(golden_adapter)
    (golden_adapter / "adapter.safetensors").unlink()
    with pytest.raises(ModuleFileError, match=r"pytorch_adapter\.bin: there is no such file"):
        read(golden_adapter)
    data = (GOLDEN / "pfeiffer_bin" / "pytorch_adapter.bin").read_bytes()
    for changed in (data[:-200], data[:30], b"", b"\x80\x02}."):
        (golden_adapter / "pytorch_adapter.bin").write_bytes(changed)
        with pytest.raises(ModuleFileError, match=r"pytorch_adapter\.bin: .*; expected a Pfeiffer or Houlsby adapter"):
            read(golden_adapter)
    for content, fault in (([1], "dict of tensors"), ({"a": 3}, "'a', which is not a tensor"), ({3: 3}, "contains 3")):
        torch.save(content, golden_adapter / "pytorch_adapter.bin")
        with pytest.raises(ModuleFileError, match=fault):
            read(golden_adapter)
    for text in ("", "{", "[1]", "\xff"):
        (golden_adapter / "adapter_config.json").write_text(text, encoding="latin1")
        with pytest.raises(ModuleFileError, match=r"adapter_config\.json: .*; expected a Pfeiffer or Houlsby adapter"):
            read(golden_adapter)
