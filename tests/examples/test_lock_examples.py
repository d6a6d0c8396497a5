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


# Write what argv says, and die in the n-th change of a counter.
DIES = {
    "python": """\
import importlib.util, os, signal, sys, polyshm
source, address, low, high, left = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
spec = importlib.util.spec_from_file_location("reload", source)
reload = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reload)

class Counter:
    def __init__(self, counter):
        self.load, self.counter = counter.load, counter
    def __getattr__(self, verb):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return getattr(self.counter, verb)

class Arena:
    def __init__(self, arena):
        self.rwlock, self.arena = arena.rwlock, arena
    def counter(self, name):
        return Counter(self.arena.counter(name))

reload.Config(Arena(polyshm.Arena(address))).write(low, high)
""",
    "lua": """\
local source, left = arg[1], tonumber(arg[5])
local verbs = getmetatable(assert(require("polyshm").arena(arg[2])):counter("low")).__index
for _, verb in ipairs { "store", "add" } do
  local real = verbs[verb]
  verbs[verb] = function(...)
    if left == 0 then os.execute("kill -9 $PPID") end
    left = left - 1
    return real(...)
  end
end
arg = { arg[2], arg[3], arg[4] }
dofile(source)
""",
}


@pytest.mark.parametrize("languages", PAIRS, ids=IDS)
def test_reload_after_a_death(languages: tuple[str, str], shared: polyshm.Arena, start, python, lua) -> None:
    """Killed before each change of the shared memory, then the next one too, in what it does about the first."""
    writer, suffix = {"python": (python, "py"), "lua": (lua, "lua")}[languages[0]]
    source = EXAMPLES / f"reload.{suffix}"
    version, lows = shared.counter("version"), []
    output(start("reload", languages[1], shared.address, 20, 80))
    output(start("reload", languages[1], shared.address, 30, 70))
    for died_at in range(12):
        dies = writer.start(DIES[languages[0]], source, shared.address, 40, 60, died_at)
        if dies.wait(30) == 0:
            break
        assert dies.returncode == -signal.SIGKILL
        if died_at > 3:  # the repair begins to change something
            again = writer.start(DIES[languages[0]], source, shared.address, 40, 60, died_at % 3)
            assert again.wait(30) == -signal.SIGKILL
        version.store(1)
        reader = start("reload", languages[1], shared.address, *(["--changes", 1] if languages[1] == "python" else [1]))
        out, err = reader.communicate(timeout=40)
        assert out == f"{languages[1]}: version 1, from 30 to 70\n"
        assert err == f"process {dies.pid} died writing\n"
        lows.append(shared.counter("low").load())
    assert lows == [30] * 7, "copies, the mark, the limits, the version, the mark"


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
    turn, turns, stop = shared.permits("turn", 1), shared.counter("turns"), shared.event("stop")
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
    assert turn.available() == 1


def test_loop_of_the_dead(shared: polyshm.Arena, start) -> None:
    turns, stop = shared.counter("turns"), shared.event("stop")
    dies, lives = (start("loop", "lua", shared.address) for _ in range(2))

    def has_the_turn() -> bool:
        dies.send_signal(signal.SIGSTOP)
        if any(p.pid == dies.pid and "turn" in p.holds for p in shared.participants()):
            return True
        dies.send_signal(signal.SIGCONT)
        return False

    until(has_the_turn, "it never had its turn")
    dies.send_signal(signal.SIGKILL)
    dies.wait(30)
    assert turns.wait(turns.load() + 10, 30)
    stop.set()
    assert output(lives).splitlines()[-1] == "stopped"


@pytest.mark.parametrize("language", ["python", "lua"])
@pytest.mark.parametrize("number", [-1, 1000])
def test_lazy_knows_its_limits(language: str, number: int, shared: polyshm.Arena, start) -> None:
    child = start("lazy", language, shared.address, number)
    out, err = child.communicate(timeout=40)
    assert (child.returncode != 0, out) == (True, "")
    assert "squares of 0 to 999" in err
