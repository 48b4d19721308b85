import dataclasses
import json
import math
import os
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from xlt.modules import (
    Entries,
    LowRankDelta,
    ModuleFileError,
    ModuleHeader,
    SparseDelta,
    check_base,
    load_module,
    module_file,
)
from xlt.modules import artefact as artefact_file
from xlt.modules.module_file import read_module_file, write_module_file


def _same(one: SparseDelta, other: SparseDelta) -> bool:
    """Equal in everything that a module says and does, types and bits included."""

    def plain(module: SparseDelta) -> list[object]:
        def bits(tensor: torch.Tensor | None) -> object:
            if tensor is None:
                return None
            content = bytes(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""
            return str(tensor.dtype), tuple(tensor.shape), content

        entries = {name: (tuple(e.shape), bits(e.indices), bits(e.values)) for name, e in module.entries.items()}
        return [dataclasses.asdict(module.header), entries, {name: bits(t) for name, t in module.tensors.items()}]

    return plain(one) == plain(other)


@pytest.fixture
def small(header: Callable) -> SparseDelta:
    """Each part of the format once: small and large gaps, every entry, a head, text beyond ASCII."""
    return SparseDelta(
        header(language="fao", task="pos", fingerprint="f" * 16, provenance={"texts": ["Føroya", 3, None]}),
        {
            "backbone.a": Entries(torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 900]), torch.randn(10), (50, 20)),
            "backbone.b": Entries(None, torch.randn(6), (2, 3)),
            "backbone.c": Entries(torch.empty(0, dtype=torch.int64), torch.empty(0), (4,)),
        },
        {"head.weight": torch.randn(2, 3), "head.scale": torch.tensor(2.5, dtype=torch.bfloat16)},
    )


@pytest.fixture
def file(small: SparseDelta, tmp_path: Path) -> Path:
    path = tmp_path / "module.safetensors"
    small.save(path)
    return path


def _refusal(path: Path, load: Callable = load_module) -> str:
    with pytest.raises(ModuleFileError) as error:
        load(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


def test_a_file_gives_its_tensors_in_the_order_of_their_names(tmp_path: Path) -> None:
    """safetensors alone gives them in an order that differs between processes, which then sum different ones."""
    write_module_file(tmp_path / "file", {}, {f"tensor{number}": torch.zeros(2) for number in range(20)})
    names = list(read_module_file(tmp_path / "file")[1])
    assert names == sorted(names) and len(names) == 20


def test_a_module_comes_back_from_its_file_bit_for_bit(small: SparseDelta, file: Path) -> None:
    assert _same(load_module(file), small)
    assert _same(SparseDelta.load(str(file)), small)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_values_are_stored_in_the_chosen_dtype(small: SparseDelta, tmp_path: Path, dtype: torch.dtype) -> None:
    small.save(tmp_path / "m", value_dtype=dtype)
    loaded = SparseDelta.load(tmp_path / "m")
    for name, entries in small.entries.items():
        assert loaded.entries[name].values.dtype == dtype
        assert torch.equal(loaded.entries[name].values, entries.values.to(dtype))
    assert loaded.tensors["head.weight"].dtype == torch.float32


def test_a_value_too_large_for_the_chosen_dtype_is_refused(header: Callable, tmp_path: Path) -> None:
    delta = SparseDelta(header(), {"a": Entries(torch.tensor([0]), torch.tensor([1e5]), (2,))})
    with pytest.raises(ValueError, match=r"'a'.*torch\.float16"):
        delta.save(tmp_path / "m", value_dtype=torch.float16)
    with pytest.raises(ValueError, match=r"value_dtype=torch\.int8"):
        delta.save(tmp_path / "m", value_dtype=torch.int8)
    assert list(tmp_path.iterdir()) == []


def test_two_hundred_flipped_bits_are_each_noticed(small: SparseDelta, file: Path, tmp_path: Path) -> None:
    data, dice = file.read_bytes(), random.Random(3)
    damaged, refused = tmp_path / "damaged", 0
    for position in dice.sample(range(8 * len(data)), 200):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        damaged.write_bytes(changed)
        try:
            assert _same(SparseDelta.load(damaged), small)  # only where the flip says the same, e.g. in JSON escapes
        except ModuleFileError:
            refused += 1
    assert refused >= 195


def test_a_file_cut_anywhere_is_refused(file: Path, tmp_path: Path) -> None:
    data, cut = file.read_bytes(), tmp_path / "cut"
    for length in [*range(1, 40), *range(40, len(data), 37), len(data) - 1]:
        cut.write_bytes(data[:length])
        _refusal(cut)
    cut.write_bytes(data + b"\0")
    _refusal(cut)


def test_missing_empty_and_folder_are_each_said(tmp_path: Path) -> None:
    assert "no such file" in _refusal(tmp_path / "absent")
    (tmp_path / "empty").touch()
    assert "is empty" in _refusal(tmp_path / "empty")
    assert "is a folder" in _refusal(tmp_path)


class _Bomb:
    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self._target,)


def test_pickles_are_refused_and_never_run(tmp_path: Path) -> None:
    exploded = tmp_path / "exploded"
    torch.save({"bomb": _Bomb(exploded)}, tmp_path / "zip")
    (tmp_path / "raw").write_bytes(pickle.dumps(_Bomb(exploded)))
    (tmp_path / "old").write_bytes(pickle.dumps(_Bomb(exploded), protocol=0))
    assert "torch.save" in _refusal(tmp_path / "zip") and "never unpickled" in _refusal(tmp_path / "zip")
    assert "is a pickle, which is never unpickled" in _refusal(tmp_path / "raw")
    assert "not a safetensors file" in _refusal(tmp_path / "old")
    assert not exploded.exists()


def test_other_safetensors_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"
    for metadata in (None, {"format": "pt"}):
        safetensors.torch.save_file({"a": torch.ones(2)}, path, metadata=metadata)
        assert "without the header of a module" in _refusal(path)
    for text in ("", "[]", "{}", "3", '{"checksum": 1}', "[" * 100_000):
        safetensors.torch.save_file({"a": torch.ones(2)}, path, metadata={"xlt": text})
        assert "header is damaged" in _refusal(path) or "checksum" in _refusal(path)


def _rewritten(file: Path, header_changes: dict, drop: tuple[str, ...] = (), **more: torch.Tensor) -> None:
    """Changes a module file as somebody would who computes the checksum again."""
    header, tensors = read_module_file(file)
    header.update(header_changes)
    kept = {name: tensor for name, tensor in tensors.items() if name not in drop}
    write_module_file(file, header, {**kept, **more})


def test_a_newer_format_asks_for_a_newer_xlt(file: Path) -> None:
    _rewritten(file, {"format_version": 2})
    assert "format_version 2" in _refusal(file)


def test_an_unknown_kind_lists_the_known_ones(file: Path) -> None:
    _rewritten(file, {"kind": "novelty"})
    assert re.search("unknown kind 'novelty'; this xlt reads .*sparse_delta", _refusal(file))


def test_headers_and_tensors_that_disagree_are_refused(file: Path) -> None:
    original = file.read_bytes()
    name = "backbone.a"
    for header, drop, more in [
        ({"language": "faroese"}, (), {}),
        ({"surprise": 1}, (), {}),
        ({"base_hash": ""}, (), {}),
        ({"layout": None}, (), {}),
        ({"layout": {"entries": {name: [3]}}}, (), {}),
        ({"layout": {"entries": {name: "x"}}}, (), {}),
        ({}, (f"values:{name}",), {}),
        ({}, (f"escapes:{name}",), {}),
        ({}, (), {f"values:{name}": torch.full((10,), float("nan"))}),
        ({}, (), {f"escapes:{name}": torch.tensor([-(2**62)])}),
        ({}, (), {"stray": torch.ones(1)}),
    ]:
        file.write_bytes(original)
        _rewritten(file, header, drop, **more)
        _refusal(file)


class _OtherKind(artefact_file.ModuleArtefact):
    kind = "other_for_tests"

    def __init__(self, header: ModuleHeader) -> None:
        self.header = header

    def check(self, model: nn.Module) -> None: ...

    def write_into(self, model: nn.Module) -> Callable[[], None]:
        return lambda: None

    def to_tensors(self, value_dtype: torch.dtype | None) -> tuple[dict, dict]:
        return {}, {"nothing": torch.zeros(1)}

    @classmethod
    def from_tensors(cls, header: ModuleHeader, layout: object, tensors: object) -> "_OtherKind":
        return cls(header)


def test_a_new_kind_is_found_by_its_class_and_refused_by_another(header: Callable, tmp_path: Path) -> None:
    path = tmp_path / "m"
    _OtherKind(header(kind="other_for_tests")).save(path)
    assert isinstance(load_module(path), _OtherKind)
    assert "kind 'other_for_tests', expected 'sparse_delta'" in _refusal(path, SparseDelta.load)


def test_a_module_of_another_base_model_is_refused(small: SparseDelta, file: Path) -> None:
    check_base(small.header, "b1", file)
    assert "base model 'small' with hash b1, but the model in use has hash b2" in _refusal(
        file, lambda path: check_base(small.header, "b2", path)
    )


@pytest.mark.parametrize("step", ["save_file", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    small: SparseDelta, file: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    old = file.read_bytes()

    def fail(*args: object, **_: object) -> None:
        if step == "save_file":
            Path(str(args[1])).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    owner = {"save_file": safetensors.torch, "fsync": module_file.os, "replace": Path}[step]
    monkeypatch.setattr(owner, step, fail)
    with pytest.raises(OSError, match="No space left"):
        small.save(file, value_dtype=torch.float16)
    monkeypatch.undo()
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == old


def test_a_disk_that_is_really_full_leaves_nothing(tmp_path: Path) -> None:
    script = """
import resource, signal, sys, torch
from xlt.modules import Entries, ModuleHeader, SparseDelta
header = ModuleHeader(kind="sparse_delta", method="m", base_model="b", base_hash="h")
delta = SparseDelta(header, {"a": Entries(None, torch.ones(100_000), (100_000,))})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    delta.save(sys.argv[1] + "/module")
except OSError as error:
    print("failed", error)
"""
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout.startswith(f"failed {tmp_path}/module: cannot be written")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist_is_said(small: SparseDelta, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent/m: cannot be written"):
        small.save(tmp_path / "absent" / "m")


def test_tensors_that_share_memory_or_are_not_contiguous_are_stored(header: Callable, tmp_path: Path) -> None:
    base = torch.arange(6.0).view(2, 3)
    delta = SparseDelta(header(), {}, {"head.a": base, "head.b": base[:1], "head.c": base.t()})
    delta.save(tmp_path / "m")
    loaded = SparseDelta.load(tmp_path / "m")
    assert loaded.tensors["head.b"].tolist() == [[0, 1, 2]]
    assert loaded.tensors["head.c"].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    "change",
    [
        {"language": "fo"},
        {"language": "FAO"},
        {"language": "fao_latn"},
        {"language": "fao-Latn"},
        {"language": "fao_Latn_x"},
        {"task": ""},
        {"kind": ""},
        {"method": None},
        {"base_hash": 3},
        {"provenance": []},
        {"format_version": "1"},
    ],
)
def test_headers_refuse_what_is_no_name(header: Callable, change: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        header(**change)


def test_the_header_of_a_variety_says_its_script(header: Callable, tmp_path: Path) -> None:
    SparseDelta(header(language="ace_Arab"), {}, {"head": torch.ones(1)}).save(tmp_path / "m")
    loaded = load_module(tmp_path / "m")
    assert loaded.header.language == "ace_Arab" and "language=ace_Arab" in str(loaded)


def test_provenance_must_be_json(header: Callable, tmp_path: Path) -> None:
    for provenance in ({"a": {1, 2}}, {"a": float("nan")}):
        with pytest.raises(ValueError, match="JSON values only"):
            SparseDelta(header(provenance=provenance), {}).save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_the_header_is_readable_without_xlt(file: Path) -> None:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["xlt"])
    assert (header["kind"], header["language"], header["format_version"]) == ("sparse_delta", "fao", 1)


@pytest.fixture(autouse=True)
def _nothing_left_of_temporary_files(tmp_path: Path) -> Iterator[None]:
    yield
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


_BAD_VALUES = {
    "NaN": torch.tensor([1.0, math.nan]),
    "infinity": torch.tensor([1.0, -math.inf]),
    "int64": torch.tensor([1, 2]),
    "bool": torch.tensor([True, False]),
    "float8": torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn),
    "complex": torch.tensor([1.0, 2.0], dtype=torch.complex64),
}
_BOTTLENECK = {"down.weight": (1, 2), "down.bias": (1,), "up.weight": (2, 1), "up.bias": (2,)}


def _stored(kind: str, bad: torch.Tensor) -> dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]]:
    """Where the values stand -> layout and tensors of a module of this kind."""
    ones = torch.ones(2)
    parts = {name: torch.ones(shape) for name, shape in _BOTTLENECK.items()}
    adapter = {f"adapter:a:{name}": tensor for name, tensor in parts.items()}
    sites = {"sites": {"a": {"placement": "norm", "activation": "relu"}}, "invertible": None}
    generator = {
        "weight": torch.ones(4, 1), "embed": torch.ones(1, 2), "table": torch.zeros(1, 1, dtype=torch.uint8),
    }  # fmt: skip
    languages = {"sites": {"a": "norm"}, "activation": "relu", "hidden_size": 2, "features": ["x", "y"],
                 "codes": ["fao"]}  # fmt: skip
    return {
        "sparse_delta": {
            "whole": ({"entries": {}}, {"whole:a": bad}),
            "values": ({"entries": {"a": [2]}}, {"values:a": bad}),
        },
        "low_rank": {
            "whole": ({"scale": 1.0}, {"whole:a": bad}),
            "factor a": ({"scale": 1.0}, {"a:w": bad[None], "b:w": torch.ones(2, 1)}),
            "factor b": ({"scale": 1.0}, {"a:w": torch.ones(1, 2), "b:w": bad[:, None]}),
        },
        "rescaling": {
            "whole": ({"sizes": {}}, {"whole:a": bad}),
            "factor": ({"sizes": {"a": [2]}}, {"factor:a": bad}),
        },
        "adapter": {
            "whole": (sites, {**adapter, "whole:a": bad}),
            "bias": (sites, {**adapter, "adapter:a:up.bias": bad}),
            "first": (sites, {**adapter, "adapter:a:down.weight": bad[None]}),
        },
        "generator": {
            "embeddings": (languages, {**generator, "embed": bad[None]}),
            "weight": (languages, {**generator, "weight": torch.cat((bad, bad))[:, None]}),
            "table": (languages, {**generator, "table": ones[:1, None]}),
        },
    }[kind]


@pytest.mark.parametrize("value", _BAD_VALUES)
@pytest.mark.parametrize("kind", ["sparse_delta", "low_rank", "rescaling", "adapter", "generator"])
def test_values_that_no_model_may_get_are_refused_wherever_they_stand(
    kind: str, value: str, header: Callable[..., ModuleHeader], tmp_path: Path
) -> None:
    for where, (layout, tensors) in _stored(kind, torch.ones(2)).items():
        file = tmp_path / f"good {where}"
        write_module_file(file, {**dataclasses.asdict(header(kind=kind)), "layout": layout}, tensors)
        if where != "table":
            load_module(file)
    for where, (layout, tensors) in _stored(kind, _BAD_VALUES[value]).items():
        file = tmp_path / where
        write_module_file(file, {**dataclasses.asdict(header(kind=kind)), "layout": layout}, tensors)
        with pytest.raises(ModuleFileError, match=re.escape(str(file))):
            load_module(file)


@pytest.mark.parametrize("version", [0, -1, True, "1", None, 10**9])
def test_an_unknown_version_of_the_format_is_refused(
    version: object, header: Callable[..., ModuleHeader], tmp_path: Path
) -> None:
    raw = {**dataclasses.asdict(header()), "format_version": version, "layout": {"entries": {}}}
    write_module_file(tmp_path / "m", raw, {"whole:a": torch.ones(1)})
    with pytest.raises(ModuleFileError, match="format_version"):
        load_module(tmp_path / "m")
    del raw["format_version"]
    write_module_file(tmp_path / "m", raw, {"whole:a": torch.ones(1)})
    with pytest.raises(ModuleFileError, match="format_version"):
        load_module(tmp_path / "m")


def test_an_empty_module_is_refused(header: Callable[..., ModuleHeader], tmp_path: Path) -> None:
    none = Entries(torch.empty(0, dtype=torch.int32), torch.empty(0), (3,))
    for number, entries in enumerate(({}, {"a": none})):
        SparseDelta(header(), entries).save(tmp_path / f"{number}")
        with pytest.raises(ModuleFileError, match="empty"):
            load_module(tmp_path / f"{number}")


def test_a_pipe_is_no_module_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ModuleFileError, match="a pipe or a device"):
            load_module(path)


def test_buffers_and_integers_of_a_model_are_not_changed(header: Callable[..., ModuleHeader]) -> None:
    model = nn.Module()
    model.register_buffer("positions", torch.arange(3))
    model.register_buffer("table", torch.ones(3))
    model.register_parameter("packed", nn.Parameter(torch.ones(3, dtype=torch.uint8), requires_grad=False))
    for name, fault in (("positions", "no tensor"), ("table", "no tensor"), ("packed", "uint8")):
        for module in (
            SparseDelta(header(), {}, {name: torch.ones(3)}),
            SparseDelta(header(), {name: Entries(None, torch.ones(3), (3,))}),
            LowRankDelta(header(kind="low_rank"), {}, 1.0, {name: torch.ones(3)}),
        ):
            with pytest.raises(ValueError, match=fault):
                module.apply(model)
