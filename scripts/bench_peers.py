"""Steps of LT-SFT and SpIEL beside those of the libraries that people use otherwise, and the cost of module files.

    python scripts/bench_peers.py --size mbert --output outputs/bench_peers.json
    python scripts/bench_peers.py --size small --rounds 15 --rows lt_sft spiel     # 4 layers of 256
    python scripts/bench_peers.py --rows adapters --adapters PYTHON                # an interpreter with `adapters`

Every row is measured in one process, in which we and the peers take turns, step by step (A B C, B C A, ...). Numbers
are CPU seconds of the process with one thread, and seconds of the clock with several. A ratio is the median over the
rounds of the ratio within the round, beside its quartiles.

    lt_sft    a step of LT-SFT's sparse phase; the peer is full fine-tuning of transformers' token classifier
    spiel     an ordinary step of SpIEL-AG and SpIEL-MA; the peer is LoRA of `peft` on all linear layers of the blocks.
              `frozen` trains the classifier and one bias below all blocks: what every method has to compute that tunes
              something in each block, and so the bound of what they can reach beside LoRA
    files     load, apply and remove a delta of 4.3% of the entries (7.6M for mbert); the peer is the re-implementation
              of composable-sft in `bench_modules.py`
    lengths   four steps of full fine-tuning, on the same 32 sentences of the lengths that those of a corpus have; the
              peer pads each batch to its longest sentence, as transformers' Trainer does
    adapters  what `bench_adapters.py` measures, by the interpreter that --adapters names

Models have random weights, dropout 0.1, and a batch of 8 sequences. LoRA has no dropout of its own, as is peft's
default; the thesis's is 0.1, which makes the steps of peft's LoRA much slower. A peer's step is forward pass, backward
pass, clipping as transformers' Trainer does it, and torch's fused AdamW, on batches that are made before. Ours is the
engine's whole step, with the making of the batch. SpIEL's updates are not in its ordinary steps; `bench_training.py`
has them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from bench_modules import delta_entries, peer_load, peer_save, peer_sparse, random_delta, random_model
from benchmark.process import in_own_process
from benchmark.report import CommandLine, machine, settings, write_record
from benchmark.rounds import in_turn, ratios, seconds_of, spread
from benchmark.shapes import ENCODERS, bert_config
from benchmark.trainers import SteppedTrainer, tagging_trainer
from torch import nn

from xlt.modules import ModuleStack, SparseDelta

_BATCH, _LABELS, _LIMIT = 8, 13, 1.0
_MANY_STEPS, _NEVER = 1_000_000, 100_000  # no phase ends here, and SpIEL replaces no entries
ROWS = ("lt_sft", "spiel", "files", "lengths", "adapters")
# Contender of ours -> method, phase, overrides.
_OURS: dict[str, tuple[str, str, list[str]]] = {
    "lt_sft": ("lt_sft", "sparse", ["method.dense_max_steps=1"]),
    "full": ("full", "train", []),
    "spiel_ag": ("spiel_ag", "train", ["method.density=0.01", f"method.update_interval={_NEVER}"]),
    "spiel_ma": ("spiel_ma", "train", ["method.density=0.01", f"method.update_interval={_NEVER}"]),
}
# Tokens of sentences: quantiles of the 2,109 of MasakhaNER's Swahili training set, by a vocabulary of 40,000 pieces.
_LENGTHS = [10, 15, 17, 20, 21, 23, 25, 28, 30, 31, 33, 35, 36, 38, 39, 41]
_LENGTHS += [42, 44, 46, 47, 49, 51, 53, 54, 56, 58, 61, 65, 68, 73, 80, 93]
_LORA_RANKS = {"lora_8": 8, "lora_64": 64}
_LAYERS = r".*encoder\.layer\..*\.(query|key|value|dense)"


class Peer:
    """A model of transformers, adapted by a library, with batches to train on."""

    def __init__(
        self, size: str, tokens: int | list[int], rank: int | None, lora_dropout: float, *, frozen: bool = False
    ) -> None:
        """
        Args:
            tokens: of each sentence of a batch; or those of all sentences, which are put into batches at random.
            rank: of peft's LoRA; None means that all weights are trained.
            frozen: all weights are frozen except the classifier's and one bias below all blocks.
        """
        from peft import LoraConfig, get_peft_model
        from transformers import BertForTokenClassification

        torch.manual_seed(0)
        self._model: nn.Module = BertForTokenClassification(bert_config(size, num_labels=_LABELS))
        if rank is not None:
            lora = LoraConfig(r=rank, lora_alpha=16, lora_dropout=lora_dropout, target_modules=_LAYERS)
            self._model = get_peft_model(self._model, lora)
            self._model.get_submodule("base_model.model.classifier").requires_grad_(True)
        if frozen:
            self._model.requires_grad_(False).get_submodule("classifier").requires_grad_(True)
            self._model.get_parameter("bert.embeddings.LayerNorm.bias").requires_grad_(True)
        self._model.train()
        self._trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=1e-5, fused=True)
        lengths = torch.tensor([tokens] * _BATCH if isinstance(tokens, int) else tokens)
        self._batches = []
        for of_batch in lengths[torch.randperm(len(lengths))].split(_BATCH):
            shape = len(of_batch), int(of_batch.max())
            mask = torch.arange(shape[1]) < of_batch[:, None]
            ids = torch.randint(5, ENCODERS[size].vocabulary, shape) * mask
            labels = torch.randint(_LABELS, shape).masked_fill(~mask, -100)
            self._batches.append({"input_ids": ids, "attention_mask": mask.long(), "labels": labels})

    def steps(self) -> None:
        """Trains on each batch once."""
        for batch in self._batches:
            self._model(**batch).loss.backward()
            nn.utils.clip_grad_norm_(self._trained, _LIMIT)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)


def our_steps(size: str, name: str, tokens: int | list[int], density: float) -> SteppedTrainer:
    method, phase, overrides = _OURS[name]
    words = [*overrides, f"train.max_steps={_MANY_STEPS}", f"train.batch_size={_BATCH}"]
    words += [f"method.density={density}"] if name == "lt_sft" else []
    return SteppedTrainer(tagging_trainer(size, method, words, tokens), phase)


def measure_steps(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """Steps of the row's contenders, in this process."""
    size, tokens = options.size, options.tokens
    if row == "lt_sft":
        ours = {"lt_sft": our_steps(size, "lt_sft", tokens, options.density)}
        peers = {"full": Peer(size, tokens, None, 0.0)}
    else:
        ours = {name: our_steps(size, name, tokens, 0.01) for name in ("spiel_ag", "spiel_ma")}
        peers = {name: Peer(size, tokens, rank, options.lora_dropout) for name, rank in _LORA_RANKS.items()}
        peers["frozen"] = Peer(size, tokens, None, 0.0, frozen=True)
    steps = {name: trainer.step for name, trainer in ours.items()} | {name: peer.steps for name, peer in peers.items()}
    seconds = in_turn(steps, options.rounds, clock=_clock(options.threads))
    for trainer in ours.values():
        trainer.close()
    bound = [name for name in peers if name == "frozen"]
    return compared(seconds, [*ours, *bound], peers)


def measure_lengths(options: argparse.Namespace) -> dict[str, Any]:
    """Full fine-tuning on sentences of several lengths, each of which both sides train on once a turn."""
    ours, peer = our_steps(options.size, "full", _LENGTHS, 0.0), Peer(options.size, _LENGTHS, None, 0.0)

    def our_turn() -> None:
        for _ in range(len(_LENGTHS) // _BATCH):
            ours.step()

    contenders = {"xlt": our_turn, "transformers": peer.steps}
    seconds = in_turn(contenders, options.rounds, clock=_clock(options.threads))
    ours.close()
    return compared(seconds, ["xlt"], ["transformers"])


def measure_files(options: argparse.Namespace) -> dict[str, Any]:
    """Loading, applying and removing one module, in this process or by composable-sft in its own."""
    size, clock = options.size, _clock(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        file, theirs = Path(folder) / "module.safetensors", Path(folder) / "peer"
        delta = random_delta(size)
        delta.save(file, torch.float32)
        peer_save(peer_sparse(delta), theirs)
        loads = {"xlt": lambda: SparseDelta.load(file), "peer": lambda: peer_load(theirs)}
        seconds = {"load": in_turn(loads, options.rounds, clock=clock)}
        ours, other = random_model(size), random_model(size)
        stack, delta, diffs = ModuleStack(ours), SparseDelta.load(file), peer_load(theirs)

        @torch.no_grad()
        def change(sign: int) -> None:
            for name, diff in diffs.items():
                other.get_parameter(name).add_(diff, alpha=sign)

        switches: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "xlt": (lambda: stack.apply(delta), lambda: stack.remove(delta)),
            "peer": (lambda: change(1), lambda: change(-1)),
        }
        for name in ("apply", "remove"):
            seconds[name] = {side: [] for side in switches}
        for number in range(options.rounds + 1):
            for side, calls in switches.items():
                for name, call in zip(("apply", "remove"), calls, strict=True):
                    spent = seconds_of(call, clock=clock)
                    if number:  # the first round warms up
                        seconds[name][side].append(spent)
    return {"entries": delta_entries(size)} | {
        name: compared(sides, ("xlt",), ("peer",)) for name, sides in seconds.items()
    }


def measure_adapters(options: argparse.Namespace) -> dict[str, Any]:
    """Runs `bench_adapters.py` by the interpreter that has the library, and returns its record."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.json"
        script = Path(__file__).with_name("bench_adapters.py")
        words = [options.adapters, script, "--size", options.size, "--threads", str(options.threads)]
        subprocess.run([*map(str, words), "--output", str(record)], check=True, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return found


def compared(seconds: Mapping[str, list[float]], ours: Iterable[str], peers: Iterable[str]) -> dict[str, Any]:
    """Median seconds of each contender, and the ratios of each of ours to each of the peers."""
    peers = list(peers)
    return {
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "ratios": {
            name: {peer: spread(ratios(seconds, name, peer)) for peer in peers if peer != name} for name in ours
        },
    }


def _clock(threads: int) -> Callable[[], float]:
    """With one thread the process's CPU seconds, which other processes hardly change; otherwise the wall clock's."""
    return time.process_time if threads == 1 else time.perf_counter


def show(row: str, found: Mapping[str, Any]) -> None:
    for part, result in [(row, found)] if "ratios" in found else [(f"{row} {name}", found[name]) for name in found]:
        for name, of_peers in result["ratios"].items() if isinstance(result, dict) else ():
            for peer, ratio in of_peers.items():
                median, low, high = ratio["median"], ratio["low"], ratio["high"]
                print(f"{part:14} {name:9} / {peer:12} {median:5.2f}  ({low:.2f} to {high:.2f})", flush=True)


def main() -> None:
    line = CommandLine(__doc__, rounds=9, threads=1, tokens=128)
    line.add_argument("--size", choices=ENCODERS, default="small", help="of the model; default: %(default)s")
    line.add_argument("--rows", nargs="+", choices=ROWS, default=["lt_sft", "spiel", "files", "lengths"])
    line.add_argument("--density", type=float, default=0.043, help="of LT-SFT; default: %(default)s")
    line.add_argument(
        "--lora-dropout", type=float, default=0.0, help="of peft's LoRA; default: %(default)s, as in peft"
    )
    line.add_argument("--adapters", metavar="PYTHON", help="an interpreter with xlt and the library adapters")
    options = line.parse_args()
    if "adapters" in options.rows and options.adapters is None:
        line.error("--rows adapters: needs --adapters PYTHON, an interpreter that has the library")
    torch.set_num_threads(options.threads)
    record: dict[str, Any] = {**machine(), **settings(options, "rows"), "rows": {}}
    for row in options.rows:
        if row == "adapters":
            found = measure_adapters(options)
        elif row in ("files", "lengths"):
            measure = measure_files if row == "files" else measure_lengths
            found = in_own_process(measure, options, threads=options.threads)
        else:
            found = in_own_process(measure_steps, row, options, threads=options.threads)
        record["rows"][row] = found
        if row != "adapters":
            show(row, found)
    write_record(record, options.output)


if __name__ == "__main__":
    main()
