# SPDX-License-Identifier: MIT
"""The programs of examples/ about locks: in each language, together, and with one of them killed."""

from __future__ import annotations

import re
import signal
import sys
import time
from pathlib import Path

import polyshm
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PAIRS = [("python", "python"), ("lua", "lua"), ("python", "lua"), ("lua", "python")]
IDS = ["-".join(pair) for pair in PAIRS]


@pytest.fixture
def start(python, lua, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHON", sys.executable)
    runners = {"python": (python, "py"), "lua": (lua, "lua")}

    def start(name: str, language: str, *arguments: object):
        runner, suffix = runners[language]
        return runner.start(EXAMPLES / f"{name}.{suffix}", *arguments)

    return start


def output(child, code: int = 0) -> str:
    out, err = child.communicate(timeout=40)
    assert child.returncode == code, f"{out}{err}"
    return out


@pytest.fixture
def shared(name: str):
    with polyshm.Arena(f"posix:{name}", create=True) as arena:
        yield arena
        if polyshm.exists(f"posix:{name}"):
            arena.unlink()


def until(condition, what: str) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


# ---- pool


def pool_arguments(language: str, jobs: int, seconds: float) -> list[object]:
    return ["--jobs", jobs, "--seconds", seconds] if language == "python" else [jobs, seconds]


@pytest.mark.parametrize("languages", PAIRS, ids=IDS)
def test_pool(languages: tuple[str, str], shared: polyshm.Arena, start) -> None:
    workers = [
        start("pool", language, shared.address, *pool_arguments(language, 4, 0.01)) for language in languages * 2
    ]
    for worker, language in zip(workers, languages * 2, strict=True):
        lines = output(worker).splitlines()
        assert len(lines) == 4
        assert all(re.fullmatch(rf"{language}\S*.*: job \d, [12] of 2 connections in use", line) for line in lines)
    assert shared.counter("done").load() == 16
    assert 1 <= shared.counter("most").load() <= 2
    assert shared.permits("connections").available() == 2


@pytest.mark.parametrize("languages", PAIRS, ids=IDS)
def test_pool_of_the_dead(languages: tuple[str, str], shared: polyshm.Arena, start) -> None:
    pool = shared.permits("connections", 2)
    killed = [start("pool", languages[0], shared.address, *pool_arguments(languages[0], 1, 600)) for _ in range(2)]
    until(lambda: pool.available() == 0, "they never took a connection")
    waits = start("pool", languages[1], shared.address, *pool_arguments(languages[1], 2, 0.01))
    for worker in killed:
        worker.send_signal(signal.SIGKILL)
    assert len(output(waits).splitlines()) == 2
    assert shared.counter("done").load() == 2


# ---- reload


@pytest.mark.parametrize("languages", PAIRS, ids=IDS)
def test_reload(languages: tuple[str, str], shared: polyshm.Arena, start) -> None:
    arguments = ["--changes", 1] if languages[0] == "python" else [1]
    reader = start("reload", languages[0], shared.address, *arguments)
    assert output(start("reload", languages[1], shared.address, 20, 80)) == ""
    assert output(reader) == f"{languages[0]}: version 1, from 20 to 80\n"


@pytest.mark.parametrize("language", ["python", "lua"])
def test_reload_after_a_death(language: str, shared: polyshm.Arena, start, python) -> None:
    output(start("reload", language, shared.address, 20, 80))
    dies = python.start(
        "import os, signal, sys, polyshm\n"
        "shared = polyshm.Arena(sys.argv[1])\n"
        "lock = shared.rwlock('config')\n"
        "with lock.write:\n"
        "    for name in ('low', 'high'):\n"
        "        shared.counter(name + ' before').store(shared.counter(name).load())\n"
        "    shared.counter('low').store(90)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n",
        shared.address,
    )
    assert dies.wait(30) == -signal.SIGKILL
    reader = start("reload", language, shared.address, *(["--changes", 1] if language == "python" else [1]))
    out, err = reader.communicate(timeout=40)
    assert out == f"{language}: version 1, from 20 to 80\n"
    assert err == f"process {dies.pid} died writing\n"


# ---- phases


@pytest.mark.parametrize("languages", PAIRS, ids=IDS)
def test_phases(languages: tuple[str, str], shared: polyshm.Arena, start) -> None:
    everybody = [*languages, "python"]
    workers = [start("phases", language, shared.address, 3) for language in everybody]
    said = sorted(line.partition("phase ")[2] for worker in workers for line in output(worker).splitlines())
    assert said == [f"{phase}, total {3 * phase}" for phase in range(1, 5)]


@pytest.mark.parametrize("languages", PAIRS, ids=IDS)
def test_phases_of_the_dead(languages: tuple[str, str], shared: polyshm.Arena, start) -> None:
    arguments = ["--phases", 1, "--seconds", 600] if languages[0] == "python" else [1, 600]
    dies = start("phases", languages[0], shared.address, 2, *arguments)
    until(lambda: "phases" in shared, "it never came")
    lives = start("phases", languages[1], shared.address, 2)
    barrier = shared.barrier("phases")
    until(lambda: shared.counter("total").load() >= 1, "they never began")
    until(lambda: barrier.n_waiting == 1, "the other never waited")
    dies.send_signal(signal.SIGKILL)
    assert output(lives).splitlines()[-1].endswith("phase 4, total 4")


# ---- lazy


@pytest.mark.parametrize("languages", PAIRS, ids=IDS)
def test_lazy(languages: tuple[str, str], shared: polyshm.Arena, start) -> None:
    asked = [start("lazy", language, shared.address, 12) for language in languages * 2]
    said = [line for child in asked for line in output(child).splitlines()]
    assert sorted(said)[:4] == ["144"] * 4
    assert len(said) == 5
    assert said.count("python: making the table") + said.count("lua: making the table") == 1


@pytest.mark.parametrize("languages", PAIRS, ids=IDS)
def test_lazy_after_a_death(languages: tuple[str, str], shared: polyshm.Arena, start) -> None:
    arguments = ["--seconds", 600] if languages[0] == "python" else [600]
    dies = start("lazy", languages[0], shared.address, 12, *arguments)
    assert dies.stdout.readline() == f"{languages[0]}: making the table\n"
    next_one = start("lazy", languages[1], shared.address, 12)
    dies.send_signal(signal.SIGKILL)
    assert output(next_one) == f"{languages[1]}: making the table\n144\n"


# ---- loop


def test_loop(shared: polyshm.Arena, start) -> None:
    turn, turns, stop = shared.semaphore("turn", 1), shared.counter("turns"), shared.event("stop")
    loops = [start("loop", "lua", shared.address) for _ in range(2)]
    assert turns.wait(10, 30)
    with turn:
        before = turns.load()
        time.sleep(0.15)  # longer than a slice
        assert turns.load() == before
    assert turns.wait(before + 10, 30)
    stop.set()
    for loop in loops:
        lines = output(loop).splitlines()
        assert lines[-1] == "stopped"
        assert all(re.fullmatch(r"worker [123], turn \d+", line) for line in lines[:-1])
    assert turn.value() == 1
