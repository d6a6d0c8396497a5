# SPDX-License-Identifier: MIT
"""The C contract: every public function is described and tested, and the modules show their init function alone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from house import BUILD, HEADERS, ROOT, Prototype, nothing, prototypes, relative, rows, says, text


def symbols(library: Path) -> set[str]:
    lines = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1] for line in lines.splitlines()}


def test_prototypes_are_found() -> None:
    names = {p.name for p in prototypes()}
    assert {"pshm_segment_open", "pshm_segment_check", "pshm_segment_mutex_recover", "pshm_version"} <= names
    declared = re.findall(r"^(?:PSHM_API|static inline)\b.*?\b(pshm_\w+)\(", text("csrc/include/**/*.h"), re.MULTILINE)
    assert names == set(declared)


@pytest.mark.parametrize("prototype", prototypes(), ids=lambda p: p.name)
def test_function_has_a_contract(prototype: Prototype) -> None:
    assert prototype.contract, f"{prototype.header}: no comment above {prototype.name}"
    order = re.findall(r"\b(Errors|Owns|Safe|Blocks):", prototype.contract)
    assert order == sorted(order, key=["Errors", "Owns", "Safe", "Blocks"].index), f"{prototype.name}: {order}"
    if prototype.result == "int":
        assert "Errors" in order, f"{prototype.header}: {prototype.name} returns a code and does not say which"


@pytest.mark.parametrize("prototype", prototypes(), ids=lambda p: p.name)
def test_function_is_used_by_a_test_or_a_binding(prototype: Prototype) -> None:
    users = text("tests/c/*.[ch]", "tests/crash/*.[ch]", "python/binding/*", "lua/binding/*")
    used = says(users, prototype.name)
    assert used, f"{prototype.name}: in no test of tests/c, and no binding uses it"


@pytest.mark.parametrize("header", HEADERS, ids=relative)
def test_header_stands_alone(header: Path, tmp_path: Path) -> None:
    """Included first, in a program that sets nothing, as strict C11 would have it but for pthread's attributes."""
    source = tmp_path / "alone.c"
    source.write_text(f"#include <polyshm/{header.name}>\nint main(void) {{ return 0; }}\n")
    line = ["gcc", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}/csrc/include", "-fsyntax-only", str(source)]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def modules() -> dict[str, Path]:
    return {
        "PyInit__core": next((ROOT / "python/polyshm").glob("_core.*.so")),
        "luaopen_polyshm_core": BUILD / "lua/polyshm/core.so",
    }


@pytest.mark.parametrize("init", ["PyInit__core", "luaopen_polyshm_core"])
def test_module_exports_its_init_function_alone(init: str) -> None:
    assert symbols(modules()[init]) == {init}


@pytest.mark.parametrize("init", ["PyInit__core", "luaopen_polyshm_core"])
def test_module_is_never_unloaded(init: str) -> None:
    dynamic = subprocess.run(["readelf", "-d", modules()[init]], capture_output=True, text=True, check=True).stdout
    assert "NODELETE" in dynamic


def test_library_exports_what_the_headers_declare() -> None:
    assert symbols(BUILD / "libpolyshm.so") == {p.name for p in prototypes() if not p.inline}


def test_every_header_is_in_the_docs() -> None:
    page = text("docs/c.rst")
    nothing([header.name for header in HEADERS if f"include/polyshm/{header.name}\n" not in page])


def test_every_code_is_documented() -> None:
    codes = rows("PSHM_ERROR_MAP", text("csrc/include/polyshm/error.h"))
    assert len(codes) > 20
    page = text("docs/errors.rst")
    nothing([code for code in codes if not says(page, code) and not says(page, f"PSHM_{code}")])


def test_codes_are_unique() -> None:
    numbers = re.findall(r"X\(E\w+, (-\d+),", text("csrc/include/polyshm/error.h"))
    assert len(numbers) == len(set(numbers))
