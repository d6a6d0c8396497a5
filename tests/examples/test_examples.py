# SPDX-License-Identifier: MIT
"""The programs of examples/ do what they say, and leave nothing behind."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SUFFIX = {"python": "py", "lua": "lua"}
PAIRS = [("python", "python"), ("lua", "lua"), ("python", "lua"), ("lua", "python")]
STEPS = 6


@pytest.fixture
def runners(python, lua, monkeypatch: pytest.MonkeyPatch):
    # A Lua program that starts a Python one takes the Python that these tests run on.
    monkeypatch.setenv("PYTHON", sys.executable)
    return {"python": python, "lua": lua}


def program(name: str, language: str) -> Path:
    return EXAMPLES / f"{name}.{SUFFIX[language]}"


# ---- layout


@pytest.mark.parametrize("language", SUFFIX)
def test_layout_shows_where_everything_lies(language: str, runners) -> None:
    head, *rows = runners[language](program("layout", language)).stdout.splitlines()
    assert head.split() == ["what", "address", "mapping", "KiB", "rights", "behind", "it"]
    addresses = []
    for row in rows:
        match = re.fullmatch(r"(.{24}) +([0-9a-f]+) +([0-9a-f]+)-([0-9a-f]+) +(\d+)  (\S{4})    (.*)", row)
        assert match, row
        address, start, end = (int(match[i], 16) for i in (2, 3, 4))
        assert start <= address < end
        assert int(match[5]) == (end - start) // 1024
        addresses.append(address)
        what = match[1].strip()
        if what.partition(":")[0] in ("posix", "sysv", "file", "anon", "zero", "memfd", "fd"):
            assert match[6] == "rw-s"
            assert int(match[5]) == 1024
    assert addresses == sorted(addresses)
    shown = "\n".join(rows)
    for part in ("text", "heap", "stack", "posix:", "sysv:", "file:", "anon:", "zero:", "memfd:", "fd:"):
        assert re.search(rf"^{part}", shown, re.MULTILINE), f"no row of {part}"


# ---- counter


def check_game(*outputs: str, languages: tuple[str, str]) -> None:
    """Both took their turns, and both came to the same total."""
    lines = "".join(outputs).splitlines()
    steps = {}
    for line in lines:
        if match := re.fullmatch(r"(python|lua), pid (\d+): step (\d+) of (\d+), (\d+) \+ 1 = (\d+)", line):
            language, pid, step, of, before, after = match.groups()
            assert (int(of), int(before), int(after)) == (STEPS, int(step) - 1, int(step))
            steps[int(step)] = (language, pid)
    assert sorted(steps) == list(range(1, STEPS + 1))
    assert {steps[i] for i in range(1, STEPS, 2)} == {steps[1]}
    assert {steps[i] for i in range(2, STEPS + 1, 2)} == {steps[2]}
    assert steps[1] != steps[2]
    assert (steps[1][0], steps[2][0]) == languages
    totals = [line.rpartition(" ")[2] for line in lines if ": total " in line]
    assert totals == [str(STEPS)] * 2


@pytest.mark.parametrize("address", ["anon:", "zero:"])
def test_counter_with_a_forked_child(address: str, python) -> None:
    shown = python(program("counter", "python"), address, "--steps", STEPS).stdout
    check_game(shown, languages=("python", "python"))


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_counter_with_a_child_that_inherits_a_memfd(first: str, second: str, runners) -> None:
    options = ["--steps", STEPS, "--partner", second] if first == "python" else [STEPS, second]
    shown = runners[first](program("counter", first), "memfd:counter", *options).stdout
    check_game(shown, languages=(first, second))


@pytest.mark.parametrize("kind", ["posix", "sysv", "file"])
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_counter_with_anybody(first: str, second: str, kind: str, name: str, runners, tmp_path: Path) -> None:
    address = {
        "posix": f"posix:{name}",
        "sysv": f"sysv:0x{int.from_bytes(os.urandom(4), 'big') | 1:08x}",
        "file": f"file:{tmp_path}/counter",
    }[kind]
    steps = {"python": ["--steps", STEPS], "lua": [STEPS]}
    creator = runners[first].start(program("counter", first), address, *steps[first])
    shown = creator.stdout.readline()
    assert "step 1 of" in shown
    # The partner takes the number of steps from the creator.
    other = runners[second](program("counter", second), address).stdout
    shown += creator.communicate(timeout=30)[0]
    assert creator.returncode == 0
    check_game(shown, other, languages=(first, second))


def test_counter_refuses_a_third_player(name: str, runners) -> None:
    address = f"posix:{name}"
    creator = runners["python"].start(program("counter", "python"), address, "--steps", 10**6, stdout=-3)
    while not Path("/dev/shm" + name).exists():
        time.sleep(0.01)
    partner = runners["lua"].start(program("counter", "lua"), address)
    assert "step 2 of" in partner.stdout.readline()
    third = runners["lua"](program("counter", "lua"), address, check=False)
    assert (third.returncode, third.stderr) == (1, f"counter: {address}: two are playing already\n")
    creator.send_signal(signal.SIGINT)
    creator.wait(timeout=30)
    partner.kill()
    assert not Path("/dev/shm" + name).exists()


@pytest.mark.parametrize("language", SUFFIX)
def test_counter_names_a_bad_address(language: str, runners) -> None:
    done = runners[language](program("counter", language), "nonsense:x", check=False)
    assert done.returncode == 1
    assert "not an address" in done.stderr
    assert "Traceback" not in done.stderr


# ---- wordcount


def check_story(shown: str) -> None:
    story = shown.rstrip().splitlines()[-1]
    worker = r"(?:lua|python) worker, pid \d+"
    expected = (
        r"lua worker, pid (\d+): killed -9 while holding the lock"
        rf" → ({worker}): recovered after [\d.]+ ms"
        r" → chunk \d+ done again"
        r" → all counts equal"
    )
    match = re.fullmatch(expected, story)
    assert match, story
    assert match[1] not in match[2]


def lengths(shown: str) -> dict[str, int]:
    table = shown.partition("words by length")[2].partition("the most common bytes")[0]
    return {row.split()[0]: int(row.split()[1].replace(",", "")) for row in table.strip().splitlines()}


def test_wordcount_counts_right_after_a_kill(python, tmp_path: Path) -> None:
    line = b"Shared memory, two languages and one lock; a worker dies and nothing is lost.\n"
    text = tmp_path / "text"
    text.write_bytes(line * 30_000 + b"x" * 20_000 + bytes(range(256)) + os.urandom(1000))
    shown = python(EXAMPLES / "wordcount.py", text).stdout
    check_story(shown)
    found = lengths(shown)
    assert found["9"] >= 30_000
    # Words that cross the border of two chunks, and one that is longer than a chunk, are counted once.
    assert 1 <= found["20+"] <= 4


def test_wordcount_of_the_repeated_text(python) -> None:
    shown = python(EXAMPLES / "wordcount.py", "--size", "3M", "--chunk", "32K").stdout
    assert "memfd:wordcount, 3.1 MB" in shown
    check_story(shown)


def test_wordcount_without_numpy(python, tmp_path: Path) -> None:
    """The check by bytes methods, as `make demo` on a fresh machine does it."""
    (tmp_path / "numpy.py").write_text("raise ImportError\n")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}"}
    check_story(python(EXAMPLES / "wordcount.py", "--size", "2M", env=env).stdout)


def test_wordcount_finds_its_modules_by_itself(python) -> None:
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "LUA_PATH", "LUA_CPATH")}
    check_story(python(EXAMPLES / "wordcount.py", "--size", "1M", env=env).stdout)


def test_wordcount_of_one_chunk(python, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"one word or two")
    shown = python(EXAMPLES / "wordcount.py", text).stdout
    check_story(shown)
    assert lengths(shown)["3"] == 2


@pytest.mark.parametrize("content", [None, b""])
def test_wordcount_names_what_it_cannot_map(content: bytes | None, python, tmp_path: Path) -> None:
    text = tmp_path / "text"
    if content is not None:
        text.write_bytes(content)
    done = python(EXAMPLES / "wordcount.py", text, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("wordcount: ")
    assert str(text) in done.stderr


def test_wordcount_survives_the_death_of_any_worker(python, tmp_path: Path) -> None:
    """A worker that dies elsewhere, without the lock, is seen by its parent."""
    script = """
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
import wordcount
def kill_one(demo):
    while demo.table.done.load() < demo.chunks // 2:
        time.sleep(0.001)
    os.kill(demo.workers[2].process.pid, signal.SIGKILL)
run = wordcount.Demo.run
def start(demo):
    demo.workers = []
    threading.Thread(target=kill_one, args=(demo,)).start()
    run(demo)
wordcount.Demo.run = start
sys.argv[1:] = ["--size", "24M", "--chunk", "256K"]
sys.exit(wordcount.main())
"""
    shown = python(script, EXAMPLES).stdout
    check_story(shown)
