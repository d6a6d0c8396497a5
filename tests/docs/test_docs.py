# SPDX-License-Identifier: MIT
"""The examples of README.rst and docs/ run.

All Python blocks of a page are one program, and so are all its Lua blocks; both run at the same time, each block in its
turn as the page has them, so that a page can show two terminals. A program that was killed is followed by a new one, of
the blocks behind. A C block is a program of its own. A console block is lines of a shell behind "$ ", and what each
prints. What a comment promises is compared: `# -> text` in Python, `--> text` in Lua, `// -> text` in C; `...` stands
for anything, and 4711 for any process. POSIX names get a prefix that nobody else uses, `file:` paths are in a folder of
the test.

A comment in front of a block says more of it:

    .. test: not run, why                it cannot run here; the reason is for the reader
    .. test: kill python                 the block is a shell line that stands for this: SIGKILL for that program
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("POLYSHM_BUILD", ROOT / "build")).resolve()
PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").rglob("*.rst"))]
RUN = ("python", "lua", "c", "console")
DONE = "\x04"


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    code: str
    order: str  # what the comment in front says

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    found, order = [], ""
    for number, line in enumerate(lines):
        if match := re.match(r"\s*\.\. test: (.+)", line):
            order = match[1]
        elif match := re.match(r"(\s*)\.\. code-block:: (\w+)", line):
            indent, language = len(match[1]), match[2]
            body = []
            for inside in lines[number + 1 :]:
                if inside.strip() and len(inside) - len(inside.lstrip()) <= indent:
                    break
                body.append(inside)
            code = textwrap.dedent("\n".join(row for row in body if not re.match(r"\s*:\w+:", row))).strip("\n")
            found.append(Block(page, number + 1, language, code + "\n", order))
            order = ""
        elif line.strip():
            order = ""
    return found


ALL = [block for page in PAGES for block in blocks_of(page)]


def expected(block: Block) -> list[str]:
    if block.language == "console":
        return [line.strip() for line in block.code.splitlines() if line.strip() and not line.startswith("$ ")]
    mark = {"python": r"# ->", "lua": r"-->", "c": r"// ->"}[block.language]
    return [match[1].strip() for match in re.finditer(rf"{mark} (.*)", block.code)]


def check_output(block: Block, shown: str) -> None:
    """Every promised line is there, in this order."""
    rest = shown.splitlines()
    for promise in expected(block):
        pattern = re.escape(promise).replace(r"\.\.\.", ".*").replace("4711", r"\d+")
        pattern = re.sub(r"(\\ )+", r"\\s+", pattern)  # columns
        while rest and not re.fullmatch(pattern, re.sub(r"\t", " ", rest[0]).strip()):
            rest.pop(0)
        assert rest, f"{block}: {promise!r} is not in what was printed:\n{shown}"
        rest.pop(0)


class Program:
    """The blocks of one language, run block by block."""

    TURN = {
        "python": """\
import sys
def _turn():
    print("{done}", flush=True)
    sys.stdin.readline() or exit()
_turn()
""",
        "lua": """\
local function _turn()
  print("{done}") io.flush()
  if not io.read() then os.exit(0, true) end
end
_turn()
""",
    }

    def __init__(self, language: str, blocks: list[Block], rename, folder: Path) -> None:
        source = self.TURN[language].replace("{done}", DONE)
        for block in blocks:
            source += rename(block.code) + "\n_turn()\n"
        path = folder / f"page.{'py' if language == 'python' else 'lua'}"
        path.write_text(source)
        command = [sys.executable if language == "python" else "lua5.4", str(path)]
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.until_done(blocks[0])

    def until_done(self, block: Block) -> str:
        shown = ""
        while True:
            line = self.process.stdout.readline()
            if not line:
                self.process.wait(timeout=20)
                pytest.fail(f"{block}: the program ended\n{shown}{self.process.stderr.read()}", pytrace=False)
            if line == DONE + "\n":
                return shown
            shown += line

    def run(self, block: Block) -> str:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.until_done(block)

    def end(self) -> None:
        """Ends as a program does, with what that does to handles."""
        _, errors = self.process.communicate(timeout=20)
        assert (self.process.returncode, errors) == (0, "")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                stream.close()
            except BrokenPipeError:  # what it was not there to read any more
                pass


def run_c(block: Block, rename, folder: Path) -> str:
    source = folder / f"block{block.line}.c"
    source.write_text(rename(block.code))
    program = source.with_suffix("")
    line = ["gcc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}/csrc/include", str(source)]
    line += ["-o", str(program), str(BUILD / "libpolyshm.a"), "-pthread"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, f"{block}\n{done.stderr}"
    done = subprocess.run([program], cwd=folder, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"{block}: ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def run_console(block: Block, rename, folder: Path) -> str:
    """Each line is one that goes well, or says so: `|| echo $?`."""
    shown, python = "", f"{Path(sys.executable)} -m polyshm"
    for line in rename(block.code).splitlines():
        if line.startswith("$ "):
            line = line[2:].replace("python -m polyshm", python)
            done = subprocess.run(
                ["sh", "-c", line], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30
            )
            assert done.returncode == 0, f"{block}: {line}: ended with {done.returncode}\n{done.stdout}"
            shown += done.stdout
    return shown


@pytest.fixture
def rename(name: str) -> Iterator:
    """Gives every POSIX name a prefix of this test's own, and removes what is left of them."""
    yield lambda text: re.sub(r"posix:/(?=\w)", f"posix:{name}-", text)
    for left in Path("/dev/shm").glob(f"{name[1:]}-*"):
        left.unlink()


RUNNABLE = [page for page in PAGES if any(block.language in RUN for block in blocks_of(page))]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_examples_of(page: Path, rename, tmp_path: Path) -> None:
    blocks = [b for b in blocks_of(page) if b.language in RUN or b.order.startswith("kill ")]
    blocks = [b for b in blocks if not b.order.startswith("not run")]
    programs: dict[str, Program] = {}
    try:
        for language in ("python", "lua"):
            start(language, blocks, programs, rename, tmp_path)
        for number, block in enumerate(blocks):
            if block.order.startswith("kill "):
                language = block.order.split()[1]
                os.kill(programs[language].process.pid, signal.SIGKILL)
                programs[language].process.wait(timeout=20)
                programs.pop(language).close()
                start(language, blocks[number + 1 :], programs, rename, tmp_path)
                continue
            if block.language in ("c", "console"):
                shown = (run_c if block.language == "c" else run_console)(block, rename, tmp_path)
            else:
                shown = programs[block.language].run(block)
            check_output(Block(block.page, block.line, block.language, rename(block.code), ""), shown)
        for program in programs.values():
            program.end()
    finally:
        for program in programs.values():
            program.kill()
            program.close()


def start(language: str, blocks: list[Block], programs: dict[str, Program], rename, folder: Path) -> None:
    """Starts the program of a language's blocks, up to where it is killed."""
    own: list[Block] = []
    for block in blocks:
        if block.order == f"kill {language}":
            break
        if block.language == language:
            own.append(block)
    if own:
        programs[language] = Program(language, own, rename, folder)


# ---- the pages themselves


def test_blocks_are_found() -> None:
    languages = [block.language for block in ALL]
    assert min(languages.count(language) for language in RUN) > 0
    assert {"README.rst", "mutex.rst", "c.rst"} <= {page.name for page in RUNNABLE}


@pytest.mark.parametrize("block", [b for b in ALL if b.order], ids=str)
def test_orders_are_known_and_give_a_reason(block: Block) -> None:
    assert re.fullmatch(r"not run, \w.{9,}|kill (python|lua)", block.order)


@pytest.mark.parametrize("block", [b for b in ALL if b.language in RUN and not b.order], ids=str)
def test_examples_fit_the_page(block: Block) -> None:
    assert max(map(len, block.code.splitlines())) <= 110


def test_a_wrong_promise_is_found() -> None:
    block = Block(PAGES[0], 1, "python", "print(1)  # -> 2\n", "")
    with pytest.raises(AssertionError, match="is not in what was printed"):
        check_output(block, "1\n")
    check_output(Block(PAGES[0], 1, "lua", "--> a...c\n", ""), "x\nabc\n")


ERRORS = re.compile(r'X\((E\w+), (-\d+), (\w+),\s*((?:"(?:[^"\\]|\\.)*"\s*)+)\)')
RAISED = {
    "VALUE": "``ValueError``",
    "TYPE": "``TypeError``",
    "INDEX": "``IndexError``",
    "BUFFER": "``BufferError``",
    "RUNTIME": "``RuntimeError``",
    "LOST": "``Lost``",
    "DELETED": "``Deleted``",
    "KEY": "``KeyError``",
    "BROKEN": "``BrokenBarrierError``",
    "INCOMPATIBLE": "``Incompatible``",
    "CORRUPT": "``Corrupt``",
}


def test_page_of_errors_agrees_with_the_table() -> None:
    """Every code with its number, what Python raises, and its text."""
    header = (ROOT / "csrc/include/polyshm/error.h").read_text().replace("\\\n", "\n")
    codes = ERRORS.findall(header)
    assert len(codes) == len(re.findall(r"^\s+X\(E", header, re.MULTILINE)) > 20
    page = re.sub(r"\s+", " ", (ROOT / "docs/errors.rst").read_text())
    for name, number, class_, strings in codes:
        text = "".join(part.encode().decode("unicode_escape") for part in re.findall(r'"((?:[^"\\]|\\.)*)"', strings))
        row = f"* - ``{name}`` - {number} - {RAISED[class_]} - {text}"
        assert row in page, row


def test_page_of_advice_agrees_with_the_core() -> None:
    source = (ROOT / "csrc/os/mapping.c").read_text()
    page = (ROOT / "docs/segment.rst").read_text()
    names = re.findall(r'\{"(\w+)", MADV_', source)
    assert len(names) > 15
    assert [name for name in names if f'``"{name}"``' not in page] == []


def test_every_field_of_stat_is_explained() -> None:
    header = (ROOT / "csrc/include/polyshm/segment.h").read_text()
    body = re.search(r"#define PSHM_STAT_MAP\(X\)((?:.*\\\n)*.*\n)", header)[1]
    page = (ROOT / "docs/segment.rst").read_text()
    assert [field for field in re.findall(r"X\((\w+),", body) if f"``{field}``" not in page] == []
