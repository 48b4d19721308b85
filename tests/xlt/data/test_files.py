"""The file of a split, and the kinds of files that are no UTF-8 text."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.source_configs import source_config
from xlt.data.files import lines_of, split_file
from xlt.data.sources import _content_hash, source_faults
from xlt.errors import UsageError

TEXT = "Hon sang á hátíðini\nJa\n"


def find(folder: Path, named: str | None = None, *patterns: str) -> str:
    files = {} if named is None else {"train": named}
    config = source_config("text", "fao", str(folder), split="train", files=files)
    return str(split_file(config, patterns or ("{split}.txt",)).relative_to(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    for name in ("train.txt", "data[1].txt", "dev.txt.gz", "deep/deeper/only.txt"):
        content = gzip.compress(TEXT.encode()) if name.endswith(".gz") else TEXT.encode()
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("named", "file"),
    [
        (None, "train.txt"),
        ("tra*.txt", "train.txt"),
        ("data[1].txt", "data[1].txt"),  # brackets in a pattern would stand for one letter
        ("**/only.txt", "deep/deeper/only.txt"),
        ("deep/*/*.txt", "deep/deeper/only.txt"),
        ("dev.txt", "dev.txt.gz"),
        ("dev.txt.gz", "dev.txt.gz"),
        ("d*v.txt", "dev.txt.gz"),
    ],
)
def test_a_name_is_taken_as_it_is_before_it_is_taken_as_a_pattern(folder: Path, named: str | None, file: str) -> None:
    assert find(folder, named) == file


def test_a_file_that_is_not_compressed_comes_before_its_compressed_copy(folder: Path) -> None:
    (folder / "train.txt.gz").write_bytes(gzip.compress(b"old"))
    assert find(folder) == "train.txt"


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("/data/train.txt", ["an absolute path", "path=/data/train.txt"]),
        ("~/train.txt", ["an absolute path", "path=~/train.txt"]),
        ("tr**.txt", ["not a pattern", "**/ for any folders"]),
        ("", ["no name of a file"]),
        ("  ", ["no name of a file"]),
        ("a\0b", ["no name of a file"]),
    ],
)
def test_a_name_that_is_no_pattern_below_the_folder_is_refused_by_its_key(
    folder: Path, named: str, said: list[str]
) -> None:
    with pytest.raises(UsageError) as error:
        find(folder, named)
    (line,) = error.value.lines
    assert line.startswith(f"files.train={named}".rstrip()) and all(part in line for part in said), line


@pytest.mark.parametrize("named", ["**", "[", "[z-a]", "*["])
def test_a_pattern_without_a_file_is_refused_with_what_the_folder_has(folder: Path, named: str) -> None:
    with pytest.raises(UsageError, match=r"no files for split train, expected one .*; it has .*train\.txt"):
        find(folder, named)


def test_a_folder_that_has_two_matching_files_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="2 files for split train"):
        find(folder, "*.txt")


def test_the_key_of_a_wrong_name_is_the_whole_key_of_the_config(folder: Path) -> None:
    from types import SimpleNamespace

    wrong = source_config("text", "fao", str(folder), split="train", files={"train": "/a.txt"})
    data = SimpleNamespace(sources={"fao": wrong}, validation={}, evaluation={}, search={}, excluded={})
    (line,) = source_faults(data)  # type: ignore[arg-type]
    assert line.startswith("data.sources.fao.files.train=/a.txt: ")


def test_a_compressed_file_has_the_lines_and_the_digest_of_its_content(tmp_path: Path) -> None:
    plain, packed, twice = tmp_path / "a.txt", tmp_path / "a.txt.gz", tmp_path / "b.txt.gz"
    plain.write_text(TEXT, encoding="utf-8")
    packed.write_bytes(gzip.compress(TEXT.encode()))
    first, second = TEXT.splitlines(keepends=True)
    twice.write_bytes(gzip.compress(first.encode()) + gzip.compress(second.encode()))  # as `cat a.gz b.gz` makes it
    expected = [(1, "Hon sang á hátíðini"), (2, "Ja")]
    assert list(lines_of(plain)) == list(lines_of(packed)) == list(lines_of(twice)) == expected
    assert len({_content_hash(str(file), 0, 0) for file in (plain, packed, twice)}) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (TEXT.encode("utf-16"), ["UTF-16 text", "iconv -f UTF-16 -t UTF-8"]),
        (TEXT.encode("utf-16-le"), ["UTF-16 text", "UTF-16LE"]),
        (TEXT.encode("utf-16-be"), ["UTF-16 text", "UTF-16BE"]),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), ["UTF-16 text"]),
        (TEXT.encode("utf-32"), ["UTF-32 text"]),
        (gzip.compress(TEXT.encode("utf-16"), mtime=0), ["UTF-16 text"]),
        (gzip.compress(TEXT.encode() * 99, mtime=0)[:40], ["gzip file is damaged or incomplete", "copy it again"]),
        (gzip.compress(TEXT.encode(), mtime=0)[:-6] + b"xxxxxx", ["gzip file is damaged or incomplete"]),
        (b"\x1f\x8b" + b"nothing", ["gzip file is damaged or incomplete"]),
        (b"PK\x03\x04\x14\x00", ["zip archive", "unpack it"]),
        (b"BZh91AY&SY\x00\x00", ["bzip2", "only gzip is read"]),
        (b"\xfd7zXZ\x00\x00", ["xz", "only gzip is read"]),
        (b"\x28\xb5\x2f\xfd\x04", ["zstd", "only gzip is read"]),
        (b"PAR1\x15\x04\x15", ["Parquet", "hub.id"]),
        (b"%PDF-1.7\n", ["PDF"]),
        (b"SQLite format 3\x00", ["SQLite"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", ["Git LFS", "git lfs pull"]),
        (b"\n<!DOCTYPE html>\n<html>", ["web page", "download the file itself"]),
        (b"<html lang='en'>", ["web page"]),
        (b"one\rtwo\rthree\r", ["carriage returns alone"]),
        (b"one\rtwo", ["carriage returns alone"]),
    ],
)
def test_what_is_no_utf_8_text_is_named_as_what_it_is(tmp_path: Path, content: bytes, said: list[str]) -> None:
    file = tmp_path / "x.txt"
    file.write_bytes(content)
    with pytest.raises(UsageError) as error:
        list(lines_of(file))
    (line,) = error.value.lines
    assert line.startswith(f"{file}: ") and all(part in line for part in said), line


@pytest.mark.parametrize(
    "text",
    ["", "\n", "a", "a\r\n", "a\r\nb", "PAR1 and PAR2\n", "BZh is a name\n", "PK\n", "versions\n", "一\n", "\ufeffa\n"],
)
def test_text_that_begins_like_something_else_is_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.txt").write_bytes(text.encode())
    expected = [line.rstrip("\r") for line in text.removeprefix("\ufeff").removesuffix("\n").split("\n")]
    assert [line for _, line in lines_of(tmp_path / "x.txt")] == ([] if not text else expected)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.txt: cannot be read \(No such file"):
        list(lines_of(tmp_path / "gone.txt"))
