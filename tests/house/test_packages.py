# SPDX-License-Identifier: MIT
"""The ways in: sdist and pip, luarocks, make install. Each from a copy of the sources, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from house import ROOT, glob, relative, version

pytestmark = pytest.mark.timeout(300)


def run(*line: object, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        [str(part) for part in line], cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    ignored = ("build", ".venv", ".git", "*.so", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis")
    return shutil.copytree(ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(*ignored))


def test_pip_installs_what_the_sdist_holds(copy: Path, tmp_path: Path) -> None:
    script = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", script, tmp_path, cwd=copy)
    archive = tmp_path / f"polyshm-{version()}.tar.gz"
    with tarfile.open(archive) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()}
    sources = glob("csrc/**/*.[chd]*", "python/**/*.[ch]", "python/polyshm/*.py*", "lua/**/*.[chl]*")
    wanted = {"Makefile", "LICENSE", "README.rst", "setup.py", "pyproject.toml", "polyshm.pc.in", "tests/conftest.py"}
    assert wanted | {relative(path) for path in sources} <= inside

    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    target = tmp_path / "target"
    run(*pip, "install", "--no-build-isolation", "--no-deps", "--no-index", "--target", target, archive, cwd=tmp_path)
    installed = {path.name for path in (target / "polyshm").iterdir()}
    assert {"__init__.py", "__init__.pyi", "_core.pyi", "py.typed"} <= installed
    script = "import polyshm; print(polyshm.__file__, polyshm.__version__)"
    where, said = run(sys.executable, "-c", script, cwd=tmp_path, PYTHONPATH=str(target)).split()
    assert Path(where).parent == target / "polyshm"
    assert said == version()
    metadata = next(target.glob("polyshm-*.dist-info")).joinpath("METADATA").read_text()
    assert "License-Expression: MIT" in metadata
    assert "Requires-Python: >=3.10\n" in metadata


def test_setup_refuses_other_systems() -> None:
    for patch in ("sys.platform = 'win32'", "struct.calcsize = lambda _: 4"):
        script = f"import runpy, struct, sys; {patch}; sys.argv = ['', '--version']; runpy.run_path('setup.py')"
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.strip() == "polyshm needs 64-bit Linux"


def test_luarocks_makes_the_rock(copy: Path, tmp_path: Path) -> None:
    rocks = ("luarocks", "--lua-version", "5.4")
    run(*rocks, "lint", "polyshm-scm-1.rockspec", cwd=copy)
    tree = tmp_path / "tree"
    make = ("make", "--tree", tree, "polyshm-scm-1.rockspec")
    run(*rocks, "--server", tmp_path / "none", *make, cwd=copy, HOME=str(tmp_path))
    script = "local p = require 'polyshm'; print(package.searchpath('polyshm.core', package.cpath), type(p.segment))"
    paths = {
        "LUA_PATH": f"{tree}/share/lua/5.4/?.lua;{tree}/share/lua/5.4/?/init.lua",
        "LUA_CPATH": f"{tree}/lib/lua/5.4/?.so",
    }
    where, kind = run("lua5.4", "-e", script, cwd=tmp_path, **paths).split()
    assert Path(where) == tree / "lib/lua/5.4/polyshm/core.so"
    assert kind == "function"


PROGRAM = r"""
#include <polyshm/segment.h>
#include <stdio.h>
#include <string.h>
int main(void)
{
    pshm_options options = PSHM_OPTIONS_INIT;
    pshm_segment *segment;
    options.size = 4096;
    if (pshm_segment_open("anon:", 5, &options, &segment) != 0)
        return 1;
    puts(strcmp(pshm_version(), PSHM_VERSION) == 0 && segment->size == 4096 ? "ok" : "wrong");
    pshm_segment_close(segment);
    pshm_segment_release(segment);
    return 0;
}
"""


@pytest.mark.parametrize("static", [False, True])
def test_make_install_serves_a_c_program(copy: Path, tmp_path: Path, static: bool) -> None:
    prefix = tmp_path / "prefix"
    run("make", "install", f"PREFIX={prefix}", cwd=copy, MAKEFLAGS="")
    config = {"PKG_CONFIG_PATH": str(prefix / "lib/pkgconfig")}
    assert run("pkg-config", "--modversion", "polyshm", cwd=tmp_path, **config).strip() == version()
    if static:
        (prefix / "lib/libpolyshm.so").unlink()
    ask = ["pkg-config", "--cflags", "--libs", "polyshm"] + ["--static"] * static
    flags = run(*ask, cwd=tmp_path, **config).split()
    (tmp_path / "program.c").write_text(PROGRAM)
    run("gcc", "-Wall", "-Werror", "program.c", "-o", "program", *flags, cwd=tmp_path)
    assert run(tmp_path / "program", cwd=tmp_path, LD_LIBRARY_PATH=str(prefix / "lib")) == "ok\n"
    needed = run("readelf", "-d", "program", cwd=tmp_path)
    assert ("[libpolyshm.so.0]" in needed) == (not static)


def test_install_honours_destdir(copy: Path, tmp_path: Path) -> None:
    run("make", "install", "PREFIX=/opt/polyshm", f"DESTDIR={tmp_path}/stage", cwd=copy, MAKEFLAGS="")
    stage = tmp_path / "stage/opt/polyshm"
    assert (stage / "include/polyshm/kinds.def").exists()
    assert (stage / "lib/libpolyshm.so.0").resolve().name == f"libpolyshm.so.{version()}"
    assert "prefix=/opt/polyshm\n" in (stage / "lib/pkgconfig/polyshm.pc").read_text()
