"""`xlt export --to transformers`: what transformers computes with the checkpoint is what `xlt predict` says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import sentences
from tests.xlt.use.conftest import CONFIGS
from xlt.data.encoding import Encoder
from xlt.engine.build import build_task, with_head
from xlt.errors import UsageError
from xlt.models.loading import load_pretrained
from xlt.use.checkpoints import export_checkpoint
from xlt.use.export import ExportSettings, export
from xlt.use.loading import LoadedModel, UsedModules

TEXTS = [" ".join(example.words or ()) for example in sentences("eng", 60)]
CLOSE = 1e-5  # float32; sums in another order


@pytest.fixture
def exported(modules: Mapping[str, Path], tmp_path: Path) -> Callable[..., str]:
    def run(*names: str, language: str | None = None) -> str:
        folder = tmp_path / "-".join(names)
        export(ExportSettings([str(modules[name]) for name in names], str(folder), language=language))
        return str(folder)

    return run


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_tags_and_their_probabilities_are_those_of_the_pipeline(
    exported: Callable[..., str], predicted: Callable[..., str]
) -> None:
    from transformers import pipeline

    tag = pipeline("token-classification", exported("pos", "fao"), device="cpu")
    ours = rows(predicted("pos", "in.txt", "\n".join(TEXTS), "jsonl", ("fao",), language="fao"))
    for text, row in zip(TEXTS, ours, strict=True):
        # A leading space belongs to the piece in byte-level vocabularies.
        first = {
            token["end"] - len(text[token["start"] : token["end"]].lstrip()): token for token in reversed(tag(text))
        }
        at = 0
        for word, label, score in zip(row["words"], row["upos"], row["upos_scores"], strict=True):
            at = text.index(word, at)
            assert first[at]["entity"] == label and float(first[at]["score"]) == pytest.approx(score, abs=CLOSE)
            at += len(word)


@pytest.mark.parametrize("name", ["topic", "nli"])
def test_labels_and_all_their_probabilities_are_those_of_the_pipeline(
    exported: Callable[..., str], predicted: Callable[..., str], name: str
) -> None:
    from transformers import pipeline

    classify = pipeline("text-classification", exported(name), device="cpu", top_k=None)
    given = [{"text": text, "pair": other} for text, other in zip(TEXTS[:20], TEXTS[20:40], strict=True)]
    ours = rows(predicted(name, "in.jsonl", "\n".join(json.dumps(one) for one in given)))
    for one, row in zip(given, ours, strict=True):
        said = classify({"text": one["text"], "text_pair": one["pair"]} if name == "nli" else one["text"])
        said = said[0] if isinstance(said[0], list) else said
        assert {part["label"]: part["score"] for part in said} == pytest.approx(row[f"{name}_scores"], abs=CLOSE)


def test_answers_are_those_of_the_question_answering_class(
    exported: Callable[..., str], modules: Mapping[str, Path], predicted: Callable[..., str]
) -> None:
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    folder = exported("qa")
    model, tokenizer = AutoModelForQuestionAnswering.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    given = [{"question": TEXTS[n], "context": TEXTS[n + 20]} for n in range(20)]
    ours = rows(predicted("qa", "in.jsonl", "\n".join(json.dumps(one) for one in given)))
    for one, row in zip(given, ours, strict=True):
        inputs = tokenizer(one["question"], one["context"], return_tensors="pt", return_offsets_mapping=True)
        spans, owners = inputs.pop("offset_mapping")[0].tolist(), inputs.sequence_ids(0)
        with torch.no_grad():
            output = model(**inputs)
        at = [n for n, owner in enumerate(owners) if owner == 1 and one["context"][slice(*spans[n])].strip()]
        best = max(
            (float(output.start_logits[0, a] + output.end_logits[0, b]), a, b)
            for a in at for b in at if a <= b < a + CONFIGS["qa"].max_answer_tokens
        )  # fmt: skip
        assert best[0] == pytest.approx(row["qa_score"], abs=1e-4)
        assert one["context"][spans[best[1]][0] : spans[best[2]][1]].strip() == row["qa"]


def test_chosen_answers_are_those_of_the_multiple_choice_class(
    exported: Callable[..., str], predicted: Callable[..., str]
) -> None:
    from transformers import AutoModelForMultipleChoice, AutoTokenizer

    folder = exported("choice")
    model, tokenizer = AutoModelForMultipleChoice.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    given = [{"passage": TEXTS[n], "question": TEXTS[n + 1], "choices": TEXTS[n + 2 : n + 5]} for n in range(20)]
    ours = rows(predicted("choice", "in.jsonl", "\n".join(json.dumps(one) for one in given)))
    for one, row in zip(given, ours, strict=True):
        asked = [f"{one['question']} {choice}" for choice in one["choices"]]
        inputs = tokenizer([one["passage"]] * 3, asked, return_tensors="pt", padding=True)
        with torch.no_grad():
            logits = model(**{name: part[None] for name, part in inputs.items()}).logits[0]
        shares = logits.softmax(-1).tolist()
        assert shares == pytest.approx([*row["choice_scores"].values()], abs=1e-5)


def test_labels_and_lengths_are_in_the_checkpoint(exported: Callable[..., str]) -> None:
    from transformers import AutoConfig, AutoTokenizer

    folder = exported("ner")
    assert [*AutoConfig.from_pretrained(folder).id2label.values()] == CONFIGS["ner"].labels
    assert AutoTokenizer.from_pretrained(folder).model_max_length == CONFIGS["ner"].max_length


def refusal(run: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as refused:
        run()
    (line,) = refused.value.lines
    return line


def test_what_transformers_has_no_class_for_is_refused(modules: Mapping[str, Path], tmp_path: Path) -> None:
    def to(*names: str, **options: object) -> None:
        export(ExportSettings([str(modules[n]) for n in names], str(tmp_path / "out"), **options))  # type: ignore[arg-type]

    assert "parsing" in refusal(lambda: to("parsing"))
    assert "--language" in refusal(lambda: to("pos", "eng", "fao"))
    assert "peft" in refusal(lambda: to("pos", to="peft"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("x")
    assert "not an empty folder" in refusal(lambda: to("pos"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_class_that_computes_something_else_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    """Electra's classifier has a GELU where our head has a tanh; its layers have the same shapes."""
    from transformers import ElectraConfig, ElectraForMaskedLM

    shape = ElectraConfig(
        vocab_size=len(encoder.tokenizer), embedding_size=32, hidden_size=32, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    ElectraForMaskedLM(shape).save_pretrained(tmp_path / "electra")
    encoder.tokenizer.save_pretrained(tmp_path / "electra")
    for name, refused in (("topic", True), ("pos", False)):
        model, task = load_pretrained(str(tmp_path / "electra")), build_task(CONFIGS[name])
        with_head(model, task, encoder, seed=1)
        loaded = LoadedModel(model.eval(), encoder, task, UsedModules())
        with torch.no_grad():
            for parameter in model.head.parameters():  # type: ignore[union-attr]
                parameter.normal_()
        if refused:
            assert "ElectraFor" in refusal(
                lambda loaded=loaded, name=name: export_checkpoint(loaded, None, tmp_path / name)
            )
        else:
            assert export_checkpoint(loaded, None, tmp_path / name) == "ElectraForTokenClassification"
        assert (tmp_path / name).exists() is not refused


def test_an_option_that_a_format_does_not_heed_is_refused(modules: Mapping[str, Path], tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "language": "fao", "model": "nowhere", "revision": "v1", "task": "pos", "settings": ("max_length=9",),
        "language_modules": {"fao": str(modules["fao"])},
    }  # fmt: skip
    names = {"settings": "set", "language_modules": "language-module"}
    heeded = {"composable-sft": {"model", "revision", "task", "settings"}}
    heeded["peft"] = heeded["composable-sft"] | {"language"}
    for format in ("plain", "card", "hub", "composable-sft", "peft"):
        for option in given.keys() - heeded.get(format, set()):
            settings = ExportSettings(
                [str(modules["pos"])], str(tmp_path / "out"), to=format, **{option: given[option]}
            )
            line = refusal(lambda settings=settings: export(settings))
            assert line.startswith(f"--{names.get(option, option)}: has no effect with --to={format}")
    assert not list(tmp_path.iterdir())
