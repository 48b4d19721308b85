"""Thesis Table 7.4: memory and seconds a step of LoRA, SpIEL-AG and SpIEL-MA on a language model, also over 4 bits.

    python scripts/bench_llm.py --size llama2_7b --output bench_llm.json          # a GPU of 40 GB and more
    python scripts/bench_llm.py --size tiny                                       # runs anywhere

The model has random weights in bfloat16. Settings are the thesis's (§7.4.3, §E.5): equivalent rank 64, all linear
layers of the blocks, updates every 20 steps with 5 of estimation. Each method runs in a process of its own, without and
with activation checkpointing, over bfloat16 and over 4 bits. Memory is the peak that torch has allocated, and on a CPU
the resident set's high-water mark. The thesis searched for the least memory that suffices, which lies between what
torch allocated and what it reserved. Seconds are the mean over one update interval, updates included, beside the median
of ordinary steps. A method that fails, for lack of memory for instance, has its error message in the record.

    python scripts/bench_llm.py --predict --size llama2_13b --tokens 2048         # needs no GPU and little memory

This predicts the memory of each method instead, on a GPU, from the code: engine, method and model run with tensors that
have a shape but no memory. It says what the bytes are for. The thesis does not say how many tokens its passes had.
"""

from __future__ import annotations

import importlib.resources
import itertools
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from benchmark.hollow import pack_blocks
from benchmark.ledger import Peak
from benchmark.memory import PeakMemory
from benchmark.prediction import SETTINGS, STEPS, predicted, record, show
from benchmark.process import MeasurementError, in_own_process
from benchmark.report import CommandLine, machine, settings, write_record
from benchmark.shapes import ENCODERS, LANGUAGE_MODELS, llama_config
from benchmark.trainers import StepClock, make_trainer, run_config, tagging_trainer, train

from xlt.engine.build import build_task
from xlt.engine.training import Trainer
from xlt.errors import UsageError
from xlt.models.quantised import quantise_blocks
from xlt.models.transfer import TransferModel, recompute_activations, split_pretrained

METHODS = ("lora", "spiel_ag", "spiel_ma")
_EQUIVALENT_RANK = ["method.density=null", "method.rank=64"]
_WARM_UP = 2
_INTERVAL, _ESTIMATION = 20, 5  # thesis §7.4.3
_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random_model(size: str, four_bit: bool, checkpointing: bool, layers: int | None = None) -> TransferModel:
    """A language model with random weights on the device.

    Args:
        size: a key of `LANGUAGE_MODELS`.
        four_bit: whether the weights of the blocks are in 4 bits.
        checkpointing: whether activations are recomputed.
        layers: of a hollow model; None: the model is whole, and as large as its size says.
    """
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(_DEVICE if layers is None else "cpu"):
        pretrained = LlamaForCausalLM(llama_config(size, **({} if layers is None else {"num_hidden_layers": layers})))
    torch.set_default_dtype(torch.float32)
    model = TransferModel(*split_pretrained(pretrained), "random", size)
    if four_bit:
        (quantise_blocks if layers is None else pack_blocks)(model)
    if checkpointing:
        recompute_activations(model)
    return model


def rank_of(size: str, method: str) -> list[str]:
    """Overrides for the number of tuned parameters; the tiny model has too few for the thesis's rank."""
    if method not in METHODS:
        return []
    if size != "tiny":
        return [] if method == "lora" else _EQUIVALENT_RANK
    return ["method.rank=8" if method == "lora" else "method.density=0.02"]


def trainer_of(
    size: str,
    method: str,
    four_bit: bool,
    checkpointing: bool,
    batch: int,
    micro: int,
    tokens: int,
    overrides: Sequence[str],
    layers: int | None = None,
) -> Trainer:
    """A trainer of a random language model on random conversations, of which the later half is the answer."""
    model = random_model(size, four_bit, checkpointing, layers)
    config = run_config(
        [
            "experiment=instruct",
            "model.path=random/random",
            f"method={method}",
            *rank_of(size, method),
            *(["method.candidates_from=micro_batch"] if method == "spiel_ag" else []),  # as the thesis's recipe
            f"task.max_length={tokens}",
            *overrides,
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
    steps = [f"train.max_steps={2 * _INTERVAL + 1}"]
    trainer = trainer_of(size, method, four_bit, checkpointing, batch, micro, tokens, steps)
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


def predict(size: str, method: str, four_bit: bool, checkpointing: bool, micro: int, tokens: int) -> Peak:
    """The peak of a training with two passes a step; of an encoder it is that of a tagger in float32."""
    settings = [*STEPS, *SETTINGS.get(method, ())]
    if size not in LANGUAGE_MODELS:
        if four_bit:
            raise UsageError("encoders are predicted without 4 bits; give --four-bit no")
        settings += [f"train.batch_size={2 * micro}", f"train.micro_batch_size={micro}", "train.precision=fp32"]

        def tagger(layers: int) -> Trainer:
            trainer = tagging_trainer(size, method, settings, tokens, layers=layers)
            if checkpointing:
                recompute_activations(trainer.model)
            return trainer

        return predicted(tagger, ENCODERS[size].layers)
    return predicted(
        lambda layers: trainer_of(
            size, method, four_bit, checkpointing, 2 * micro, micro, tokens, settings, layers=layers
        ),
        LANGUAGE_MODELS[size].layers,
    )


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
    sizes = [*LANGUAGE_MODELS, *(size for size in ENCODERS if size not in LANGUAGE_MODELS)]
    line.add_argument("--predict", action="store_true", help="predict the memory; nothing is trained")
    line.add_argument("--size", choices=sizes, default="llama2_7b", help="of the model; encoders with --predict only")
    line.add_argument("--methods", nargs="+", default=list(METHODS), help=f"with --predict any; default: {METHODS}")
    line.add_count("micro", 1, "conversations in a forward pass")
    line.add_count("tokens", 512, "tokens in a conversation", least=2)
    both = ["no", "yes"]
    line.add_argument("--four-bit", nargs="+", choices=both, default=both, help="quantise the frozen weights to 4 bits")
    line.add_argument("--checkpointing", nargs="+", choices=both, default=both, help="recompute activations")
    options = line.parse_args()
    if not options.predict and (options.size not in LANGUAGE_MODELS or {*options.methods} - {*METHODS}):
        line.error(f"--size {options.size} --methods {' '.join(options.methods)}: give --predict, too; without it only "
                   f"{', '.join(LANGUAGE_MODELS)} and {', '.join(METHODS)} are measured")  # fmt: skip
    if {*options.methods} - {*(known := _all_methods())}:
        line.error(f"--methods {' '.join(options.methods)}: there are {', '.join(known)}")
    torch.set_num_threads(options.threads)
    numbers = (options.batch, options.micro, options.tokens)
    rows: dict[str, Any] = {}
    for four_bit, checkpointing, method in itertools.product(options.four_bit, options.checkpointing, options.methods):
        name = f"{'q' if four_bit == 'yes' else ''}{method}{', checkpointing' if checkpointing == 'yes' else ''}"
        contender = (options.size, method, four_bit == "yes", checkpointing == "yes")
        if options.predict:
            rows[name] = _predicted(name, contender, options.micro, options.tokens)
            continue
        try:
            row = in_own_process(measure, *contender, *numbers, threads=options.threads)
            rows[name] = {**row, "thesis": published(name, options.size)}
        except MeasurementError as error:
            rows[name] = {"failed": str(error)}
        print(shown(name, rows[name]), flush=True)
    if options.predict:
        show(rows)
    write_record({**machine(_DEVICE), **settings(options), "rows": rows}, options.output)


def _predicted(name: str, contender: tuple[str, str, bool, bool], micro: int, tokens: int) -> dict[str, Any]:
    try:
        return record(predict(*contender, micro, tokens), published(name, contender[0]).get("GB"))
    except UsageError as error:  # a method that cannot adapt this model
        return {"failed": "; ".join(error.lines)}


def _all_methods() -> list[str]:
    folder = importlib.resources.files("xlt_conf") / "method"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


if __name__ == "__main__":
    main()
