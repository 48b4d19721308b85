"""Thesis Table 7.4: memory and seconds a step of LoRA, SpIEL-AG and SpIEL-MA on a language model, also over 4 bits.

    python scripts/bench_llm.py --size llama2_7b --output bench_llm.json          # a GPU of 40 GB and more
    python scripts/bench_llm.py --size tiny                                       # anywhere: does it run?

The model has random weights in bfloat16. Settings are the thesis's (§7.4.3, §E.5): equivalent rank 64, all linear
layers of the blocks, updates every 20 steps with 5 of estimation. Each method runs in a process of its own, without and
with activation checkpointing, over bfloat16 and over 4 bits. Memory is the peak that torch has allocated, and on a CPU
the resident set's high-water mark; the thesis searched for the least that suffices, which lies between what was
allocated and what was reserved. Seconds are the mean over one update interval, updates included, beside the median of
ordinary steps.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from bench_training import NoTokenizer, StepClock, high_water_mark, reset_high_water_mark
from omegaconf import OmegaConf
from transformers import LlamaConfig, LlamaForCausalLM

from xlt.compose import checked, compose, hydra_ready
from xlt.data.mix import LoadedSource
from xlt.data.streams import stream
from xlt.engine.activation import LanguageActivation
from xlt.engine.build import build_method, build_task
from xlt.engine.processes import Processes
from xlt.engine.training import Trainer
from xlt.methods.method import Setting
from xlt.models.quantised import quantise_blocks
from xlt.models.transfer import TransferModel, recompute_activations, split_pretrained

# vocabulary, hidden, intermediate, layers, heads
SIZES = {
    "llama2_7b": (32000, 4096, 11008, 32, 32),
    "llama2_13b": (32000, 5120, 13824, 40, 40),
    "tiny": (100, 64, 128, 2, 2),
}
METHODS = ("lora", "spiel_ag", "spiel_ma")
_EQUIVALENT_RANK = ["method.density=null", "method.rank=64"]
_WARM_UP = 2


def trainer_of(
    size: str, method: str, four_bit: bool, again: bool, batch: int, micro: int, tokens: int, steps: int
) -> Trainer:
    """A trainer of a random language model on random conversations, the later half of each taught."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vocabulary, hidden, intermediate, layers, heads = SIZES[size]
    shape = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        use_cache=False,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with device:
        pretrained = LlamaForCausalLM(shape)
    torch.set_default_dtype(torch.float32)
    model = TransferModel(*split_pretrained(pretrained), "random", size)
    if four_bit:
        quantise_blocks(model)
    if again:
        recompute_activations(model)
    rank = ["method.rank=8"] if size == "tiny" else []
    with hydra_ready():
        run = checked(
            compose(
                [
                    "experiment=instruct",
                    "model.path=random/random",
                    f"method={method}",
                    *(["method.density=0.02"] if size == "tiny" and method != "lora" else []),
                    *(rank if method == "lora" else _EQUIVALENT_RANK if size != "tiny" else []),
                    f"task.max_length={tokens}",
                    f"train.max_steps={steps}",
                    f"train.batch_size={batch}",
                    f"train.micro_batch_size={micro if micro < batch else 'null'}",
                    "train.evaluate_every_steps=1000000",
                    "train.save_every_seconds=1000000",
                    "train.evaluation_batch_size=1",
                    "data=instruct_thesis",  # named, not read
                ]
            )
        )
    task = build_task(run.task)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(max(batch, 8)):
        ids = torch.randint(3, vocabulary, (tokens,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * (tokens // 2) + ids[tokens // 2 :]})
    return Trainer(
        model=model,
        method=build_method(run.method),
        task=task,
        encoder=NoTokenizer(),  # type: ignore[arg-type]
        sources=[LoadedSource("random", "eng", rows)],
        validation=[LoadedSource("random", "eng", rows[:1])],
        activation=LanguageActivation(model, {}, ["eng"]),
        recipe=run.train,
        setting=Setting(adapts_language=False, random=lambda *name: stream(0, *name)),
        seed=0,
        processes=Processes(),
    )


def measure(size: str, method: str, four_bit: bool, again: bool, batch: int, micro: int, tokens: int) -> dict[str, Any]:
    """Two update intervals in this process; the second is timed."""
    interval = 20
    trainer = trainer_of(size, method, four_bit, again, batch, micro, tokens, 2 * interval + 1)
    on_gpu = torch.cuda.is_available()
    reset_high_water_mark()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(Path(folder), clock)
    (times,) = clock.seconds.values()
    second = times[interval : 2 * interval]
    gib = 2**30
    return {
        "seconds_per_step": statistics.mean(second),
        "seconds_ordinary": statistics.median(second[_WARM_UP : interval - 5]),
        "allocated_gib": torch.cuda.max_memory_allocated() / gib if on_gpu else high_water_mark() / 1024,
        "reserved_gib": torch.cuda.max_memory_reserved() / gib if on_gpu else None,
        "tuned": sum(parameter.numel() for parameter in trainer.method.trainable().values()),
    }


def thesis(name: str, size: str) -> dict[str, float]:
    """Table 7.4's numbers for a row, from conf/table: GB and seconds on an A100; empty for other sizes."""
    method, _, again = name.partition(", ")
    key = f"{size} again" if again else size
    file = importlib.resources.files("xlt_conf") / "table" / "thesis_7_4.yaml"
    published = OmegaConf.create(file.read_text(encoding="utf-8")).reference.get(method, {})
    return {unit: published[f"{key} {unit}"] for unit in ("GB", "s") if f"{key} {unit}" in published}


def _beside(published: dict[str, float]) -> str:
    return f"  (thesis: {published['s']} s, {published['GB']:.0f} GB)" if published else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="llama2_7b")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--micro", type=int, default=1, help="conversations a forward pass")
    parser.add_argument("--tokens", type=int, default=512, help="of each conversation")
    parser.add_argument("--four-bit", nargs="+", choices=["no", "yes"], default=["no", "yes"])
    parser.add_argument("--checkpointing", nargs="+", choices=["no", "yes"], default=["no", "yes"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--one", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one is not None:
        method, four_bit, again = options.one.split(",")
        sizes = (options.batch, options.micro, options.tokens)
        print(json.dumps(measure(options.size, method, four_bit == "yes", again == "yes", *sizes)))
        return
    rows: dict[str, Any] = {}
    for four_bit in options.four_bit:
        for again in options.checkpointing:
            for method in options.methods:
                command = [sys.executable, __file__, *sys.argv[1:], "--one", f"{method},{four_bit},{again}"]
                name = f"{'q' if four_bit == 'yes' else ''}{method}{', checkpointing' if again == 'yes' else ''}"
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    rows[name] = {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
                    print(f"{name:28} {rows[name]['failed']}")
                    continue
                row = rows[name] = json.loads(done.stdout.splitlines()[-1])
                ordinary = f"({row['seconds_ordinary']:.3f} without updates)"
                memory = f"{row['allocated_gib']:6.2f} GiB  {row['tuned']:,} tuned"
                row["thesis"] = thesis(name, options.size)
                print(f"{name:28} {row['seconds_per_step']:8.3f} s a step {ordinary}  {memory}{_beside(row['thesis'])}")
    record = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "torch": torch.__version__,
        **{name: value for name, value in vars(options).items() if name not in ("output", "one")},
        "rows": rows,
    }
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
