"""The benchmarks still run, at sizes that say nothing about speed, and write the records that they always wrote."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"
MACHINE = {"device", "torch", "threads"}


@pytest.mark.parametrize(
    ("script", "arguments", "rows"),
    [
        ("bench_training.py", "--size tiny --methods lt_sft --steps 1 --rounds 1", 2),
        pytest.param(
            "bench_training.py",
            "--size tiny --methods full lt_sft lora_8_as_in_peft --steps 1 --rounds 1",
            4,
            marks=pytest.mark.slow,
        ),
        pytest.param("bench_switching.py", "--size tiny --steps 1 --batch 2", 2, marks=pytest.mark.slow),
        pytest.param(
            "bench_llm.py",
            "--size tiny --batch 2 --methods spiel_ag --four-bit yes --checkpointing yes",
            1,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_benchmark_writes_its_rows(script: str, arguments: str, rows: int, tmp_path: Path) -> None:
    output = tmp_path / "rows.json"
    command = [sys.executable, str(SCRIPTS / script), *arguments.split(), "--tokens", "8", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())["rows"]
    assert len(found) == rows
    assert all(math.isfinite(row["seconds_per_step"]) and row["seconds_per_step"] > 0 for row in found.values())


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """`load("bench_select")`: the script's module, whose measurements run in this process, for the sake of speed."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    threads = torch.get_num_threads()

    def load(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        script = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, script)  # its dataclasses look their module up
        spec.loader.exec_module(script)
        if hasattr(script, "in_own_process"):
            monkeypatch.setattr(script, "in_own_process", in_this_process)
        return script

    yield load
    torch.set_num_threads(threads)


def in_this_process(measure: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    return measure(*arguments)


@pytest.fixture
def record_of(
    load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """`record_of("bench_select", "--repeats 1", CONSTANT=value)`: what the script writes."""

    def record_of(name: str, words: str, **constants: Any) -> dict[str, Any]:
        script, output = load(name), tmp_path / "record.json"
        for constant, value in constants.items():
            monkeypatch.setattr(script, constant, value)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words.split(), "--output", str(output)])
        script.main()
        return json.loads(output.read_text(encoding="utf-8"))

    return record_of


@pytest.mark.slow
def test_selection_is_compared_on_equal_sizes(record_of: Callable[..., dict[str, Any]]) -> None:
    record = record_of("bench_select", "--entries 200000 --list-entries 20000 --repeats 1")
    assert set(record) == {*MACHINE, "benchmark", "changes", "repeats", "large", "small"}
    for part, peer in (("large", "torch_topk"), ("small", "python_list")):
        assert set(record[part]) == {"entries", "k", "ours", peer}
        assert record[part]["k"] == int(record[part]["entries"] * 7.6e6 / 177_139_968)
        for row in (record[part]["ours"], record[part][peer]):
            assert set(row) == {"wall_seconds", "cpu_seconds", "extra_peak_bytes", "wall_over_ours"}
    assert record["large"]["ours"]["wall_over_ours"] == 1


def test_serving_is_measured_for_each_kind_of_module(record_of: Callable[..., dict[str, Any]]) -> None:
    record = record_of("bench_serving", "--size tiny --languages 3 --sentences 12 --batch 4 --rounds 1")
    assert set(record["kinds"]) == {"adapter", "low_rank", "sparse_delta"}
    for kind in record["kinds"].values():
        assert kind["share"]["median"] > 0 and set(kind["sentences_per_second"]) == {"one", "many"}


def test_all_ways_of_selection_select_as_many_entries(load: Callable[[str], Any]) -> None:
    script = load("bench_select")
    after, before = script.make_pair(100_000, "rows")
    for way in (script.select_most_changed, script.by_topk, script.by_python_list):
        assert sum(len(chosen) for chosen in way(after, before, 500).values()) == 500


def test_a_sparse_gradient_is_measured_for_each_shape_and_density(record_of: Callable[..., dict[str, Any]]) -> None:
    record = record_of("bench_sparse_linear", "--shapes 16x8 8x8 --tokens 4 --repeats 1 --densities 0.1 0.5")
    assert set(record) == {*MACHINE, "benchmark", "dtype", "repeats", "results"}
    assert [(row["rows"], row["density"]) for row in record["results"]] == [(16, 0.1), (16, 0.5), (8, 0.1), (8, 0.5)]
    for row in record["results"]:
        times = row["milliseconds"]
        assert set(times) == {"ours", "dense_and_gather", "ours_backward", "dense_backward"}
        assert row["ours_over_dense_and_gather"] == times["ours"] / times["dense_and_gather"]
        assert row["entry_cost_ratio"] == row["ours_over_dense_and_gather"] / row["density"]


def test_both_ways_find_the_same_largest_products(record_of: Callable[..., dict[str, Any]]) -> None:
    record = record_of("bench_outer_topk", "--rows 64 --columns 128 --repeats 1")
    assert set(record) == {*MACHINE, "columns", "density", "repeats", "rows", "ratio"}
    rows = record["rows"]
    assert set(rows["formed"]) == set(rows["outer_topk"]) == {"seconds", "peak_mib", "checksum"}
    assert rows["formed"]["checksum"] == pytest.approx(rows["outer_topk"]["checksum"], rel=1e-6)  # float32 products
    assert record["ratio"] == rows["formed"]["seconds"] / rows["outer_topk"]["seconds"]


@pytest.mark.slow
def test_every_operation_on_a_delta_is_measured(record_of: Callable[..., dict[str, Any]]) -> None:
    record = record_of("bench_modules", "--size tiny")
    dtypes = [f"{name}_{dtype}" for dtype in ("float32", "float16") for name in ("save", "load", "switch")]
    peers = ["select_topk", "peer_save", "peer_load", "peer_switch"]
    assert set(record) == {*MACHINE, "entries", "model_entries", *dtypes, "select", *peers}
    assert record["entries"] == round(record["model_entries"] * 7_600_000 / 177_262_848)
    assert set(record["save_float32"]) == {"seconds", "peak_mb", "file_mb"}
    assert set(record["switch_float16"]) == {"apply_seconds", "remove_seconds", "unchanged_seconds", "peak_mb"}
    assert set(record["peer_switch"]) == {"apply_seconds", "remove_seconds", "entries_not_restored"}


def test_compositions_are_ranked_in_place_and_leave_the_base(record_of: Callable[..., Any]) -> None:
    record = record_of("bench_compositions", "--size tiny --compositions 5 --whole 2")
    assert record["compositions"] == 5 and record["entries_of_sum"] > max(record["entries"])
    assert record["last_sum_has_the_same_bits"] is record["base_restored_to_the_bit"] is True


def test_distillation_is_timed_after_the_losses_agree(record_of: Callable[..., dict[str, Any]]) -> None:
    record = record_of("bench_distillation", "--size tiny --batch 2 --tokens 8 --rounds 2 --device cpu")
    systems = ["xlt", "xlt_bf16", "naive", "naive_mlm"]
    assert set(record) == {*MACHINE, "setup", "agreement", "memory", "seconds", "time_ratio"}
    assert record["setup"] == {"size": "tiny", "batch": 2, "tokens": 8, "device": "cpu", "precision": "fp32"}
    assert set(record["agreement"]) == {"loss", "gradient"} and max(record["agreement"].values()) < 1e-3
    assert list(record["memory"]) == list(record["seconds"]) == list(record["time_ratio"]) == systems
    assert all(set(used) == {"peak_mib", "grown_mib"} for used in record["memory"].values())
    assert all(len(times) == 2 for times in record["seconds"].values()) and record["time_ratio"]["naive"] == 1


def test_flix_holds_its_parameters_and_what_the_used_ones_need(record_of: Callable[..., dict[str, Any]]) -> None:
    pytest.importorskip("peft", reason="peft is not installed: pip install 'xlt[peft]'")
    record = record_of("bench_flix", "--layers 1 --hidden 64 --examples 8 --length 8 --rounds 1")
    assert set(record) == {*MACHINE, "rounds", "layers", "hidden", "examples", "length", "rows"}
    rows = record["rows"]
    few, many = (rows[f"FLix, {count} features, eight languages"] for count in (9, 200))
    entries = 4 * (64 + 64) + 2 * (64 + 256)  # of one rank in all layers of the block
    head = 4 * 17 * (64 + 1)
    assert 2**20 * few["held_mib"] == pytest.approx(4 * (4 * entries * (4 + 8 * 2) + head) + 4 * 11, rel=0.01)
    more = 4 * entries * 2 * (199 - 8)  # parameters of languages that no example is in: no gradient, no moment
    assert 2**20 * (many["held_mib"] - few["held_mib"]) == pytest.approx(more)
    for row in rows.values():
        assert row["grown_mib"] == pytest.approx(row["held_mib"] + row["beside_mib"])


def test_dropout_attention_and_a_model_are_compared_with_torchs(record_of: Callable[..., dict[str, Any]]) -> None:
    small = {"HIDDEN": ((2, 4, 8),), "ATTENTION": ((2, 2, 8, 4),), "MODELS": {"12x384": "tiny"}, "BATCHES": ((2, 8),)}
    record = record_of("bench_dropout", "--rounds 1", **small)
    assert set(record) == {*MACHINE, "rounds", "rows"}
    assert [row["what"] for row in record["rows"]] == [
        *["dropout"] * 2,
        *["attention"] * 4,
        *["BERT, forward and backward"] * 2,
    ]
    for row in record["rows"]:
        assert row["ratio"] == row["ours_ms"] / row["torch_ms"]


def test_the_data_mix_is_measured_for_each_way_of_mixing(record_of: Callable[..., dict[str, Any]]) -> None:
    record = record_of("bench_loader", "--sources 2 --examples 400 --batches 4 --steps 1")
    about = {"sources", "examples", "batch_size", "model"}
    start = {"first_seconds", "start_up_seconds", "start_up_mb", "step_seconds"}
    assert set(record) == {*MACHINE, *about, *start, "concatenation", "size", "grouped"}
    drawing = {"batches_a_second", "seconds_a_batch", "padded_tokens_a_token", "growth_mb", "share_of_step"}
    for mix in ("concatenation", "size", "grouped"):
        assert set(record[mix]) == drawing and record[mix]["padded_tokens_a_token"] >= 1


@pytest.mark.slow
def test_adapters_are_measured_without_the_library_too(record_of: Callable[..., dict[str, Any]]) -> None:
    if importlib.util.find_spec("adapters") is not None:
        pytest.skip("the adapters library is installed")
    words = "--size tiny --batch 2 --tokens 8 --steps 1 --rounds 1 --device cpu --cases stacked mad_g generate"
    record = record_of("bench_adapters", words)
    versions = {"python", "transformers", "adapters"}
    options = {"size", "batch", "tokens", "steps", "rounds", "precision", "leave_out_last"}
    assert set(record) == {*MACHINE, *versions, *options, "cases", "generate"}
    assert list(record["cases"]["stacked"]["rows"]) == ["floor", "xlt"]
    case = record["cases"]["mad_g"]
    assert list(case["rows"]) == ["floor", "xlt", "mad_g"] and list(case["ratios"]) == ["mad_g / xlt"]
    measured = {"seconds", "all_seconds", "ratio_to_floor", "operations", "operations_to_floor"}
    assert set(case["rows"]["mad_g"]) == {*measured, "peak_mib", "grown_mib", "all_memory", "trained"}
    assert case["rows"]["floor"]["operations_to_floor"] == 1 < case["rows"]["xlt"]["operations_to_floor"]
    sizes = {"generator_parameters", "adapter_parameters"}
    assert set(record["generate"]) == {"seconds", "all_seconds", *sizes}


def test_a_method_that_fails_has_its_message_in_the_record(
    record_of: Callable[..., dict[str, Any]], load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark.process import MeasurementError

    def fail(*arguments: Any, **settings: Any) -> Any:
        raise MeasurementError("measure: OutOfMemoryError: 80 GiB")

    words = "--size tiny --batch 2 --tokens 8 --methods lora --four-bit no --checkpointing no"
    record = record_of("bench_llm", words, in_own_process=fail)
    assert record["rows"] == {"lora": {"failed": "measure: OutOfMemoryError: 80 GiB"}}
