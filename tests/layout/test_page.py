# SPDX-License-Identifier: MIT
"""docs/layout.rst, csrc/core/layout.h and the decoder say the same."""

from __future__ import annotations

import ast
import re
import struct
from pathlib import Path

import decode
import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADER = (ROOT / "csrc/core/layout.h").read_text()
PAGE = (ROOT / "docs/layout.rst").read_text()
BYTES = {"uint32_t": 4, "uint64_t": 8, "char": 1}

# What the decoder calls the structures of the header.
DECODED = {
    "pshm_owner": decode.OWNER,
    "pshm_biased": decode.BIASED,
    "pshm_slot": decode.SLOT,
    "pshm_page": decode.PAGE_ENTRY,
    "pshm_intent": decode.INTENT,
    "pshm_heap_head": decode.HEAP_HEAD,
    "pshm_directory_head": decode.DIRECTORY_HEAD,
    "pshm_node": decode.NODE,
    "pshm_head": decode.HEAD,
}
Fields = dict[str, tuple[int, int]]


def number(text: str) -> int:
    text = re.sub(r"UINT64_C\((\w+)\)", r"\1", text)
    return ast.literal_eval(re.sub(r"\b(0x[0-9a-fA-F]+|\d+)u?\b", r"\1", text))


def constants() -> dict[str, int]:
    """The numbers that layout.h defines, as far as they are plain ones."""
    rows = re.findall(
        r"^#define (PSHM_\w+) ((?:UINT64_C\()?(?:0x)?[0-9a-fA-F]+\)?u?)(?:\s*/\*.*)?$", HEADER, re.MULTILINE
    )
    return {name: number(text) for name, text in rows}


def structures() -> dict[str, tuple[int, Fields]]:
    """Each struct of layout.h: its size, and offset and size of each field, by the rules of C."""
    found: dict[str, tuple[int, Fields]] = {}
    source = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
    for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\n\} \w+;", source, re.DOTALL):
        fields: Fields = {}
        at, widest = 0, 1
        for type_, declared in re.findall(r"(\w+) ([^;]+);", body):
            size = BYTES[type_] if type_ in BYTES else found[type_][0]
            align = min(size, 8)
            widest = max(widest, align)
            for field in re.split(r",\s*", declared):
                key, count = re.fullmatch(r"(\w+)(?:\[(\w*)\])?", field).groups()
                times = (
                    1 if count is None else 0 if count == "" else int(count) if count.isdigit() else constants()[count]
                )
                at = (at + align - 1) // align * align
                fields[key.rstrip("_")] = (at, size * times)
                at += size * times
        found[name] = ((at + widest - 1) // widest * widest, fields)
    return found


def tables() -> dict[str, list[list[str]]]:
    """The tables of the page that have a title: rows of cells."""
    found = {}
    for title, body in re.findall(r"^\.\. list-table:: (.+)\n((?:   .*\n|\n)+)", PAGE, re.MULTILINE):
        rows = re.split(r"^   \* - ", body, flags=re.MULTILINE)[1:]
        found[title] = [[" ".join(c.split()) for c in re.split(r"^     -", row, flags=re.MULTILINE)] for row in rows]
    return found


def documented(name: str) -> Fields:
    rows = next(rows for title, rows in tables().items() if re.match(rf"{name}\b", title))
    assert rows[0] == ["offset", "bytes", "field", "meaning"]
    return {field.strip("`"): (int(offset), int(size)) for offset, size, field, _ in rows[1:]}


IN_MEMORY = [name for name in structures() if name != "pshm_geometry"]


def test_structures_are_found() -> None:
    assert set(IN_MEMORY) == set(DECODED)
    assert structures()["pshm_head"][1]["roots"] == (688, 256)


@pytest.mark.parametrize("name", IN_MEMORY)
def test_every_field_is_on_the_page(name: str) -> None:
    assert documented(name) == structures()[name][1]


@pytest.mark.parametrize("name", IN_MEMORY)
def test_every_byte_is_of_a_field(name: str) -> None:
    end = 0
    for offset, size in documented(name).values():
        assert offset == end
        end += size
    assert end == structures()[name][0] == DECODED[name].size


@pytest.mark.parametrize("name", IN_MEMORY)
def test_the_decoder_reads_what_the_page_says(name: str) -> None:
    read = {
        field: (offset, form.size if isinstance(form, decode.Layout) else struct.calcsize("=" + form))
        for field, offset, form in DECODED[name].fields
    }
    assert read == documented(name)


@pytest.mark.parametrize(
    ("title", "layout"),
    [
        ("Body of a mutex", decode.MUTEX),
        ("Body of a counter", decode.COUNTER),
        ("Body of a semaphore", decode.SEMAPHORE),
        ("Body of a condition", decode.CONDITION),
        ("Body of an event", decode.EVENT),
        ("Body of a latch", decode.LATCH),
    ],
)
def test_bodies(title: str, layout: decode.Layout) -> None:
    read = {
        field: (offset, form.size if isinstance(form, decode.Layout) else struct.calcsize("=" + form))
        for field, offset, form in layout.fields
    }
    assert read == documented(title)
    assert sum(size for _, size in read.values()) == layout.size == 64


def test_every_place_is_on_the_page() -> None:
    rows = next(rows for rows in re.findall(r"^\.\. list-table::\n(.*?)\n\n(?=\S)", PAGE, re.MULTILINE | re.DOTALL))
    named = set(re.findall(r"^   \* - ``(\w+)``", rows, re.MULTILINE))
    assert named == set(structures()["pshm_geometry"][1]) - {"size", "participants"}


def test_geometry_of_the_examples() -> None:
    head, *rows = tables()["Geometry of some arenas"]
    assert len(rows) >= 5
    for row in rows:
        said = dict(zip(head, map(int, row), strict=True))
        found = decode.geometry(said["size"], said["participants"])
        assert said == {key: getattr(found, key) for key in head}
        assert found.beacons == 4096
        assert found.heap + 4096 * found.heap_pages <= found.size


@pytest.mark.parametrize("participants", [1, 63, 1024, 32766])
def test_no_page_is_wasted(participants: int) -> None:
    start = decode.round_up(decode.round_up(4096 + 64 * participants, 4096) + 384 * participants, 4096)
    with pytest.raises(decode.Damaged):
        decode.geometry(start + 4096, participants)
    before = 0
    for extra in range(2 * 4096, 300 * 4096, 4096):
        found = decode.geometry(start + extra, participants)
        assert found.partial == found.taken + 8 * found.words
        assert found.heap >= found.partial + 8 * found.words * 32
        assert found.heap_pages - before in (0, 1)
        before = found.heap_pages


def test_classes_agree() -> None:
    rows = re.findall(r"X\((\d+), (\d+)\)", re.search(r"#define PSHM_CLASS_MAP\(X\)((?:.*\\\n)*.*\n)", HEADER)[1])
    assert tuple((int(size), int(pages)) for size, pages in rows) == decode.CLASSES
    cells = [row[i : i + 4] for row in tables()["Classes"][1:] for i in (0, 5)]
    page = {int(class_): (int(size), int(pages), int(blocks)) for class_, size, pages, blocks in cells}
    assert page == {c: (*decode.CLASSES[c], decode.span_blocks(c)) for c in range(len(decode.CLASSES))}
    assert max(map(decode.span_blocks, page)) <= 256
    assert constants()["PSHM_CLASSES"] == len(page)


def test_constants_agree() -> None:
    said = constants()
    assert said["PSHM_MAGIC"].to_bytes(8, "little") == decode.MAGIC
    assert f"0x{said['PSHM_MAGIC']:x}" in PAGE
    assert (said["PSHM_FORMAT"], said["PSHM_PAGE"]) == (decode.FORMAT, decode.PAGE)
    assert said["PSHM_ID_ABANDONED"] == decode.ABANDONED
    assert said["PSHM_ENTRY_GONE"] == decode.GONE
    assert said.get("PSHM_SERIAL_STEP", decode.SERIAL_STEP) == decode.SERIAL_STEP
    assert f"0x{decode.SERIAL_STEP:x}" in PAGE
    for prefix, names in (
        ("PSHM_PHASE_", decode.PHASES),
        ("PSHM_PAGE_", decode.PAGE_STATES),
        ("PSHM_INTENT_", decode.OPERATIONS),
    ):
        mine = {name.upper().replace("ALLOCATE", "ALLOC"): value for value, name in names.items()}
        assert mine == {name[len(prefix) :]: value for name, value in said.items() if name.startswith(prefix)}


def test_names_of_numbers_agree() -> None:
    arena = (ROOT / "csrc/include/polyshm/arena.h").read_text()
    for macro, names in (("PSHM_LIFE_MAP", decode.LIVES), ("PSHM_LANGUAGE_MAP", decode.LANGUAGES)):
        body = re.search(rf"#define {macro}\(X\)((?:.*\\\n)*.*\n)", arena)[1]
        assert list(names.items()) == list(enumerate(re.findall(r'X\(\w+, "([\w-]+)"\)', body)))


def test_kinds_agree() -> None:
    rows = re.findall(
        r"^PSHM_KIND\((\d+), *(\w+)\)", (ROOT / "csrc/include/polyshm/kinds.def").read_text(), re.MULTILINE
    )
    assert {int(kind): noun for kind, noun in rows} == decode.KINDS
    for kind, noun in decode.KINDS.items():
        assert re.search(rf"\b{kind} {noun}\b", PAGE)
        assert any(re.fullmatch(rf"Body of (an? )?{noun}", title) for title in tables())


# ---- the decoder by itself


def test_the_decoder_stands_alone() -> None:
    tree = ast.parse((ROOT / "tests/layout/decode.py").read_text())
    names = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    names |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    assert names <= {"__future__", "collections.abc", "dataclasses", "os", "struct", "sys"}


KEY = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
# SipHash-1-3 with the key 0, as CPython since 3.11 has it for PYTHONHASHSEED=0.
ZERO_KEY = {
    b"a": 0x407448D2B89B1813,
    b"books": 0xB1B6E4346932DAE5,
    b"1234567": 0xA33D651594FDAE81,
    b"12345678": 0x3489982430560A87,
    b"123456789": 0x0FBC0F0007965FCF,
    b"Z\xc3\xa4hler": 0xA766078F0512F436,
    bytes(range(64)): 0x75E05FD5BBC870C6,
    b"x" * 255: 0x4BD34C40EF7D284B,
}


@pytest.mark.parametrize("data", ZERO_KEY)
def test_sip_hash(data: bytes) -> None:
    assert decode.sip_hash((0, 0), data) == ZERO_KEY[data]


def test_sip_hash_takes_both_halves_of_the_key() -> None:
    assert decode.sip_hash(KEY, b"").to_bytes(8, "little").hex() == "dcc40f055801acab"
    assert len({decode.sip_hash(key, b"name") for key in ((1, 2), (2, 1), (1, 1), (0, 0))}) == 4


@pytest.mark.parametrize("size", [0, 7, 4095])
def test_too_short_for_an_arena(size: int) -> None:
    with pytest.raises(decode.NotAnArena):
        decode.decode(bytes(size))


def test_states_of_memory() -> None:
    page = bytearray(8192)
    assert decode.state_of(page) == "zero"
    page[4095] = 1
    assert decode.state_of(page) == "other"
    page[4095] = 0
    struct.pack_into("=Q", page, 16, 1 << 63 | 8)
    struct.pack_into("=Q", page, 24, 8192)
    assert decode.state_of(page) == "half"
    page[88] = 1
    assert decode.state_of(page) == "other"
    page[:8] = decode.MAGIC
    assert decode.state_of(page) == "arena"
    page[:8] = b"\x7fELF\0\0\0\0"
    assert decode.state_of(page) == "other"
