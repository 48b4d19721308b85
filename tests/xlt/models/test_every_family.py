"""Every family of models x every method x four kinds of task: it trains, exports and loads, or is refused in one line.

The whole matrix is slow; it checks `docs/families.md`, and `make families` writes that file.
"""

from __future__ import annotations

import copy
import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf, SCMode

from tests.conftest import LABELS, RECIPE, sentences
from tests.model_families import FAMILIES, save_family
from xlt.compose import compose, hydra_ready
from xlt.config import TrainConfig
from xlt.data.encoding import Encoder
from xlt.data.examples import Example, Turn
from xlt.data.mix import LoadedSource
from xlt.data.streams import stream
from xlt.engine.activation import LanguageActivation
from xlt.engine.build import build_method, build_model, build_task
from xlt.engine.processes import Processes
from xlt.engine.training import Trainer
from xlt.engine.watching import Silence
from xlt.methods.method import Setting
from xlt.models.families import DECODER, ENCODER_DECODER, architecture
from xlt.models.loading import load_tokenizer
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleHeader, ModuleStack, load_module
from xlt.plan.model_checks import model_faults
from xlt.tasks.causal_lm import CausalLmConfig
from xlt.tasks.classification import ClassificationConfig
from xlt.tasks.instruct import InstructConfig
from xlt.tasks.mlm import MlmConfig
from xlt.tasks.tagging import TaggingConfig
from xlt.tasks.task import Task
from xlt.tasks.text_to_text import TextToTextConfig
from xlt.tasks.token_prediction import TokenPrediction

DOCS = Path(__file__).parents[3] / "docs" / "families.md"
ENTRIES = ("method.update_interval=1", "method.estimation_steps=1", "method.density=0.05")
METHODS: dict[str, tuple[str, ...]] = {
    "full": (),
    "bitfit": (),
    "lt_sft": ("method.density=0.05", "method.dense_max_steps=1"),
    "random_sft": ("method.density=0.05",),
    "spiel_ag": ENTRIES,
    "spiel_ma": ENTRIES,
    "pfeiffer": (),
    "houlsby": (),
    "mad_x": (),
    "mad_g": (),
    "lora": ("method.rank=2",),
    "ia3": (),
    "flix": ("method.feature_dropout=0.3",),
}
TASKS = ("POS", "language module", "classification", "instruct")
SOME = [  # in the ordinary suite
    ("ModernBERT", "lora", "language module"),
    ("GPT-2", "flix", "POS"),
    ("ELECTRA", "lt_sft", "language module"),
    ("X-MOD", "spiel_ma", "classification"),
    ("DeBERTa v2", "full", "POS"),
    ("GPT-2", "spiel_ag", "language module"),
    ("GPT-2", "mad_x", "language module"),
    ("mT5", "pfeiffer", "POS"),
    ("Gemma 3", "houlsby", "instruct"),
    ("mT5", "flix", "instruct"),
    ("BART", "lt_sft", "instruct"),
]
REFUSED = [  # likewise; the method or task, and what the line says
    ("Llama", "bitfit", "POS", ["method=bitfit", "no bias terms"]),
    ("XLM", "pfeiffer", "POS", ["attention and feed-forward"]),
    ("DeBERTa v3", "flix", "POS", ["method=flix", "query_proj, key_proj", "method.layers"]),
    ("ALBERT", "mad_x", "language module", ["method.leave_out_last=1"]),
    ("M2M-100", "full", "language module", ["task=mlm", "m2m_100", "encoder-decoder"]),
    ("XLM-R", "full", "instruct", ["task=instruct", "xlm-roberta", "encoder", "sees"]),
]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`checkpoint("GPT-2")`: a folder with a tiny model of the family; skips where transformers lacks the family."""

    @functools.cache
    def make(name: str) -> Path:
        if not FAMILIES[name].exists:
            pytest.skip(f"this version of transformers has no {name}")
        folder = tmp_path_factory.mktemp("family") / name.replace(" ", "-").lower()
        save_family(name, folder)
        return folder

    return make


@functools.cache
def method_config(name: str) -> Any:
    with hydra_ready():
        composed = compose((f"method={name}", *METHODS[name]))
    return OmegaConf.to_container(composed.method, resolve=True, structured_config_mode=SCMode.INSTANTIATE)


def task_config(name: str, kind: str) -> Any:
    if name == "POS":
        target = "xlt.tasks.tagging.Tagging"
        return TaggingConfig(target, "pos", "upos", LABELS, max_length=32, dropout=0.1, metric="accuracy")
    if name == "classification":
        target = "xlt.tasks.classification.Classification"
        return ClassificationConfig(target, "cls", ["a", "b"], False, max_length=32, dropout=0.1, metric="accuracy")
    if name == "instruct" and kind == ENCODER_DECODER:
        target = "xlt.tasks.text_to_text.TextToText"
        return TextToTextConfig(target, "t", "text", max_length=60, max_new_tokens=20, template="plain")
    if name == "instruct":
        return InstructConfig("xlt.tasks.instruct.Instruct", max_length=60, template="tulu", packing=False)
    if kind == DECODER:
        return CausalLmConfig("xlt.tasks.causal_lm.CausalLanguageModelling", max_length=32, packing=True)
    return MlmConfig("xlt.tasks.mlm.MaskedLanguageModelling", max_length=32, masked_share=0.3, packing=True)


def examples(task: str) -> list[Example]:
    made = sentences("eng", 6)
    if task == "classification":
        return [Example(e.place, e.text, label="ab"[n % 2]) for n, e in enumerate(made)]
    if task == "instruct":
        return [Example(e.place, turns=(Turn("user", "say"), Turn("assistant", str(e.text)))) for e in made]
    return made


def run_config(path: Path, method: str, task: str) -> Any:
    from transformers import AutoConfig

    kind = architecture(AutoConfig.from_pretrained(str(path)))
    model = SimpleNamespace(
        path=str(path), random=None, revision=None, dtype="float32", new_languages={}, dropout=None, quantise=None,
        student=None, trust_remote_code=False,
    )  # fmt: skip
    train = TrainConfig(**{**RECIPE, "max_steps": 2, "evaluate_every_steps": 2, "precision": "bf16"})
    return SimpleNamespace(
        model=model, task=task_config(task, kind), method=method_config(method), seed=1, device="cpu", train=train
    )


def cell(path: Path, method_name: str, task_name: str, folder: Path) -> str | None:
    """Trains a tiny model for two steps, and loads its module into a fresh one; or returns the line of the refusal."""
    config = run_config(path, method_name, task_name)
    if faults := model_faults(config, None):
        (line,) = faults
        return line.replace(str(path), "MODEL")
    task, method = build_task(config.task), build_method(config.method)
    encoder, base = _base(path, task_name, config, task)
    trained, fresh = copy.deepcopy(base), copy.deepcopy(base)
    source = LoadedSource("x", "eng", task.features(examples(task_name), encoder))
    trainer = Trainer(
        model=trained,
        method=method,
        task=task,
        encoder=encoder,
        sources=[source],
        validation=[source],
        activation=LanguageActivation(trained, {}, ["eng"]),
        recipe=config.train,
        setting=Setting(task.adapts_language, lambda *name: stream(1, "method", *name)),
        seed=1,
        processes=Processes(),
    )
    trainer.train(folder, Silence())
    header = ModuleHeader(
        kind=method.leaves.kind, method=method.name, base_model="x", base_hash=base.base_hash,
        language="eng" if task.adapts_language else None, untied=trained.is_untied,
    )  # fmt: skip
    method.export(trained, header).save(folder / "module.safetensors")
    batch = task.collate(source.features, encoder, stream(0, "batch"))
    before, after = _outputs(fresh, task, batch), _outputs(trained, task, batch)
    ModuleStack(fresh).set([load_module(folder / "module.safetensors").for_language("eng")])
    loaded = _outputs(fresh, task, batch)
    assert torch.isfinite(after).all()
    assert not torch.equal(after, before)
    torch.testing.assert_close(loaded, after, rtol=0, atol=1e-5 * float(after.abs().max()) + 1e-6)
    return None


@functools.lru_cache(maxsize=1)
def _loaded(path: Path, task_name: str) -> dict[str, Any]:
    return {}


def _base(path: Path, task_name: str, config: Any, task: Task) -> tuple[Encoder, TransferModel]:
    """The model with the task's head, the same object for all methods in a row."""
    held = _loaded(path, task_name)
    if not held:
        encoder = Encoder(load_tokenizer(str(path)))
        held.update(encoder=encoder, model=build_model(config, str(path), task, encoder, trains=True))
    return held["encoder"], held["model"]


@torch.no_grad()
def _outputs(model: TransferModel, task: Task, batch: dict[str, Any]) -> torch.Tensor:
    model.eval()
    model.speak("eng")
    if model.decodes and isinstance(task, TokenPrediction):
        return model.language_model_logits(task._labelled(model, batch)[0])
    hidden = model.encode(batch["input_ids"], batch["attention_mask"])[batch["attention_mask"].bool()]
    return model.language_model_logits(hidden) if model.head is None else model.head(hidden)


@pytest.mark.parametrize(("family", "method", "task"), SOME)
def test_a_model_of_the_family_learns_and_its_module_is_loaded(
    family: str, method: str, task: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    assert cell(checkpoint(family), method, task, tmp_path) is None


@pytest.mark.parametrize(("family", "method", "task", "said"), REFUSED)
def test_what_cannot_be_done_is_refused_without_the_weights(
    family: str, method: str, task: str, said: list[str], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    path = checkpoint(family)
    weights = path / "model.safetensors"
    hidden = weights.rename(tmp_path / "elsewhere.safetensors")
    try:
        line = cell(path, method, task, tmp_path)
    finally:
        hidden.rename(weights)
    assert line is not None and all(part in line for part in said), line


SEEN: dict[str, dict[tuple[str, str], str | None]] = {}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_and_task_works_or_is_refused_in_one_right_line(
    family: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    path, seen, broken = checkpoint(family), {}, []
    for task in TASKS:
        for method in METHODS:
            try:
                line = cell(path, method, task, tmp_path / f"{task}-{method}".replace(" ", "-"))
            except Exception as error:
                broken.append(f"{task}, {method}: {type(error).__name__}: {str(error).strip()[:300]}")
                continue
            seen[task, method] = line
            if line is not None and not re.match(r"(method|task|model)[.=:]", line):
                broken.append(f"{task}, {method}: {line}")
    assert not broken, "\n".join(broken)
    SEEN[family] = seen


@pytest.mark.slow
def test_the_table_in_the_docs_is_what_was_seen() -> None:
    if SEEN.keys() != FAMILIES.keys():
        pytest.skip("the matrix was not run as a whole")
    text = table()
    if os.environ.get("XLT_WRITE_DOCS"):
        DOCS.write_text(text, encoding="utf-8")
    assert DOCS.read_text(encoding="utf-8") == text


def table() -> str:
    """The table of `docs/families.md`, and the lines of the refusals."""
    numbers: dict[str, int] = {}
    rows = []
    for name, seen in SEEN.items():
        row = [f"**{name}**" + (f": {FAMILIES[name].known}" if FAMILIES[name].known else "")]
        for task in TASKS:
            refused: dict[str, list[str]] = {}
            for method in METHODS:
                if (line := seen[task, method]) is not None:
                    same_for_all_types = re.sub(r"model \([\w-]+, ", "model (TYPE, ", line)
                    refused.setdefault(same_for_all_types, []).append(method)
            for line in refused:
                numbers.setdefault(line, len(numbers) + 1)
            if len(refused) == 1 and len(next(iter(refused.values()))) == len(METHODS):
                row.append(f"no [{numbers[next(iter(refused))]}]")
            else:
                but = "; ".join(f"{', '.join(methods)} [{numbers[line]}]" for line, methods in refused.items())
                row.append(f"all but {but}" if but else "all")
        rows.append(f"| {' | '.join(row)} |")
    head = [
        "# Which models can learn what",
        "",
        "A tiny model of each family was trained for two steps with each method. Its module was saved and loaded into",
        "a fresh model, which then computed what the trained one had computed. *All* means all of these methods:",
        f"{', '.join(f'`{method}`' for method in METHODS)}.",
        "What cannot be done is refused in one line before anything is trained; the numbers lead to these lines.",
        "",
        "- A token of a decoder sees only those before it. So a text is classified from its last token, and a word is",
        "  tagged from its last piece. Language modules of decoders learn by `task=causal_lm`, those of encoders by",
        "  `task=mlm`.",
        "- An encoder-decoder tags and classifies by its encoder alone; the run's model has no decoder. What is",
        "  `instruct` for decoders is text to text for it (`task=text_to_text task.template=plain`).",
        "- In X-MOD the network of the batch's language is active; a language without one is refused.",
        "",
        "`make families` runs the matrix and writes this file.",
        "",
        f"| Family | {' | '.join(TASKS)} |",
        f"|---{'|---' * len(TASKS)}|",
    ]
    return "\n".join([*head, *rows, "", *(f"{number}. `{line}`" for line, number in numbers.items()), ""])
