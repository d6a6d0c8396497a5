# SPDX-License-Identifier: MIT
"""One noun, one name, everywhere: the lists, the files, the bindings, the stubs, the docs and the tests agree."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import types

import pytest
from house import HEADERS, ROOT, glob, nothing, nouns, says, segment_kinds, text, version

# Headers of the core that are no noun of their own.
NO_NOUN = {"polyshm", "error", "address", "element"}

PLACES = {
    "header": "csrc/include/polyshm/{noun}.h",
    "source": "csrc/*/{noun}*.c",
    "Python binding": "python/binding/py_{noun}*.c",
    "Lua binding": "lua/binding/lua_{noun}*.c",
    "C test": "tests/c/test_{noun}*.c",
    "Python test": "tests/python/test_{noun}*.py",
    "Lua test": "tests/lua/{noun}*_spec.lua",
    "cross test": "tests/cross/test_*{noun}*.py",
    "page": "docs/{noun}.rst",
}


def test_nouns_are_found() -> None:
    assert set(nouns()) >= {"segment", "atomic", "mutex", "record_lock"}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("noun", nouns())
def test_noun_has_its(noun: str, place: str) -> None:
    path = PLACES[place].format(noun=noun)
    assert glob(path), f"kinds.def has {noun}, and there is no {path}"


def test_every_header_is_a_noun() -> None:
    assert {header.stem for header in HEADERS} == NO_NOUN | set(nouns())


def test_noun_and_its_page_are_linked() -> None:
    index = text("docs/index.rst")
    nothing([noun for noun in nouns() if not re.search(rf"^\s+{noun}\s*$", index, re.MULTILINE)])


def test_kinds_of_segment_agree() -> None:
    """The rows of README's table are the kinds, and the page of segments has all of them."""
    table = re.findall(r"^(?:[|*] *)*``([a-z]+):[^`\s]*``", (ROOT / "README.rst").read_text(), re.MULTILINE)
    assert set(table) == set(segment_kinds())
    nothing([kind for kind in segment_kinds() if f"``{kind}:" not in (ROOT / "docs/segment.rst").read_text()])


def test_versions_agree(lua) -> None:
    assert re.search(rf"^{re.escape(version())} \(", text("CHANGES.rst"), re.MULTILINE)
    polyshm = importlib.import_module("polyshm")
    assert polyshm.__version__ == version()
    assert lua("print(require('polyshm')._VERSION)").stdout.strip() == version()
    assert 'dynamic = ["version"]' in text("pyproject.toml")
    assert re.search(r'^version = "scm-\d+"', text("polyshm-scm-1.rockspec"), re.MULTILINE)


# ---- Python

# What CPython gives every structseq.
STRUCTSEQ = {"n_fields", "n_sequence_fields", "n_unnamed_fields"}


def python_names() -> dict[str, object]:
    """Everything public: "Segment" and "Segment.read", with the object itself."""
    polyshm = importlib.import_module("polyshm")
    found: dict[str, object] = {}
    for name in polyshm.__all__:
        found[name] = value = getattr(polyshm, name)
        if isinstance(value, type):
            members = vars(value).items()
            found |= {f"{name}.{key}": member for key, member in members if key[0] != "_" and key not in STRUCTSEQ}
    return found


def stub_names() -> set[str]:
    """The same of the stubs: functions, classes, their methods and attributes, constants."""
    found = set()
    for path in glob("python/polyshm/*.pyi"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                found |= {node.name} | {f"{node.name}.{name}" for child in node.body for name in declared(child)}
            else:
                found |= set(declared(node))
    return found


def declared(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.If):
        return [name for child in node.body + node.orelse for name in declared(child)]
    return []


def test_python_names_are_found() -> None:
    assert {"Segment", "Segment.read", "Error", "OwnerDied", "list", "MUTEX_SIZE"} <= set(python_names())


def test_python_all_is_everything() -> None:
    polyshm = importlib.import_module("polyshm")
    shown = {key for key, value in vars(polyshm).items() if key[0] != "_" and not isinstance(value, types.ModuleType)}
    assert shown - {"annotations", "TYPE_CHECKING"} == set(polyshm.__all__) - {"__version__"}


def test_python_names_have_a_docstring() -> None:
    described = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType)
    descriptors = (types.GetSetDescriptorType, types.MemberDescriptorType, types.ClassMethodDescriptorType, property)
    missing = [
        name
        for name, value in python_names().items()
        if isinstance(value, described + descriptors) and not (inspect.getdoc(value) or "").strip()
    ]
    nothing(missing)


def test_python_names_are_in_the_stubs() -> None:
    nothing([name for name in python_names() if name not in stub_names() and name != "__version__"])


def test_python_names_are_in_the_docs() -> None:
    docs = text("docs/*.rst", "docs/**/*.rst")
    nothing([name for name in python_names() if not says(docs, name.rpartition(".")[2])])


def test_python_names_are_tested() -> None:
    tests = text("tests/python/*.py", "tests/cross/*.py")
    used = set(re.findall(r"(?:\.|import |, |['\"])(\w+)", tests))
    nothing([name for name in python_names() if name.rpartition(".")[2] not in used])


# ---- Lua

# Prints what the module shows: its own names, and those of the metatables that it registered.
LUA_NAMES = r"""
local polyshm = require "polyshm"
local function add(owner, t)
  for key in pairs(t) do
    if type(key) == "string" and not key:match("^__") then print(owner .. "." .. key) end
  end
end
add("polyshm", polyshm)
for name, meta in pairs(debug.getregistry()) do
  if type(name) == "string" and name:match("^polyshm%.") and type(meta) == "table" then
    local index = rawget(meta, "__index")
    if type(index) == "table" then add(name, index) end
    if type(index) == "function" then
      -- Methods that stand behind a function are in one of its upvalues.
      for i = 1, 255 do
        local label, value = debug.getupvalue(index, i)
        if label == nil then break end
        if type(value) == "table" then add(name, value) end
      end
    end
    add(name, meta)
  end
end
"""


@pytest.fixture
def lua_names(lua) -> set[str]:
    return set(lua(LUA_NAMES).stdout.split())


def test_lua_names_are_found(lua_names: set[str]) -> None:
    assert {"polyshm.segment", "polyshm.list", "polyshm.MUTEX_SIZE"} <= lua_names
    methods = {name.rpartition(".")[2] for name in lua_names if name.count(".") > 1}
    assert {"read", "write", "view", "atomic", "mutex", "acquire", "guard", "load", "totable"} <= methods


def test_lua_names_are_annotated(lua_names: set[str]) -> None:
    annotated = set(re.findall(r"(?:[.:]|@field )(\w+)", text("lua/library/*.lua")))
    nothing([name for name in sorted(lua_names) if name.rpartition(".")[2] not in annotated])


def test_lua_annotations_are_live(lua_names: set[str]) -> None:
    live = {name.rpartition(".")[2] for name in lua_names}
    annotated = set(re.findall(r"^function [\w.]*[.:](\w+)\(", text("lua/library/*.lua"), re.MULTILINE))
    assert annotated
    assert annotated - live == set()


def test_lua_names_are_in_the_docs(lua_names: set[str]) -> None:
    docs = text("docs/*.rst", "docs/**/*.rst")
    nothing([name for name in sorted(lua_names) if not says(docs, name.rpartition(".")[2])])


def test_lua_names_are_tested(lua_names: set[str]) -> None:
    tests = text("tests/lua/*.lua", "tests/cross/*")
    nothing([name for name in sorted(lua_names) if not re.search(rf"[.:]{name.rpartition('.')[2]}\b", tests)])
