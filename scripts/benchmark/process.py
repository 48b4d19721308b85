"""Measurements in processes of their own, so that none inherits another's memory, caches or settings."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch


class MeasurementError(RuntimeError):
    """A measurement failed in its process; the message is one line, the process's traceback is attached as a note."""


def in_own_process(
    measure: Callable[..., Any], *arguments: Any, threads: int = 1, environment: Mapping[str, str] | None = None
) -> Any:
    """Calls a function in a new process and returns its result.

    What the process prints goes to standard error, so that the standard output holds the benchmark's own lines.

    Args:
        measure: a function at the top level of a module or of the script that runs.
        arguments: are pickled, and so is the result.
        threads: for torch in the new process.
        environment: variables that only the new process gets.
    Raises:
        MeasurementError: the function raised an exception, or its process was killed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, threads, measure, arguments))
    with _environment(environment or {}):
        process.start()
    sender.close()
    try:
        result, failure, text = receiver.recv()
    except EOFError:
        process.join()
        result, failure, text = None, f"its process ended with exit code {process.exitcode}", ""
    except BaseException:
        process.kill()
        raise
    process.join()
    if failure is None:
        return result
    error = MeasurementError(f"{measure.__name__}: {failure}")
    if text:
        error.add_note(text)
    raise error


def rounds_of_processes(
    measure: Callable[..., Any], arguments: Mapping[str, Sequence[Any]], rounds: int, *, threads: int = 1
) -> dict[str, list[Any]]:
    """Measures contenders by turns (A B C, A B C, ...), each time in a new process.

    Args:
        arguments: contender -> arguments of `measure`.
    Returns:
        contender -> a result for each round.
    Raises:
        MeasurementError: one of the measurements failed.
    """
    results: dict[str, list[Any]] = {name: [] for name in arguments}
    for _ in range(rounds):
        for name, values in arguments.items():
            results[name].append(in_own_process(measure, *values, threads=threads))
    return results


def _measure(sender: Connection, threads: int, measure: Callable[..., Any], arguments: Sequence[Any]) -> None:
    """What the new process does: sends the result, or the failure's one line and its traceback."""
    os.dup2(2, 1)
    torch.set_num_threads(threads)
    try:
        sender.send((measure(*arguments), None, ""))
    except SystemExit as stop:
        sender.send((None, str(stop.code), ""))
    except BaseException as error:
        line = " ".join("".join(traceback.format_exception_only(error)).split())
        sender.send((None, line, traceback.format_exc()))


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables, which a process started inside inherits, and restores the earlier ones."""
    earlier = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in earlier.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
