"""Files are written here the way composable-sft writes them: sparse tensors, first dimension fastest, numpy head."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from xlt.modules import ModuleFileError, SparseDelta, read_composable_sft

QUERY = "encoder.layer.0.attention.self.query.weight"


def _coded(dense: torch.Tensor) -> dict:
    """As `encode_sparse_tensor` of the published code documents it, without its Python sort."""
    sparse = dense.to_sparse().coalesce()
    strides = np.cumprod([1, *dense.shape[:-1]], dtype=np.int64)
    flat = strides @ sparse.indices().numpy()
    order = np.argsort(flat)
    return {"size": dense.shape, "index_steps": _steps(flat[order]), "values": sparse.values()[torch.from_numpy(order)]}


def _steps(flat: np.ndarray) -> list:
    return [flat[0], *np.diff(flat).tolist()] if len(flat) else []


def _read(path: Path, **changes: object) -> SparseDelta:
    values: dict = {"base_model": "bert-base-multilingual-cased", "base_hash": "b1", "base_prefix": "bert"}
    return read_composable_sft(path, **{**values, **changes})


def _write(path: Path, content: object) -> Path:
    torch.save(content, path / "pytorch_diff.bin")
    return path / "pytorch_diff.bin"


def _sparse(*shape: int) -> torch.Tensor:
    return torch.randn(shape) * (torch.rand(shape) < 0.3)


def _dense(module: SparseDelta, name: str) -> torch.Tensor:
    entries = module.entries[name]
    dense = torch.zeros(entries.total)
    dense[entries.indices.long()] = entries.values
    return dense.view(entries.shape)


def test_a_worked_example_is_decoded_as_on_paper(tmp_path: Path) -> None:
    # 2 x 3, first dimension fastest: flat 1 is row 1, column 0; 1 + 3 = 4 is row 0, column 2. Row-major: 3 and 2.
    content = {
        "diffs": {
            "bert.a": {"size": torch.Size([2, 3]), "index_steps": [np.int64(1), 3], "values": torch.tensor([7.0, 9])}
        },
        "abs": {},
    }
    entries = _read(_write(tmp_path, content)).entries["backbone.a"]
    assert entries.indices.tolist() == [2, 3]
    assert entries.values.tolist() == [9, 7]


@pytest.mark.parametrize("shape", [(1,), (50,), (7, 11), (3, 4, 5), (2, 3, 4, 5), (1, 6, 1)])
def test_tensors_of_every_rank_come_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    dense = _sparse(*shape)
    module = _read(_write(tmp_path, {"diffs": {"bert.a": _coded(dense)}, "abs": {"classifier.bias": torch.ones(1)}}))
    assert torch.equal(_dense(module, "backbone.a"), dense)


def test_indices_above_2_to_the_31_are_decoded_right(tmp_path: Path) -> None:
    rows, columns = 70_000, 40_000
    places = [(3, 0), (69_999, 30_679), (0, 30_680), (69_999, 39_999)]
    flat = np.array([row + column * rows for row, column in places])
    coded = {"size": torch.Size([rows, columns]), "index_steps": _steps(flat), "values": torch.arange(1.0, 5)}
    entries = _read(_write(tmp_path, {"diffs": {"bert.a": coded}})).entries["backbone.a"]
    expected = sorted(
        (row * columns + column, value) for (row, column), value in zip(places, (1, 2, 3, 4), strict=True)
    )
    assert list(zip(entries.indices.tolist(), entries.values.tolist(), strict=True)) == expected


def test_names_are_mapped_and_the_header_says_where_it_came_from(tmp_path: Path) -> None:
    content = {
        "diffs": {f"roberta.{QUERY}": _coded(_sparse(4, 4)), "lm_head.dense.weight": _coded(_sparse(4, 4))},
        "abs": {"classifier.weight": torch.ones(2, 4), "cls.predictions.bias": nn.Parameter(torch.ones(3))},
    }
    module = _read(_write(tmp_path, content).parent, base_prefix="roberta", language="bam", task="pos")
    assert set(module.entries) == {f"backbone.{QUERY}", "lm_head.dense.weight"}
    assert set(module.tensors) == {"head.classifier.weight", "lm_head.predictions.bias"}
    assert (module.header.method, module.header.language, module.header.task) == ("lt_sft", "bam", "pos")
    assert module.header.provenance["imported_from"] == "cambridgeltl/composable-sft"
    with pytest.raises(ModuleFileError, match=r"no name begins with 'bert'.*check base_prefix"):
        _read(tmp_path, base_prefix="bert")


def test_an_imported_module_does_to_a_model_what_the_publisher_does(
    tagger: nn.Module, tmp_path: Path, snapshot: Callable, same_bits: Callable
) -> None:
    dense = _sparse(32, 32)
    content = {"diffs": {f"bert.{QUERY}": _coded(dense)}, "abs": {"cls.predictions.bias": torch.ones(300)}}
    module = _read(_write(tmp_path, content))
    before = snapshot(tagger)
    module.apply(tagger)
    assert torch.equal(tagger.get_parameter(f"backbone.{QUERY}"), before[f"backbone.{QUERY}"] + dense)
    module.remove(tagger)
    assert same_bits(tagger, before)
    module.save(tmp_path / "again")
    assert torch.equal(_dense(SparseDelta.load(tmp_path / "again"), f"backbone.{QUERY}"), dense)


def test_the_earlier_key_names_are_read(tmp_path: Path) -> None:
    content = {"body": {"bert.a": _coded(_sparse(5, 5))}, "head": {"classifier.bias": torch.ones(2)}}
    module = _read(_write(tmp_path, content))
    assert set(module.entries) == {"backbone.a"} and set(module.tensors) == {"head.classifier.bias"}
    assert set(_read(_write(tmp_path, {**content, "head": None})).entries) == {"backbone.a"}


class _Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable, *args: object) -> None:
        self._call = (function, args)

    def __reduce__(self) -> tuple:
        return self._call


@pytest.mark.parametrize("where", ["top", "step", "name", "abs"])
def test_a_malicious_pickle_is_refused_and_never_run(tmp_path: Path, where: str) -> None:
    exploded = tmp_path / "exploded"
    bomb = _Call(os.mkdir, str(exploded))
    pickle.loads(pickle.dumps(bomb))  # a plain unpickler runs it
    exploded.rmdir()
    coded = _coded(_sparse(5, 5))
    content = {
        "top": bomb,
        "step": {"diffs": {"bert.a": {**coded, "index_steps": [bomb]}}},
        "name": {"diffs": {"bert.a": coded}, "extra": bomb},
        "abs": {"diffs": {"bert.a": coded}, "abs": {"classifier.bias": bomb}},
    }[where]
    with pytest.raises(ModuleFileError, match=r"asks for posix\.mkdir, which such a file does not need") as error:
        _read(_write(tmp_path, content))
    assert "\n" not in str(error.value)
    assert not exploded.exists()


@pytest.mark.parametrize("function", [eval, exec, getattr, print, __import__, torch.load, np.load])
def test_no_function_but_those_of_tensors_is_reached(tmp_path: Path, function: Callable) -> None:
    with pytest.raises(ModuleFileError, match="asks for"):
        _read(_write(tmp_path, {"diffs": _Call(function, "1")}))


def test_the_stand_ins_cannot_be_changed_from_a_pickle(tmp_path: Path) -> None:
    # protocol 2: load collections.OrderedDict, then try to set attributes on what came back
    for state in (b"}U\x01aK\x01s", b"N}U\x0c__defaults__)s\x86"):
        with zipfile.ZipFile(tmp_path / "f", "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02ccollections\nOrderedDict\n" + state + b"b.")
        with pytest.raises(ModuleFileError, match="changes a function"):
            _read(tmp_path / "f")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ([1], "a dict"),
        ({}, "neither differences nor tensors"),
        ({"diffs": [1]}, "not a dict of names"),
        ({"diffs": {"bert.a": torch.ones(2)}}, "bert.a.*index_steps"),
        ({"diffs": {"bert.a": {"size": torch.Size([2]), "index_steps": [0], "values": 3}}}, "not a tensor"),
        ({"diffs": {"bert.a": {"size": torch.Size([2]), "index_steps": [0, 2], "values": torch.ones(2)}}}, "range"),
        ({"diffs": {"bert.a": {"size": torch.Size([2]), "index_steps": [-1], "values": torch.ones(1)}}}, "range"),
        ({"diffs": {"bert.a": {"size": torch.Size([9]), "index_steps": [3, 0], "values": torch.ones(2)}}}, "ascending"),
        ({"diffs": {"bert.a": {"size": torch.Size([9]), "index_steps": [3], "values": torch.ones(2)}}}, "1 indices"),
        ({"diffs": {"bert.a": {"size": torch.Size([9]), "index_steps": ["x"], "values": torch.ones(1)}}}, "expected"),
    ],
)
def test_contents_that_make_no_sense_are_refused(tmp_path: Path, content: object, fault: str) -> None:
    with pytest.raises(ModuleFileError, match=fault):
        _read(_write(tmp_path, content))


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, {"diffs": {"bert.a": _coded(_sparse(9, 9))}})
    data = path.read_bytes()
    where = data.index(b"bert.a") + 2
    for changed in (data[:-100], b"", b"\x80\x02}.", data[:where] + b"!" + data[where + 1 :]):
        path.write_bytes(changed)
        with pytest.raises(ModuleFileError, match=r"expected a pytorch_diff\.bin"):
            _read(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    with pytest.raises(ModuleFileError, match="compressed"):
        _read(path)
    with pytest.raises(ModuleFileError, match="there is no such file"):
        _read(tmp_path / "absent")
    torch.save({}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ModuleFileError, match="not a zip archive"):
        _read(path)


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, {"abs": {"classifier.bias": torch.ones(4)}})
    with zipfile.ZipFile(path) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    stored = next(name for name in files if name.endswith("/data/0"))
    files[stored] = files[stored][:8]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with pytest.raises(ModuleFileError, match="reaches to entry 3 of a storage of 2"):
        _read(path)
