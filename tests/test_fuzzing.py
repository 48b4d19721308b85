"""Random changes of what users get from others: module files, archives, adapters, data and configs.

The suite has a few cases of each; the slow tests search for `XLT_FUZZ_SECONDS` (60) each, from `XLT_FUZZ_SEED`.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import random
import resource
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.fuzzing import SEED, fault_of, mutated, mutated_json, search
from tests.runs.test_damaged_commands import call
from tests.source_configs import source_config
from tests.xlt.modules.adapter_hub_files import make_module, read, tiny_model, write
from xlt.commands import cli
from xlt.data.sources import read_source
from xlt.errors import UsageError
from xlt.models.transfer import TransferModel
from xlt.modules import (
    Entries,
    Feature,
    FeatureMixture,
    LowRankDelta,
    ModuleFileError,
    ModuleHeader,
    SparseDelta,
    load_module,
    read_composable_sft,
)
from xlt.modules.low_rank import Rescaling
from xlt.modules.module_file import read_module_file, write_module_file

Case = Callable[[], object]
Make = Callable[[random.Random], Case]
_WEIGHT = "backbone.encoder.layer.0.attention.self.query.weight"


def _modules(folder: Path) -> list[Path]:
    """Module files of all kinds, for the tiny BERT."""
    about = {"base_model": "tiny", "base_hash": "hash", "task": "pos", "fingerprint": "f" * 32}

    def header(kind: str) -> ModuleHeader:
        return ModuleHeader(kind=kind, method="x", provenance={"labels": ["a", "b"]}, **about)

    query, head = torch.Size([8, 8]), {"head.weight": torch.ones(2, 8)}
    a, b = torch.ones(2, 8), torch.ones(8, 2)
    stacked = {_WEIGHT: {"language": (torch.ones(2, 2, 8), torch.ones(2, 8, 2))}}
    modules = [
        SparseDelta(header("sparse_delta"), {_WEIGHT: Entries(torch.tensor([0, 5, 63]), torch.ones(3), query)}, head),
        SparseDelta(header("sparse_delta"), {_WEIGHT: Entries(None, torch.ones(64), query)}, {}),
        LowRankDelta(header("low_rank"), {_WEIGHT: (a, b)}, 0.5, head),
        Rescaling(header("rescaling"), {_WEIGHT: torch.ones(8, 1)}, {_WEIGHT: (8, 8)}),
        FeatureMixture(header("feature_mixture"), [Feature("language", 2, ("deu", "eng"))], stacked),
        make_module(tiny_model(), inner=(2, 2)),
    ]
    files = []
    for number, module in enumerate(modules):
        files.append(folder / f"{number}.safetensors")
        module.save(files[-1])
    return files


def _used(file: Path, model: TransferModel) -> None:
    """Reads a module and, if it is taken, writes it into a model and removes it: nothing of it may stay there."""
    module = load_module(file)
    before = _state(model)
    with contextlib.suppress(ValueError):  # it may not fit this model
        undo = module.write_into(model)
        undo()
    after = _state(model)
    assert before.keys() == after.keys(), "the model has other parameters"
    assert all(torch.equal(before[name], after[name]) for name in before), "the model has other weights"


@torch.no_grad()
def _state(model: TransferModel) -> dict[str, Tensor]:
    """The parameters of a model and what it computes, which other networks in it would change."""
    ids = torch.arange(4)[None]
    states = model.encode(ids, torch.ones_like(ids))
    logits = model.lm_head(states) if model.lm_head is not None else states
    return {"states": states, "logits": logits, **{name: p.detach().clone() for name, p in model.named_parameters()}}


def _module_files(folder: Path) -> Make:
    files = _modules(folder)
    raw = [file.read_bytes() for file in files]
    parts = [read_module_file(file) for file in files]
    model = tiny_model()
    for file in files:
        _used(file, model)

    def make(draw: random.Random) -> Case:
        number, target = draw.randrange(len(files)), folder / "changed.safetensors"
        if draw.random() < 0.3:
            target.write_bytes(mutated(raw[number], draw, raw))
            return lambda: _used(target, model)
        header, tensors = parts[number]
        header = mutated_json(header, draw) if draw.random() < 0.7 else header
        tensors = _other_tensors(tensors, draw) if draw.random() < 0.6 else tensors
        try:  # with a right checksum, as a stranger could write it
            write_module_file(target, header, tensors)
        except (ValueError, TypeError, AttributeError, KeyError):
            return lambda: None
        return lambda: _used(target, model)

    return make


def _other_tensors(tensors: dict[str, Tensor], draw: random.Random) -> dict[str, Tensor]:
    changed = dict(tensors)
    name = draw.choice(list(changed))
    tensor = changed[name]
    kind = draw.randrange(9)
    if kind == 0:
        del changed[name]
    elif kind == 1:
        changed[draw.choice((f"{name}x", "whole:head", "x", "values:", f"whole:{_WEIGHT}"))] = changed.pop(name)
    elif kind == 2:
        changed[name] = tensor.to(draw.choice((torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool)))
    elif kind == 3:
        changed[name] = tensor.reshape(-1)[: draw.randrange(tensor.numel() + 1)]
    elif kind == 4:
        changed[name] = tensor[None]
    elif kind == 5 and tensor.is_floating_point() and tensor.numel():
        changed[name] = tensor.clone()
        changed[name].view(-1)[0] = draw.choice((float("nan"), float("inf"), 1e38, -1e38))
    elif kind == 6 and not tensor.is_floating_point() and tensor.numel():
        changed[name] = tensor.clone()
        largest = torch.iinfo(tensor.dtype).max if tensor.dtype != torch.bool else 1
        changed[name].view(-1)[draw.randrange(tensor.numel())] = draw.choice((0, 1, largest // 2, largest))
    elif kind == 7:
        changed[name] = tensor.new_zeros(0)
    else:
        changed[name] = torch.cat([tensor, tensor])
    return changed


def _saved(content: object, zipped: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def _rezipped(raw: bytes, draw: random.Random) -> bytes:
    """An archive with a changed member, whose checksums are right."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(result, "w") as new:
        chosen = draw.choice(old.namelist())
        for name in old.namelist():
            data = old.read(name)
            if name == chosen or (name.endswith("data.pkl") and draw.random() < 0.7):
                data = mutated(data, draw)
            new.writestr(name if draw.random() < 0.98 else f"{name}x", data)
            if draw.random() < 0.02:
                new.writestr(name, data)
    return result.getvalue()


def _diff_content() -> dict[str, Any]:
    sparse = {"size": torch.Size([8, 8]), "index_steps": [3, 4, 50], "values": torch.ones(3)}
    return {"diffs": {f"bert.{_WEIGHT.removeprefix('backbone.')}": sparse}, "abs": {"classifier.bias": torch.ones(2)}}


def _archives(folder: Path) -> Make:
    raw, file, model = _saved(_diff_content(), True), folder / "pytorch_diff.bin", tiny_model()

    def use() -> None:
        about = {"base_model": "tiny", "base_hash": "hash", "base_prefix": "bert", "task": "pos"}
        module = read_composable_sft(file, **about)
        with contextlib.suppress(ValueError):
            module.check(model)

    file.write_bytes(raw)
    use()

    def make(draw: random.Random) -> Case:
        if draw.random() < 0.2:
            content: Any = _diff_content()
            part = next(iter(content["diffs"].values()))
            key = draw.choice(list(part))
            part[key] = mutated_json({"a": [3, 4, 50], "b": 8}, draw)
            data = _saved(content, True)
        else:
            data = mutated(raw, draw) if draw.random() < 0.3 else _rezipped(raw, draw)
        file.write_bytes(data)
        return use

    return make


def _adapters(folder: Path) -> Make:
    model = tiny_model()
    write(make_module(model, inner=(2, 2)), folder / "hub", model)
    config = json.loads((folder / "hub" / "adapter_config.json").read_text(encoding="utf-8"))
    (weights,) = (path for path in (folder / "hub").iterdir() if path.name != "adapter_config.json")
    tensors = _tensors_of(weights)
    raw = {zipped: _saved(tensors, zipped) for zipped in (True, False)}
    read(folder / "hub", model)
    safe = weights.read_bytes() if weights.suffix == ".safetensors" else raw[True]

    def make(draw: random.Random) -> Case:
        target = folder / "changed"
        target.mkdir(exist_ok=True)
        for file in target.iterdir():
            file.unlink()
        text = json.dumps(mutated_json(config, draw) if draw.random() < 0.5 else config).encode()
        (target / "adapter_config.json").write_bytes(text if draw.random() < 0.8 else mutated(text, draw))
        kind = draw.randrange(4)
        if kind == 0 and weights.suffix == ".safetensors":
            (target / weights.name).write_bytes(mutated(safe, draw))
        else:
            data = raw[kind != 1]
            changed = _rezipped(data, draw) if kind == 2 else mutated(data, draw)
            (target / "pytorch_adapter.bin").write_bytes(changed if draw.random() < 0.8 else data)
        return lambda: read(target, model)

    return make


def _tensors_of(weights: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(weights) if weights.suffix == ".safetensors" else torch.load(weights, weights_only=True)


_CONLLU = "# text = a b\n1\ta\t_\tDET\t_\t_\t2\tdet\t_\t_\n2\tb\t_\tNOUN\t_\t_\t0\troot\t_\t_\n\n" * 3
_SQUAD = {"data": [{"title": "t", "paragraphs": [{"context": "a b c", "qas": [
    {"id": "1", "question": "b?", "answers": [{"text": "b", "answer_start": 2}]}]}]}]}  # fmt: skip
READERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "conllu": ("x-ud-train.conllu", _CONLLU, {}),
    "conll": ("train.txt", "a B-PER\nb O\n\nc O\nd B-LOC\n\n", {"fields": {"words": "0", "ner": "1"}}),
    "tsv": ("train.tsv", "text\tlabel\na b\tpos\nc d\tneg\n", {"fields": {"text": "text", "label": "label"}}),
    "csv": ("train.csv", 'text,label\n"a, b",pos\nc d,neg\n', {"fields": {"text": "text", "label": "label"}}),
    "jsonl": ("train.jsonl", '{"text": "a b", "label": "pos"}\n{"text": "c", "label": "neg"}\n',
              {"fields": {"text": "text", "label": "label"}}),
    "squad": ("train.json", json.dumps(_SQUAD), {}),
    "text": ("train.txt", "a b c\nd e f\n\ng h\n", {}),
}  # fmt: skip


def _data(folder: Path) -> Make:
    seeds = [text.encode() for _, text, _ in READERS.values()]
    for reader, (name, text, changes) in READERS.items():
        (folder / name).write_text(text, encoding="utf-8")
        assert list(read_source("data.sources.x", source_config(reader, "eng", str(folder / name), **changes), 1))

    def make(draw: random.Random) -> Case:
        reader = draw.choice(list(READERS))
        name, text, changes = READERS[reader]
        raw = mutated(text.encode(), draw, seeds)
        packed = draw.random() < 0.15
        if packed:
            raw = gzip.compress(raw, mtime=0)
            raw = mutated(raw, draw) if draw.random() < 0.5 else raw
        file = folder / reader / (f"{name}.gz" if packed else name)
        file.parent.mkdir(exist_ok=True)
        for other in file.parent.iterdir():
            other.unlink()
        file.write_bytes(raw)
        source = source_config(reader, "eng", str(file), **changes)

        def use() -> None:
            for example in read_source("data.sources.x", source, 1):
                assert example.text is not None or example.words is not None

        return use

    return make


_YAML = """\
# @package _global_
defaults:
  - /source@data.sources.eng: ud_eng
  - /source@data.validation.eng: ud_eng
  - override /method: bitfit
  - override /recipe: nano_distil
  - _self_
experiment_name: right
task: {max_length: 40}
data:
  validation: {eng: {split: dev}}
train: {max_steps: 2, learning_rate: 1.0e-3, evaluate_every_steps: 1}
seed: 1
"""
_WORDS = (
    *("method=lt_sft", "method.density=0.05", "train.max_steps=10", "seed=3", "data.sources.eng.cap=20"),
    *("~data.sources.eng", "+source@data.sources.fao=ud_fao", "+language_modules.paths.fao=x.st", "tracker=silent"),
    *("data.sources.eng.where={label: {not: [a]}}", "train.learning_rate=1e-3", "model.path=x", "task.max_length=64"),
)


def _configs(folder: Path) -> Make:
    experiments = folder / "experiment"
    experiments.mkdir(exist_ok=True)
    right = ["experiment=changed", f"output_dir={folder / 'out'}", f"data_dir={folder}", "model=nano_random"]

    def use(words: list[str]) -> None:
        ended = call(cli.main, f"--config-dir={folder}", *(word for word in words if "\0" not in word))
        if ended.raised or ended.code == 1:
            raise RuntimeError(ended.raised or ended.err)
        lines = ended.err.splitlines()
        if ended.code and not all(line.startswith("xlt: ") for line in lines):
            raise RuntimeError(f"ends with {ended.code} and {lines}")

    (experiments / "changed.yaml").write_text(_YAML, encoding="utf-8")
    use([*right, "method=lt_sft", "seed=3"])

    def make(draw: random.Random) -> Case:
        words = list(right)
        text = _YAML.encode()
        if draw.random() < 0.6:
            text = mutated(text, draw)
        else:
            chosen = draw.sample(_WORDS, draw.choice((1, 2, 3)))
            words += [mutated(word.encode(), draw).decode("utf-8", "surrogateescape") for word in chosen]
        (experiments / "changed.yaml").write_bytes(text)
        return lambda: use(words)

    return make


@dataclass(frozen=True)
class Kind:
    """What is changed: how cases are made, how they are refused, and how long one may take, in seconds of CPU time."""

    make: Callable[[Path], Make]
    refusal: type[Exception]
    seconds: float = 2
    few: int = 150


KINDS = {
    "module files": Kind(_module_files, ModuleFileError),
    "archives of composable-sft": Kind(_archives, ModuleFileError),
    "adapters of AdapterHub": Kind(_adapters, ModuleFileError),
    "data": Kind(_data, UsageError),
    # To find out which override is wrong, each is composed by itself.
    "configs": Kind(_configs, UsageError, seconds=15, few=3),
}


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    yield KINDS[request.param].make(tmp_path)


@pytest.mark.parametrize(("make", "kind"), [(kind, kind) for kind in KINDS], indirect=["make"], ids=list(KINDS))
def test_a_few_changed_files_are_taken_or_refused_in_a_line(make: Make, kind: str) -> None:
    _, faults = search(make, KINDS[kind].refusal, KINDS[kind].seconds, cases=KINDS[kind].few)
    assert not faults, "\n".join(faults)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "kind"), [(kind, kind) for kind in KINDS], indirect=["make"], ids=list(KINDS))
def test_changed_files_are_taken_or_refused_in_a_line(make: Make, kind: str) -> None:
    number, faults = search(make, KINDS[kind].refusal, KINDS[kind].seconds)
    print(f"{kind}: {number} cases from seed {SEED}, {len(faults)} kinds of faults")
    assert not faults, "\n".join(faults)


def test_what_is_neither_taken_nor_refused_in_a_line_is_named() -> None:
    def refuse(error: Exception) -> Case:
        def case() -> None:
            raise error

        return case

    assert fault_of(lambda: None, UsageError) is None
    assert fault_of(refuse(ModuleFileError("x", "y")), ModuleFileError) is None
    assert "one line" in str(fault_of(refuse(ValueError("a\nb")), ValueError))
    assert "one line" in str(fault_of(refuse(ValueError("")), ValueError))
    assert "ZeroDivisionError" in str(fault_of(lambda: 1 // 0, UsageError))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # bytes; only what is above it is seen
    assert "GB" in str(fault_of(lambda: bytearray(b"x") * (peak + 700_000_000), UsageError))
