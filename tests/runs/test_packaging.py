"""What goes to a package index: the source archive has all files under version control, the wheel all that runs."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = "import setuptools.build_meta as meta; meta.build_sdist('out'); meta.build_wheel('out')"


@pytest.mark.slow
def test_archive_and_wheel_have_all_files(tmp_path: Path) -> None:
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools, which builds the package, is not installed here; pip install 'setuptools>=77'")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no git repository, so nothing says which files belong to the package")
    files = [name for name in listed.stdout.splitlines() if not name.startswith(".")]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    subprocess.run([sys.executable, "-c", BUILD], cwd=tmp_path, capture_output=True, check=True)
    (archive,), (wheel,) = (tmp_path / "out").glob("*.tar.gz"), (tmp_path / "out").glob("*.whl")
    with tarfile.open(archive) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    assert set(files) <= packed
    with zipfile.ZipFile(wheel) as zipped:
        installed = set(zipped.namelist())
    folders = {"xlt/": "xlt/", "conf/": "xlt_conf/", "kernels/": "xlt_kernels/"}
    for folder, name in folders.items():
        needed = {name + file.removeprefix(folder) for file in files if file.startswith(folder)}
        assert needed <= installed, sorted(needed - installed)[:5]
    assert "xlt/py.typed" in installed
    assert not any(name.startswith(("tests/", "scripts/")) for name in installed)
