"""Config files from elsewhere: what could fill the memory or make objects is refused before anything is made of it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xlt_conf

from xlt.compose.yaml_files import check_config_folder, config_file_fault
from xlt.errors import UsageError

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (BOMB, ["own.yaml: has more than 20000 values", "aliases"]),
        ("a: &a [*a]\n", ["own.yaml: has more than 20000 values"]),
        ("a: &a {b: *a}\n", ["own.yaml: has more than 20000 values"]),
        (
            "a: 1\nb: !!python/object/apply:os.system ['true']\n",
            ["own.yaml:2: the tag !!python/object/apply:os.system"],
        ),
        ("a: !!python/name:os.system\n", ["own.yaml:1: the tag !!python/name:os.system"]),
        ("a: !mine {b: 1}\n", ["own.yaml:1: the tag !mine"]),
        ("a: !!binary aGVsbG8=\n", ["own.yaml:1: the tag !!binary"]),
        (f"a: 1\nb: {'9' * 5000}\n", ["own.yaml:2: an integer of 5000 digits"]),
        (f"a: {'x' * 5_000_000}\n", ["own.yaml: has 50000", "bytes"]),
    ],
)
def test_a_config_that_is_no_plain_values_is_refused_in_a_line(
    content: str, expected: list[str], tmp_path: Path
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(content)
    began = time.monotonic()
    with pytest.raises(UsageError) as refused:
        check_config_folder(tmp_path)
    (line,) = refused.value.lines
    assert all(part in line for part in expected) and len(line) < 500, line
    assert time.monotonic() - began < 10


def test_a_pipe_among_the_configs_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "own.yaml")
    with pytest.raises(UsageError, match=r"own\.yaml: is a pipe or a device"):
        check_config_folder(tmp_path)


def test_plain_values_with_some_aliases_are_right(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("a: &a {b: 1, c: [x, 2.5, null, true, 2024-01-01]}\nd: *a\ne: {<<: *a, f: !!str 1}\n")
    assert config_file_fault(file) is None
    file.write_text("a: [unclosed\n")  # Hydra says it, if it needs the file
    assert config_file_fault(file) is None
    check_config_folder(Path(xlt_conf.__file__).parent)


@pytest.mark.slow
def test_the_command_refuses_a_bomb_within_its_limits(tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(BOMB)
    gigabytes = 4 << 30  # of addresses, of which torch alone maps more than two
    done = subprocess.run(
        [sys.executable, "-m", "xlt", f"--config-dir={tmp_path}", "--config-name=bomb"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (gigabytes, gigabytes)),
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
