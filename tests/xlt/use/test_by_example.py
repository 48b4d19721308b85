"""Examples of several languages in one batch, each with its own language's module."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import sentences
from tests.model_families import save_family
from xlt.models.loading import load_pretrained
from xlt.models.transfer import TransferModel, is_transposed
from xlt.modules import LowRankDelta, ModuleArtefact, ModuleHeader, SparseDelta
from xlt.modules.adapter import Adapter, BottleneckAdapter, Ends, InvertibleAdapter
from xlt.use.annotating import annotate, chunk_size, chunks
from xlt.use.by_example import LanguageModulesByExample, layers_for_examples
from xlt.use.loading import LoadedModel, UsedModule, load_model, read_modules, task_of
from xlt.use.texts import Entry

LANGUAGES = ("eng", "fao", "deu", "nld")


def header(kind: str, base_hash: str, language: str) -> ModuleHeader:
    return ModuleHeader(kind=kind, method="x", base_model="tiny", base_hash=base_hash, language=language)


def adapter(
    model: TransferModel, language: str, *, places: Iterable[int] = (0, 1), invertible: bool = False
) -> Adapter:
    torch.manual_seed(sum(map(ord, language)))
    size = model.hidden_size
    blocks = {f"backbone.encoder.layer.{number}": BottleneckAdapter(size, 4, "relu") for number in places}
    for block in blocks.values():
        block.up.weight.data *= 8
    more = InvertibleAdapter(size, (3, 3), "relu") if invertible else None
    ends = Ends("backbone.encoder.layer.0", None) if invertible else None
    return Adapter(header("adapter", model.base_hash, language), blocks, dict.fromkeys(blocks, "sum"), more, ends)


def low_rank(model: TransferModel, language: str, rank: int) -> LowRankDelta:
    draw = torch.Generator().manual_seed(sum(map(ord, language)))
    factors = {}
    for number, (name, layer) in enumerate(layers_for_examples(model).items()):
        if number % 2 == rank % 2:
            rows, columns = layer.weight.shape  # type: ignore[misc]
            factors[name] = (torch.randn(rank, columns, generator=draw), torch.randn(rows, rank, generator=draw))
    return LowRankDelta(header("low_rank", model.base_hash, language), factors, 0.5)


@pytest.fixture
def base(tiny_bert: Path) -> TransferModel:
    return load_pretrained(str(tiny_bert))


def of_kinds(model: TransferModel) -> dict[str, dict[str, ModuleArtefact]]:
    """What languages can have: adapters in all blocks or in one, an invertible one, deltas of several ranks, both."""
    adapters = {code: adapter(model, code, places=[0, 1] if code != "fao" else [1]) for code in LANGUAGES}
    ranks = {code: low_rank(model, code, number) for number, code in enumerate(LANGUAGES, start=1)}
    inverse = {code: adapter(model, code, invertible=code in ("deu", "fao")) for code in LANGUAGES}
    return {
        "adapters": dict(adapters),
        "invertible": dict(inverse),
        "low-rank": dict(ranks),
        "both": {"eng": adapters["eng"], "fao": ranks["fao"], "deu": adapters["deu"], "nld": ranks["nld"]},
    }


def loaded_with(
    files: Mapping[str, Path], task: str, languages: Mapping[str, ModuleArtefact], folder: Path
) -> LoadedModel:
    paths = {}
    for language, module in languages.items():
        paths[language] = str(folder / f"{language}.st")
        module.save(paths[language])
    used = read_modules([str(files[task])], paths)
    return load_model(used, task_of(used.main), device="cpu")


def mixed_entries(count: int) -> list[Entry]:
    draw = random.Random(1)
    examples = [dataclasses.replace(one, text=" ".join(one.words)) for one in sentences("eng", count)]
    return [Entry(example, draw.choice(LANGUAGES)) for example in examples]


@pytest.mark.parametrize("task", ["pos", "topic", "parsing"])
@pytest.mark.parametrize("kind", ["adapters", "invertible", "low-rank", "both"])
def test_each_example_is_annotated_as_with_its_languages_module_alone(
    modules: Mapping[str, Path], base: TransferModel, tmp_path: Path, kind: str, task: str
) -> None:
    loaded = loaded_with(modules, task, of_kinds(base)[kind], tmp_path)
    entries = mixed_entries(24)
    together = annotate(loaded, entries, batch_size=8)
    assert len(loaded._stack.active) == 2 and isinstance(loaded._stack.active[0], LanguageModulesByExample)
    alone = [annotate(loaded, [entry], batch_size=8)[0] for entry in entries]  # a group of one language is switched
    assert not isinstance(loaded._stack.active[0], LanguageModulesByExample)
    assert_alike(together, alone)
    other = [Entry(entry.example, LANGUAGES[(LANGUAGES.index(str(entry.language)) + 1) % 4]) for entry in entries]
    assert together != annotate(loaded, other, batch_size=8)  # so the module does change the annotation


def assert_alike(together: Any, alone: Any) -> None:
    for one, other in zip(together, alone, strict=True):
        assert (one.columns, one.label, one.text) == (other.columns, other.label, other.text)
        for name, scores in one.scores.items():
            assert torch.tensor(scores).allclose(torch.tensor(other.scores[name]), atol=2e-5)


def test_a_batch_in_threads_has_its_own_languages(
    modules: Mapping[str, Path], base: TransferModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = loaded_with(modules, "pos", of_kinds(base)["both"], tmp_path)
    entries = mixed_entries(60)
    expected = annotate(loaded, entries, batch_size=4)
    monkeypatch.setattr("xlt.engine.evaluation._at_once", lambda *_: 3)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for _ in range(3):
            assert_alike(annotate(loaded, entries, batch_size=4), expected)
    finally:
        torch.set_num_threads(threads)


def test_the_model_is_as_before_when_the_modules_are_removed(
    modules: Mapping[str, Path], base: TransferModel, tmp_path: Path
) -> None:
    loaded = loaded_with(modules, "pos", of_kinds(base)["both"], tmp_path)
    ids = torch.arange(20).view(4, 5)
    before = loaded.model.encode(ids, torch.ones_like(ids))
    enter = loaded.speak_all(list(LANGUAGES))
    assert enter is not None
    enter(["eng", "fao", "deu", "nld"])
    assert not torch.equal(loaded.model.encode(ids, torch.ones_like(ids)), before)
    with pytest.raises(ValueError, match="3 rows, but the languages of 4 examples"):
        loaded.model.encode(ids[:3], torch.ones_like(ids[:3]))
    loaded._stack.set([])
    assert torch.equal(loaded.model.encode(ids, torch.ones_like(ids)), before)


def test_sparse_deltas_and_tasks_with_more_rows_are_switched_language_by_language(
    modules: Mapping[str, Path], base: TransferModel, tmp_path: Path
) -> None:
    used = read_modules([str(modules[name]) for name in ("pos", "eng", "fao")], {})
    sparse = load_model(used, task_of(used.main), device="cpu")
    assert isinstance(used.languages["eng"].module, SparseDelta)
    assert sparse.speak_all(["eng", "fao"]) is None
    choice = loaded_with(modules, "choice", of_kinds(base)["adapters"], tmp_path)
    assert choice.speak_all(["eng", "fao"]) is None


def test_without_language_modules_languages_share_batches(
    modules: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = read_modules([str(modules["pos"])], {})
    loaded = load_model(used, task_of(used.main), device="cpu")
    sizes: list[int] = []
    together = annotate(loaded, mixed_entries(24), batch_size=24, after_batch=sizes.append)
    assert max(sizes) > 12
    assert_alike(together, [annotate(loaded, [entry], batch_size=1)[0] for entry in mixed_entries(24)])


@pytest.mark.parametrize("family", ["GPT-2", "XLM-R", "ModernBERT", "DistilBERT"])
def test_low_rank_deltas_by_example_in_other_families(tmp_path: Path, family: str) -> None:
    save_family(family, tmp_path / "model")
    model = load_pretrained(str(tmp_path / "model")).eval()
    layers = layers_for_examples(model)
    assert any(map(is_transposed, layers.values())) == (family == "GPT-2")
    modules = {code: low_rank(model, code, number) for number, code in enumerate(("eng", "fao"), start=1)}
    together = LanguageModulesByExample(modules, layers)
    ids = torch.arange(12).view(3, 4) + 5
    undo = together.write_into(model)
    together.examples(["fao", "eng", "fao"])
    mixed = model.encode(ids, torch.ones_like(ids))
    undo()
    for row, language in enumerate(["fao", "eng", "fao"]):
        undo = modules[language].write_into(model)
        assert mixed[row].allclose(model.encode(ids, torch.ones_like(ids))[row], rtol=1e-4, atol=1e-4)
        undo()


def test_what_cannot_be_of_single_examples_is_refused(base: TransferModel) -> None:
    layers = layers_for_examples(base)
    whole = adapter(base, "eng")
    whole.tensors["backbone.pooler.bias"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"examples in eng: it replaces whole tensors, such as backbone\.pooler"):
        LanguageModulesByExample({"eng": whole}, layers)
    words = "backbone.embeddings.word_embeddings.weight"
    of_words = LowRankDelta(header("low_rank", "h", "fao"), {words: (torch.ones(1, 4), torch.ones(9, 1))}, 1.0)
    with pytest.raises(ValueError, match=r"word_embeddings\.weight, which is not the weight of a linear layer"):
        LanguageModulesByExample({"fao": of_words}, layers)
    sparse = SparseDelta(header("sparse_delta", "h", "fao"), {})
    with pytest.raises(ValueError, match="written into the weights"):
        LanguageModulesByExample({"fao": sparse}, layers)


def test_modules_of_many_languages_are_switched_seldom(
    modules: Mapping[str, Path], base: TransferModel, tmp_path: Path
) -> None:
    used = read_modules([str(modules["pos"])], {})
    plain = used.languages
    codes = [f"q{letter}a" for letter in "abcdefghijklmnopqrst"]
    plain |= {
        code: UsedModule(tmp_path, SparseDelta(header("sparse_delta", base.base_hash, code), {})) for code in codes
    }
    switched = load_model(used, task_of(used.main), device="cpu")
    assert [chunk_size(switched, codes[:n]) for n in (3, 8, 20)] == [1024, 1024, 128 * 20]
    assert chunk_size(switched, codes * 10) == 16_384
    plain |= {code: UsedModule(tmp_path, adapter(base, code)) for code in codes}
    together = load_model(used, task_of(used.main), device="cpu")
    assert chunk_size(together, codes) == chunk_size(switched, codes[:3])
    entries = mixed_entries(9)
    assert list(map(len, chunks(entries * 20, patient=True, size=100))) == [64, 100, 16]


def test_on_several_devices_modules_are_switched(
    modules: Mapping[str, Path], base: TransferModel, tmp_path: Path
) -> None:
    loaded = loaded_with(modules, "pos", {code: adapter(base, code) for code in LANGUAGES}, tmp_path)
    assert loaded.speak_all(["eng", "fao"]) is not None
    loaded.model.backbone.encoder.layer[1].to("meta")
    assert loaded.speak_all(["eng", "fao"]) is None


def test_adapters_with_several_placements_are_switched(
    modules: Mapping[str, Path], base: TransferModel, tmp_path: Path
) -> None:
    languages = {code: adapter(base, code) for code in LANGUAGES}
    other = languages["fao"]
    other.placements = dict.fromkeys(other.placements, "branch")
    loaded = loaded_with(modules, "pos", languages, tmp_path)
    assert loaded.speak_all(["eng", "fao"]) is None
    entries = mixed_entries(8)
    alone = [annotate(loaded, [entry], batch_size=8)[0] for entry in entries]
    assert_alike(annotate(loaded, entries, batch_size=8), alone)
    assert loaded.speak_all(["eng", "deu"]) is not None
