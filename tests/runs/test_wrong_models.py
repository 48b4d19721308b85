"""Models that a task or a method cannot use: one line and exit code 2, before weights are read."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from tests.model_families import save_family

LANGUAGE = ("experiment=language", "language=eng", "method=full", "task.max_length=16", "tracker=silent", "device=cpu")
TAGGING = (
    *("task=pos", "task.max_length=16", "recipe=nano_distil", "tracker=silent", "device=cpu"),
    *("+source@data.sources.eng=ud_eng", "+source@data.validation.eng=ud_eng", "data.validation.eng.split=dev"),
    *("+source@data.evaluation.fao=ud_fao", "data.evaluation.fao.split=test"),
)
WRONG: dict[str, tuple[str, tuple[str, ...], list[str]]] = {
    "an encoder predicts the next token": ("BERT", (*LANGUAGE, "task=causal_lm"), ["task=causal_lm", "bert", "sees"]),
    "a decoder fills gaps": ("GPT-2", (*LANGUAGE, "task=mlm_lines"), ["task=mlm", "gpt2", "decoder", "causal_lm"]),
    "no biases": ("Llama", (*TAGGING, "method=bitfit"), ["method=bitfit", "no bias terms"]),
    "one block": ("ALBERT", (*TAGGING, "method=mad_x"), ["method.leave_out_last=1", "number of blocks, 1"]),
    "no network for the language": ("X-MOD", (*TAGGING, "method=full"), ["model.path", "language fao", "deu, eng"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_model_that_does_not_fit_gets_one_line(
    name: str, command: Callable[..., Any], data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    family, words, said = WRONG[name]
    folder = tmp_path_factory.mktemp("models") / "model"
    save_family(family, folder)
    weights = {name: tensor.fill_(torch.nan) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})  # a model that is loaded is refused for them
    ended = command(*words, f"data_dir={data_dir}", f"model.path={folder}")
    assert (ended.code, len(ended.lines)) == (2, 1), ended.lines
    assert all(part in ended.lines[0] for part in said), ended.lines
    assert not ended.left, ended.left


def test_a_table_of_positions_that_no_file_holds_is_refused_before_memory_is_taken(
    command: Callable[..., Any], data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # GPT-Neo, and GPT-2 before transformers 5, make a mask of positions x positions in each layer, beside the weights.
    folder = tmp_path_factory.mktemp("models") / "model"
    save_family("GPT-2", folder)
    shape = GPTNeoConfig(
        hidden_size=16, num_layers=2, num_heads=2, max_position_embeddings=64, attention_types=[[["global"], 2]],
        vocab_size=json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"],
    )  # fmt: skip
    GPTNeoForCausalLM(shape).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changed = json.dumps({**config, "max_position_embeddings": 100_000})
    (folder / "config.json").write_text(changed, encoding="utf-8")
    words = (*LANGUAGE, "task=causal_lm", f"data_dir={data_dir}", f"model.path={folder}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ended = command(*words)
    assert (ended.code, len(ended.lines)) == (2, 1), ended.lines
    assert all(part in ended.lines[0] for part in ("model.path=", "config.json", "2e+10 bytes", "positions"))
    assert not ended.left and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # in KiB


def test_a_table_of_another_size_than_the_file_has_is_named_in_one_line(
    command: Callable[..., Any], data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("models") / "model"
    save_family("GPT-2", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "n_positions": 128}), encoding="utf-8")
    ended = command(*LANGUAGE, "task=causal_lm", f"data_dir={data_dir}", f"model.path={folder}")
    assert (ended.code, len(ended.lines)) == (2, 1), ended.lines
    assert all(part in ended.lines[0] for part in ("model.path=", "wpe.weight", "another shape", "config.json"))
    assert not ended.left
