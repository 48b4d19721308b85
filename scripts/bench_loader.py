"""What the data mix costs beside a training step: 20 sources, a million examples.

    python scripts/bench_loader.py --model MODEL --output outputs/bench/loader.json

The text is random words of a made-up vocabulary, one file for each language. It is read and tokenised once, in one
process, which stores the features. Then a new process for each measurement reads the stored features and times:

    start_up    until the first batch is there
    draw        drawing and padding batches: batches a second, padded tokens for each real one, growth of resident
                memory from the 100th batch to the last
    step        a masked-language-modelling step with full fine-tuning on the same batches

Drawing is measured for both ways of mixing, and for concatenation with batches of like length
(`train.group_by_length`). Without --model, the step is that of a BERT of 4 layers x 256 with random weights. All run on
one thread; times are medians.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from benchmark.memory import private_mib
from benchmark.process import in_own_process
from benchmark.report import CommandLine, machine, write_record
from benchmark.rounds import repeat

from xlt.compose import checked, compose, hydra_ready
from xlt.config import RandomModelConfig, RunConfig
from xlt.data.encoding import Encoder
from xlt.data.mix import Mix, Sampling
from xlt.data.streams import stream
from xlt.engine.build import build_task
from xlt.engine.run_data import RunData
from xlt.models.loading import load_pretrained, load_tokenizer, random_pretrained, save_checkpoint
from xlt.models.vocabulary import train_tokenizer

CODES = "eng deu fra spa ita por nld swe dan isl fao nob pol ces slk hrv slv ron hun fin est lav lit tur kaz uzb"
LANGUAGES = CODES.split()
MIXES = ("concatenation", "size", "grouped")
BATCH_SIZE = 16
_GROWTH_FROM = 100


def _small_model(root: Path) -> Path:
    """Trains a tokenizer on some of the random text and saves a random model beside it; returns the folder."""
    draw = random.Random(0)
    tokenizer = train_tokenizer((_line(draw) for _ in range(5000)), 8000)
    shape = RandomModelConfig("bert", 4, 256, 4, 1024, 160, 8000, dropout=0.1)
    save_checkpoint(random_pretrained(shape, tokenizer, seed=0), tokenizer, root / "bert-4x256")
    return root / "bert-4x256"


def _line(draw: random.Random) -> str:
    return " ".join("".join(draw.choices("aeioulnrst", k=draw.randint(2, 8))) for _ in range(draw.randint(8, 24)))


def _write_texts(root: Path, sources: int, examples: int) -> None:
    for language in LANGUAGES[:sources]:
        draw = random.Random(language)
        with (root / f"{language}.txt").open("w", encoding="utf-8") as file:
            file.writelines(_line(draw) + "\n" for _ in range(examples // sources))


def _config(root: Path, model: str, sources: int) -> RunConfig:
    words = ["task=mlm_lines", "task.max_length=128", f"output_dir={root / 'outputs'}", f"model.path={model}"]
    for language in LANGUAGES[:sources]:
        source = f"data.sources.{language}"
        words += [f"+source@{source}=mono", f"{source}.language={language}", f"{source}.path={root / language}.txt"]
    with hydra_ready():
        return checked(compose([*words, "data.held_out_fraction=0.001"]))


def _mix(root: Path, model: str, sources: int, by: str) -> tuple[Mix, Any, Encoder]:
    """Mix, task and encoder of a run.

    Args:
        root: folder with the texts.
        model: folder of the encoder.
        sources: how many.
        by: one of `MIXES`.
    """
    config = _config(root, model, sources)
    task = build_task(config.task)
    data, encoder = RunData(config, task), Encoder(load_tokenizer(model))
    data.check()
    loaded = data.load("sources", encoder)
    data.load("validation", encoder)
    sampling = Sampling(config.data.sampling.exponent, config.data.sampling.ceiling) if by == "size" else None
    return Mix(loaded, BATCH_SIZE, 1, "dense", sampling, group_by_length=by == "grouped"), task, encoder


def measure_start_up(root: Path, model: str, sources: int) -> tuple[float, float]:
    """Seconds until the first batch is there, and resident MB then."""
    began = time.perf_counter()
    mix, _, _ = _mix(root, model, sources, "concatenation")
    mix.batch(0)
    return time.perf_counter() - began, private_mib()


def measure_drawing(root: Path, model: str, sources: int, by: str, batches: int) -> dict[str, float]:
    mix, task, encoder = _mix(root, model, sources, by)
    seconds = []
    before, padded, real = 0.0, 0, 0
    for step in range(batches):
        if step == min(_GROWTH_FROM, batches // 2):
            before = private_mib()
        began = time.perf_counter()
        batch = task.collate(mix.batch(step).features, encoder, stream(1, "collate", step))
        seconds.append(time.perf_counter() - began)
        padded, real = padded + batch["attention_mask"].numel(), real + int(batch["attention_mask"].sum())
    return {
        "batches_a_second": batches / sum(seconds),
        "seconds_a_batch": statistics.fmean(seconds),
        "padded_tokens_a_token": padded / real,
        "growth_mb": private_mib() - before,
    }


def measure_step(root: Path, model: str, sources: int, steps: int) -> float:
    """Median seconds of a training step, without the drawing of its batch."""
    mix, task, encoder = _mix(root, model, sources, "concatenation")
    transfer = load_pretrained(model).train()
    optimizer = torch.optim.AdamW(transfer.parameters(), lr=1e-5)
    batches = [task.collate(mix.batch(step).features, encoder, stream(1, "collate", step)) for step in range(steps + 1)]
    queue = iter(batches)

    def step() -> None:
        batch = next(queue)
        (task.loss(transfer, batch) / task.targets(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return statistics.median(repeat(step, steps, warm_up=1))


def main() -> None:
    line = CommandLine(__doc__)
    line.add_argument("--model", type=Path, default=None, help="folder of a pre-trained encoder with its tokenizer")
    count = range(1, len(LANGUAGES) + 1)
    line.add_argument("--sources", type=int, default=20, choices=count, metavar="N", help=f"up to {len(LANGUAGES)}")
    line.add_count("examples", 1_000_000, "examples of all sources together")
    line.add_count("batches", 5000, "batches to draw", least=2)
    line.add_count("steps", 5, "timed training steps")
    options = line.parse_args()
    if options.model is not None and not options.model.is_dir():
        line.error(f"--model: {options.model}: no such folder")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="xlt-loader-") as temporary:
        root = Path(temporary)
        model = options.model or _small_model(root)
        _write_texts(root, options.sources, options.examples)
        arguments = (root, str(model), options.sources)
        record: dict[str, Any] = {
            **machine(),
            "sources": options.sources,
            "examples": options.examples,
            "batch_size": BATCH_SIZE,
            "model": model.name,
        }
        record["first_seconds"], _ = in_own_process(measure_start_up, *arguments)  # reads and tokenises
        record["start_up_seconds"], record["start_up_mb"] = in_own_process(measure_start_up, *arguments)
        record["step_seconds"] = in_own_process(measure_step, *arguments, options.steps)
        for name in MIXES:
            drawing = in_own_process(measure_drawing, *arguments, name, options.batches)
            record[name] = drawing | {"share_of_step": drawing["seconds_a_batch"] / record["step_seconds"]}
    write_record(record, options.output, prints=True)


if __name__ == "__main__":
    main()
