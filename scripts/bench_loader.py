"""What the data mix costs beside a training step: 20 sources, a million examples.

    python scripts/bench_loader.py --model MODEL --output outputs/bench/loader.json

Text is random words of a made-up vocabulary, one file a language. It is read and tokenised once, in one process; then,
in a fresh process for each measurement, the features are found again (start-up), batches are drawn from the mix and
padded (batches a second, tokens with padding for one without, growth of resident memory from the 100th batch to the
last), and a masked-language-modelling step with full fine-tuning is timed on the same batches. Both ways of mixing are
measured, and concatenation with batches of like length (`train.group_by_length`). Without --model the step is that of a
BERT of 4 layers x 256 with random weights. One thread; medians.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

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
BATCH_SIZE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="folder of a pre-trained encoder with its tokenizer")
    parser.add_argument("--sources", type=int, default=20, choices=range(1, len(LANGUAGES) + 1), metavar="N")
    parser.add_argument("--examples", type=int, default=1_000_000, help="of all sources together")
    parser.add_argument("--batches", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=5, help="timed training steps")
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xlt-loader-") as temporary:
        root = Path(temporary)
        model = options.model or _small_model(root)
        _write_texts(root, options.sources, options.examples)
        arguments = (root, str(model), options.sources)
        record: dict[str, Any] = {
            "machine": platform.machine(),
            "torch": torch.__version__,
            "sources": options.sources,
            "examples": options.examples,
            "batch_size": BATCH_SIZE,
            "model": model.name,
        }
        record["first_seconds"], _ = _apart(_start_up, *arguments)
        record["start_up_seconds"], record["start_up_mb"] = _apart(_start_up, *arguments)
        record["step_seconds"] = _apart(_step, *arguments, options.steps)
        for name in ("concatenation", "size", "grouped"):
            found = _apart(_draw, *arguments, name, options.batches)
            found["share_of_step"] = found["seconds_a_batch"] / record["step_seconds"]
            record[name] = found
    text = json.dumps(record, indent=1)
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")


def _small_model(root: Path) -> Path:
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
    config = _config(root, model, sources)
    task = build_task(config.task)
    data, encoder = RunData(config, task), Encoder(load_tokenizer(model))
    data.check()
    loaded = data.load("sources", encoder)
    data.load("validation", encoder)
    sampling = Sampling(config.data.sampling.exponent, config.data.sampling.ceiling) if by == "size" else None
    return Mix(loaded, BATCH_SIZE, 1, "dense", sampling, group_by_length=by == "grouped"), task, encoder


def _start_up(root: Path, model: str, sources: int) -> tuple[float, float]:
    """Seconds until the first batch is there, and resident MB then."""
    began = time.perf_counter()
    mix, _, _ = _mix(root, model, sources, "concatenation")
    mix.batch(0)
    return time.perf_counter() - began, _resident_mb()


def _draw(root: Path, model: str, sources: int, by: str, batches: int) -> dict[str, float]:
    mix, task, encoder = _mix(root, model, sources, by)
    seconds = []
    before, padded, real = 0.0, 0, 0
    for step in range(batches):
        if step == min(100, batches // 2):
            before = _resident_mb()
        began = time.perf_counter()
        batch = task.collate(mix.batch(step).features, encoder, stream(1, "collate", step))
        seconds.append(time.perf_counter() - began)
        padded, real = padded + batch["attention_mask"].numel(), real + int(batch["attention_mask"].sum())
    return {
        "batches_a_second": batches / sum(seconds),
        "seconds_a_batch": statistics.fmean(seconds),
        "padded_tokens_a_token": padded / real,
        "growth_mb": _resident_mb() - before,
    }


def _step(root: Path, model: str, sources: int, steps: int) -> float:
    mix, task, encoder = _mix(root, model, sources, "concatenation")
    transfer = load_pretrained(model).train()
    optimizer = torch.optim.AdamW(transfer.parameters(), lr=1e-5)
    seconds = []
    for step in range(steps + 1):
        batch = task.collate(mix.batch(step).features, encoder, stream(1, "collate", step))
        began = time.perf_counter()
        (task.loss(transfer, batch) / task.targets(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def _resident_mb() -> float:
    """Memory of this process alone: file pages that are mapped and can be given back do not count."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a process of its own, on one thread."""
    with multiprocessing.get_context("spawn").Pool(1, torch.set_num_threads, (1,)) as pool:
        result = pool.apply(function, arguments)
        pool.close()
        pool.join()  # or it would be killed, and complain of it
    return result


if __name__ == "__main__":
    main()
