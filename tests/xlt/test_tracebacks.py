from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch

from xlt.tracebacks import PlainError, error_line, failure_line


def _raised(action: object) -> Exception:
    with pytest.raises(Exception) as caught:
        action()  # type: ignore[operator]
    return caught.value


def test_the_place_is_the_innermost_line_outside_of_libraries() -> None:
    def wrong_shapes() -> None:
        torch.nn.functional.linear(torch.zeros(2, 3), torch.zeros(4, 5))  # here

    line = error_line(_raised(wrong_shapes))
    here = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.endswith("# here"))
    assert line.startswith(f"tests/xlt/test_tracebacks.py:{here}: RuntimeError: ")
    assert "\n" not in line


def test_a_library_that_fails_without_our_line_names_its_own() -> None:
    error = _raised(lambda: json.loads("{"))
    error.__traceback__ = error.__traceback__.tb_next.tb_next  # type: ignore[union-attr]
    assert "json" in error_line(error) and "JSONDecodeError" in error_line(error)


def test_the_traceback_is_kept_with_its_causes(tmp_path: Path) -> None:
    def chained() -> None:
        try:
            raise KeyError("the cause")
        except KeyError as error:
            raise RuntimeError("the consequence") from error

    file = tmp_path / "new" / "traceback.txt"
    line = failure_line(_raised(chained), file)
    assert "RuntimeError: the consequence" in line and str(file) in line
    assert "the cause" in file.read_text() and "the cause" not in line


def test_where_no_traceback_can_be_written_the_line_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    line = failure_line(_raised(lambda: 1 / 0), tmp_path / "file" / "traceback.txt")
    assert "ZeroDivisionError" in line and "could not be written" in line


def test_a_message_of_many_lines_and_pages_is_one_short_line() -> None:
    line = error_line(ValueError("first\nsecond\n" + "x" * 5000))
    assert line.startswith("ValueError: first second xxx") and len(line) < 500


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "2.00 GiB"),
        (MemoryError(), "train.micro_batch_size"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
            "train.batch_size",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "out/state"), "disk is full"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), "File name too long"),
        (OSError(errno.EROFS, "Read-only file system", "/out/runs"), "/out/runs: Read-only file system"),
        (FloatingPointError("the loss is nan; lower train.learning_rate"), "lower train.learning_rate"),
        (PlainError("process 1: failed alone"), "process 1: failed alone"),
    ],
)
def test_what_is_no_error_of_the_program_is_said_without_a_traceback(
    error: Exception, said: str, tmp_path: Path
) -> None:
    line = failure_line(error, tmp_path / "traceback.txt")
    assert said in line and "traceback" not in line and ".py:" not in line and not line.endswith(": ")
    assert not list(tmp_path.iterdir())
