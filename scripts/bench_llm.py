"""Thesis Table 7.4: memory and seconds a step of LoRA, SpIEL-AG and SpIEL-MA on a language model, also over 4 bits.

    python scripts/bench_llm.py --size llama2_7b --output bench_llm.json          # a GPU of 40 GB and more
    python scripts/bench_llm.py --size tiny                                       # runs anywhere

The model has random weights in bfloat16. Settings are the thesis's (§7.4.3, §E.5): equivalent rank 64, all linear
layers of the blocks, updates every 20 steps with 5 of estimation. Each method runs in a process of its own, without and
with activation checkpointing, over bfloat16 and over 4 bits. Memory is the peak that torch has allocated, and on a CPU
the resident set's high-water mark. The thesis searched for the least memory that suffices, which lies between what
torch allocated and what it reserved. Seconds are the mean over one update interval, updates included, beside the median
of ordinary steps. A method that fails, for lack of memory for instance, has its error message in the record.
"""

from __future__ import annotations

import importlib.resources
import itertools
import statistics
from typing import Any

import torch
from benchmark.memory import PeakMemory
from benchmark.process import MeasurementError, in_own_process
from benchmark.report import CommandLine, machine, settings, write_record
from benchmark.shapes import LANGUAGE_MODELS, llama_config
from benchmark.trainers import StepClock, make_trainer, run_config, train

from xlt.engine.build import build_task
from xlt.engine.training import Trainer
from xlt.models.quantised import quantise_blocks
from xlt.models.transfer import TransferModel, recompute_activations, split_pretrained

METHODS = ("lora", "spiel_ag", "spiel_ma")
_EQUIVALENT_RANK = ["method.density=null", "method.rank=64"]
_WARM_UP = 2
_INTERVAL, _ESTIMATION = 20, 5  # thesis §7.4.3
_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random_model(size: str, four_bit: bool, checkpointing: bool) -> TransferModel:
    """A language model with random weights on the device; `size` is a key of `LANGUAGE_MODELS`."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(_DEVICE):
        pretrained = LlamaForCausalLM(llama_config(size))
    torch.set_default_dtype(torch.float32)
    model = TransferModel(*split_pretrained(pretrained), "random", size)
    if four_bit:
        quantise_blocks(model)
    if checkpointing:
        recompute_activations(model)
    return model


def rank_of(size: str, method: str) -> list[str]:
    """Overrides for the number of tuned parameters; the tiny model has too few for the thesis's rank."""
    if size != "tiny":
        return [] if method == "lora" else _EQUIVALENT_RANK
    return ["method.rank=8" if method == "lora" else "method.density=0.02"]


def trainer_of(
    size: str, method: str, four_bit: bool, checkpointing: bool, batch: int, micro: int, tokens: int, steps: int
) -> Trainer:
    """A trainer of a random language model on random conversations, of which the later half is the answer."""
    model = random_model(size, four_bit, checkpointing)
    config = run_config(
        [
            "experiment=instruct",
            "model.path=random/random",
            f"method={method}",
            *rank_of(size, method),
            *(["method.candidates_from=micro_batch"] if method == "spiel_ag" else []),  # as the thesis's recipe
            f"task.max_length={tokens}",
            f"train.max_steps={steps}",
            f"train.batch_size={batch}",
            f"train.micro_batch_size={micro if micro < batch else 'null'}",
            "train.evaluation_batch_size=1",
            "data=instruct_thesis",  # the config needs some data; nothing reads them
        ]
    )
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(max(batch, 8)):
        ids = torch.randint(3, LANGUAGE_MODELS[size].vocabulary, (tokens,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * (tokens // 2) + ids[tokens // 2 :]})
    return make_trainer(config, build_task(config.task), model, rows)


def measure(
    size: str, method: str, four_bit: bool, checkpointing: bool, batch: int, micro: int, tokens: int
) -> dict[str, Any]:
    """Two update intervals in this process; the second is timed."""
    trainer = trainer_of(size, method, four_bit, checkpointing, batch, micro, tokens, 2 * _INTERVAL + 1)
    memory, clock = PeakMemory(_DEVICE), StepClock()
    train(trainer, clock)
    (times,) = clock.seconds.values()
    second = times[_INTERVAL : 2 * _INTERVAL]
    return {
        "seconds_per_step": statistics.mean(second),
        "seconds_ordinary": statistics.median(second[_WARM_UP : _INTERVAL - _ESTIMATION]),
        "allocated_gib": memory.peak_mib() / 1024,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if _DEVICE == "cuda" else None,
        "tuned": sum(parameter.numel() for parameter in trainer.method.trainable().values()),
    }


def published(name: str, size: str) -> dict[str, float]:
    """Table 7.4's numbers for a row, from conf/published: GB and seconds on an A100; empty for other sizes."""
    from omegaconf import OmegaConf

    method, _, checkpointing = name.partition(", ")
    key = f"{size} again" if checkpointing else size
    file = importlib.resources.files("xlt_conf") / "published" / "thesis_7_4.yaml"
    reference = OmegaConf.create(file.read_text(encoding="utf-8")).numbers.measured.get(method, {})
    return {unit: reference[f"{key} {unit}"] for unit in ("GB", "s") if f"{key} {unit}" in reference}


def shown(name: str, row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"{name:28} {row['failed']}"
    ordinary = f"({row['seconds_ordinary']:.3f} without updates)"
    memory = f"{row['allocated_gib']:6.2f} GiB  {row['tuned']:,} tuned"
    thesis = f"  (thesis: {row['thesis']['s']} s, {row['thesis']['GB']:.0f} GB)" if row["thesis"] else ""
    return f"{name:28} {row['seconds_per_step']:8.3f} s a step {ordinary}  {memory}{thesis}"


def main() -> None:
    line = CommandLine(__doc__, batch=128, threads=1)
    line.add_argument("--size", choices=LANGUAGE_MODELS, default="llama2_7b", help="of the model")
    line.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    line.add_count("micro", 1, "conversations in a forward pass")
    line.add_count("tokens", 512, "tokens in a conversation", least=2)
    both = ["no", "yes"]
    line.add_argument("--four-bit", nargs="+", choices=both, default=both, help="quantise the frozen weights to 4 bits")
    line.add_argument("--checkpointing", nargs="+", choices=both, default=both, help="recompute activations")
    options = line.parse_args()
    torch.set_num_threads(options.threads)
    sizes = (options.batch, options.micro, options.tokens)
    rows: dict[str, Any] = {}
    for four_bit, checkpointing, method in itertools.product(options.four_bit, options.checkpointing, options.methods):
        name = f"{'q' if four_bit == 'yes' else ''}{method}{', checkpointing' if checkpointing == 'yes' else ''}"
        contender = (options.size, method, four_bit == "yes", checkpointing == "yes")
        try:
            row = in_own_process(measure, *contender, *sizes, threads=options.threads)
            rows[name] = {**row, "thesis": published(name, options.size)}
        except MeasurementError as error:
            rows[name] = {"failed": str(error)}
        print(shown(name, rows[name]), flush=True)
    write_record({**machine(_DEVICE), **settings(options), "rows": rows}, options.output)


if __name__ == "__main__":
    main()
