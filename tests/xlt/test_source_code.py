from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from xlt.errors import UsageError
from xlt.source_code import SourceCode, read_source

FILES = {
    "xlt": "",
    "xlt.a": "from xlt.b import f, g\nfrom xlt.rooms import chair\nimport math\n\ndef root():\n    return f(chair())\n",
    "xlt.b": "LIMIT = 3\n\ndef f(x):\n    return x + LIMIT\n\ndef g(x):\n    return x\n",
    "xlt.rooms": "from xlt.rooms.chairs import chair\nfrom xlt.rooms.tables import table\n",
    "xlt.rooms.chairs": "def chair():\n    from xlt.rooms.wood import oak\n    return oak\n",
    "xlt.rooms.tables": "def table():\n    return 4\n",
    "xlt.rooms.wood": "oak = 'oak'\nbirch = 'birch'\n",
}


def digests(changes: dict[str, str] | None = None, root: str = "xlt.a.root") -> dict[str, str]:
    return SourceCode((FILES | (changes or {})).get).digests([root])


def test_definitions_are_followed_by_name_through_re_exports_and_imports_in_functions() -> None:
    assert set(digests()) == {"xlt.a", "xlt.b", "xlt.rooms.chairs", "xlt.rooms.wood"}


@pytest.mark.parametrize(
    ("module", "before", "after", "counts"),
    [
        ("xlt.b", "LIMIT = 3", "LIMIT = 4", True),
        ("xlt.b", "return x + LIMIT", "return x - LIMIT", True),
        ("xlt.rooms.wood", "oak = 'oak'", "oak = 'ash'", True),
        ("xlt.b", "def g(x):\n    return x", "def g(x):\n    return 2 * x", False),
        ("xlt.rooms.wood", "birch = 'birch'", "birch = 'ash'", False),
        ("xlt.rooms.tables", "4", "5", False),
        ("xlt.b", "def f(x):\n", 'def f(x):\n    """Adds."""\n    # so it is\n', False),
        ("xlt.b", "def f(x):\n    return x + LIMIT", "def f(x: int) -> int:\n    return (x\n        + LIMIT)", False),
    ],
)
def test_what_is_reached_counts_and_nothing_else(module: str, before: str, after: str, counts: bool) -> None:
    assert before in FILES[module]
    assert (digests({module: FILES[module].replace(before, after)}) != digests()) is counts


@pytest.mark.parametrize(
    ("one", "other", "counts"),
    [
        ("def root(x):\n    raise ValueError('no')", "def root(x):\n    raise ValueError(f'no {x}')", False),
        ("def root(x):\n    raise ValueError('no')", "def root(x):\n    raise TypeError('no')", True),
        ("def root(x):\n    assert x, 'one'", "def root(x):\n    assert x", False),
        ("def root(x):\n    assert x", "def root(x):\n    assert not x", True),
        ("from math import sqrt as root_of\ndef root(x): return root_of(x)",
         "from cmath import sqrt as root_of\ndef root(x): return root_of(x)", True),
        ("def root(x):\n    return 1", "def root(x):\n    return 1.0", True),
        ("def root(x):\n    return 1", "def root(x):\n    return True", True),
        ("try:\n    import fast\nexcept ImportError:\n    fast = None\ndef root(x): return fast",
         "try:\n    import fast\nexcept ImportError:\n    fast = 1\ndef root(x): return fast", True),
    ],
)  # fmt: skip
def test_what_counts_of_a_definition(one: str, other: str, counts: bool) -> None:
    first, second = (SourceCode({"xlt": "", "xlt.a": text}.get).digests(["xlt.a.root"]) for text in (one, other))
    assert (first != second) is counts


def test_a_value_that_comes_in_counts_by_the_class_of_its_annotation() -> None:
    files = {"xlt": "", "xlt.a": "from xlt.b import C\n\ndef root(c: C | None):\n    return c.double()\n"}
    one = SourceCode((files | {"xlt.b": "class C:\n    def double(self): return 2\n"}).get).digests(["xlt.a.root"])
    two = SourceCode((files | {"xlt.b": "class C:\n    def double(self): return 3\n"}).get).digests(["xlt.a.root"])
    assert one["xlt.a"] == two["xlt.a"] and one["xlt.b"] != two["xlt.b"]


def test_the_keys_of_a_schema_and_their_faults_do_not_count_but_its_other_methods_do() -> None:
    def of(fields: str, method: str) -> dict[str, str]:
        body = f"@dataclass\nclass C:\n    {fields}\n    def faults(self, prefix):\n        yield {fields!r}\n"
        files = {
            "xlt": "",
            "xlt.a": f"from dataclasses import dataclass\n{body}    def double(self): return {method}\n",
        }
        return SourceCode(files.get).digests(["xlt.a.C"])

    assert of("x: int = key('one', low=1)", "2") == of("x: int = key('two')", "2") != of("x: int = key('one')", "3")


def test_what_is_left_out_is_not_followed() -> None:
    code = SourceCode(FILES.get)
    assert set(code.digests(["xlt.a.root"], ["xlt.rooms"])) == {"xlt.a", "xlt.b"}
    assert set(code.digests(["xlt.a.root"], ["xlt.b.f"])) == {"xlt.a", "xlt.rooms.chairs", "xlt.rooms.wood"}


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        sys.modules.pop(name, None)

    return write


def test_a_plug_in_counts_as_a_whole_and_with_what_lies_beside_it(plug_in: Callable[[str, str], None]) -> None:
    plug_in("my_method_of_tests", "import my_ops_of_tests\nRATE = 1\n\nclass Mine:\n    f = my_ops_of_tests.f\n")
    plug_in("my_ops_of_tests", "def f(x):\n    return x\n")
    first = SourceCode().digests(["my_method_of_tests.Mine"])
    assert set(first) == {"my_method_of_tests", "my_ops_of_tests"}
    plug_in("my_ops_of_tests", "def f(x):\n    return 2 * x\n")
    assert SourceCode().digests(["my_method_of_tests.Mine"]) != first
    plug_in("my_ops_of_tests", "def f(x):\n    return x\n")
    plug_in("my_method_of_tests", "import my_ops_of_tests\nRATE = 2\n\nclass Mine:\n    f = my_ops_of_tests.f\n")
    assert SourceCode().digests(["my_method_of_tests.Mine"]) != first


def test_a_class_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match=r"xlt\.methods\.full\.Fuller: .*no source"):
        SourceCode().digests(["xlt.methods.full.Fuller"])


def test_a_package_without_its_sources_is_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "compiled_of_tests").mkdir()
    (tmp_path / "compiled_of_tests" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "compiled_of_tests" / "method.pyc").write_bytes(b"")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=r"compiled_of_tests\.method: its source file is not there") as raised:
        read_source("compiled_of_tests.method")
    assert len(raised.value.lines) == 1
