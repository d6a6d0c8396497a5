# SPDX-License-Identifier: MIT
"""What the house tests share: the sources as text, the list of nouns, the public prototypes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("POLYSHM_BUILD", ROOT / "build"))
HEADERS = sorted((ROOT / "csrc/include/polyshm").glob("*.h"))


def glob(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def text(*patterns: str) -> str:
    """All files of some patterns as one text."""
    return "\n".join(path.read_text(encoding="utf-8") for path in glob(*patterns))


def says(where: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", where) is not None


def nothing(missing: list[str]) -> None:
    """Asserts that a list of what is missing is empty, and shows all of it if not."""
    assert not missing, f"{len(missing)} missing: " + ", ".join(missing)


def rows(macro: str, source: str) -> list[str]:
    """The first arguments of the rows X(...) of one X-macro."""
    body = re.search(rf"#define {macro}\(X\)((?:.*\\\n)*.*\n)", source).group(1)
    return re.findall(r"\bX\((\w+),", body)


def nouns() -> list[str]:
    table = (ROOT / "csrc/include/polyshm/kinds.def").read_text()
    return re.findall(r"^PSHM_(?:RAW\(|KIND\(\d+, *)(\w+)\)", table, re.MULTILINE)


def segment_kinds() -> list[str]:
    """The kinds of segment, as they stand in an address before the colon."""
    source = (ROOT / "csrc/include/polyshm/address.h").read_text()
    body = re.search(r"#define PSHM_SEGMENT_MAP\(X\)((?:.*\\\n)*.*\n)", source).group(1)
    return re.findall(r'X\(\w+, "(\w+)"\)', body)


def version() -> str:
    source = (ROOT / "csrc/include/polyshm/polyshm.h").read_text()
    return re.search(r'#define PSHM_VERSION "([^"]+)"', source).group(1)


@dataclass(frozen=True)
class Prototype:
    header: str
    result: str
    name: str
    contract: str
    inline: bool


@cache
def prototypes() -> list[Prototype]:
    """Every function of the public headers, with the comment above it or above the group of lines it stands in."""
    found = []
    start = re.compile(r"^(PSHM_API|static inline) (.*?)\b(pshm_\w+)\(")
    for header in HEADERS:
        comment, lines = [], header.read_text().splitlines()
        inside = False
        for line in lines:
            if line.startswith("/*"):
                comment, inside = [], True
            if inside:
                comment.append(line)
                inside = "*/" not in line
            elif match := start.match(line):
                kind, result, name = match.groups()
                found.append(Prototype(header.name, result.strip(), name, "\n".join(comment), kind == "static inline"))
            elif not line.strip():
                comment = []
    return found
