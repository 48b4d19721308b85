"""What was read from a file is given again only while the file is as it was."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

from xlt.plan.parsed_files import ParsedFiles


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0

    def __call__(self) -> Any:
        self.count += 1
        return json.loads(self.path.read_text()) if self.path.exists() else {}


def test_a_file_is_read_again_only_if_it_was_written_and_the_caller_may_change_what_it_gets(tmp_path: Path) -> None:
    path, parsed = tmp_path / "a.json", ParsedFiles()
    read = _Reader(path)
    for _ in range(2):  # what is not there may be written at any time
        assert parsed.content(path, read) == {}
    path.write_text('{"a": [1]}')
    first = parsed.content(path, read)
    first["a"].append(2)
    assert parsed.content(path, read) == {"a": [1]} and read.count == 3
    before = path.stat()
    new = tmp_path / "new"
    new.write_text('{"a": [3]}')
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(path)  # as long and as old, but another file
    assert parsed.content(path, read) == {"a": [3]} and read.count == 4
    os.utime(path, ns=(1, 1))
    assert parsed.content(path, read) == {"a": [3]} and read.count == 5
    path.unlink()
    assert parsed.content(path, read) == {}


def test_what_is_damaged_or_written_meanwhile_is_not_kept_and_workers_get_nothing(tmp_path: Path) -> None:
    path, parsed = tmp_path / "a.json", ParsedFiles()
    path.write_text("[1]")
    read = _Reader(path)
    for _ in range(2):
        assert parsed.content(path, read, is_sound=lambda content: content == [2]) == [1]

    def slowly() -> Any:
        content = read()
        path.write_text("[1, 2]")
        return content

    assert parsed.content(path, slowly) == [1]
    assert parsed.content(path, read) == [1, 2] and read.count == 4
    assert len(pickle.dumps(parsed)) == len(pickle.dumps(ParsedFiles()))
