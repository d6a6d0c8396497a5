#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Python and Lua count the words of one text together, and one of them is killed while it holds the lock.

    wordcount.py [FILE] [--size 256M] [--chunk 1M]

Without FILE the text is the GPL-3, repeated to --size in a memfd. This process, two Lua workers and a Python worker map
it; workers claim chunks by an atomic cursor and add what they counted to a shared table under a mutex. Worker 1, a Lua
one, is killed with SIGKILL half way through such an addition. Another worker gets the lock, puts the table right and
gives the chunk back, so that it is done again. In the end this process counts the text by itself and compares.

Exit status: 0 if the counts are equal. wordcount.layout describes the table.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

EXAMPLES = Path(__file__).resolve().parent
ROOT = EXAMPLES.parent
PATHS = {
    "PYTHONPATH": f"{ROOT}/python",
    "LUA_PATH": f"{ROOT}/lua/?.lua;{ROOT}/lua/?/init.lua;;",
    "LUA_CPATH": f"{ROOT}/build/lua/?.so;;",
}
for variable, value in PATHS.items():
    os.environ.setdefault(variable, value)
sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)

import polyshm  # noqa: E402
from wordcount_worker import DONE, LETTERS, LONGEST, close_table, count, finish, open_table  # noqa: E402

try:
    import numpy as np
except ImportError:
    np = None

TEXT = Path("/usr/share/common-licenses/GPL-3")
LANGUAGES = ("lua", "lua", "python")
COMMANDS = {"lua": [os.environ.get("LUA", "lua5.4")], "python": [sys.executable]}


# ---- what is on the screen


class Plain:
    """Lines, for logs."""

    def __init__(self) -> None:
        self.shown = -1

    def say(self, text: str) -> None:
        print(text, flush=True)

    def progress(self, what: str, done: int, total: int, rate: float, workers: list[str]) -> None:
        fifth = 5 * done // total
        if fifth != self.shown:
            self.shown = fifth
            print(f"{what} {100 * done // total:3} %  {rate:6.0f} MB/s  {'  '.join(workers)}".rstrip(), flush=True)

    def close(self) -> None:
        pass


class Rich:
    """The same with a bar that moves; events scroll by above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = Console(highlight=False)
        self.live = Live(console=self.console, refresh_per_second=20, transient=True)
        self.live.start()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, style="bold" if text.startswith("→") or "killed" in text else None)

    def progress(self, what: str, done: int, total: int, rate: float, workers: list[str]) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        grid.add_row(what, ProgressBar(total=total, completed=done, width=40), f"{100 * done // total} %")
        grid.add_row("", Text(f"{rate:.0f} MB/s"), "")
        self.live.update(Group(grid, *(Text("  " + worker) for worker in workers)))

    def close(self) -> None:
        self.live.stop()


def make_screen() -> Plain | Rich:
    if sys.stdout.isatty():
        try:
            return Rich()
        except ImportError:
            pass
    return Plain()


def bars(title: str, rows: list[tuple[str, int]]) -> str:
    most = max(1, *(n for _, n in rows))
    lines = [f"{label:>8} {n:12,} {'█' * round(46 * n / most)}" for label, n in rows]
    return "\n".join([title, *lines])


# ---- the text


def open_text(path: str | None, size: int) -> polyshm.Segment:
    if path is not None:
        return polyshm.Segment(f"file:{Path(path).resolve()}", access="r")
    once = TEXT.read_bytes()
    text = polyshm.Segment("memfd:wordcount", size=size, inherit=True)
    filled = min(len(once), size)
    text.write(0, once[:filled])
    while filled < size:
        more = min(filled, size - filled)
        text.copy(filled, 0, more)
        filled += more
    return text


def address_of(segment: polyshm.Segment) -> str:
    """How a child reaches it."""
    return f"fd:{segment.fd}" if segment.kind == "memfd" else segment.address


# ---- the workers


class Worker:
    def __init__(self, number: int, language: str, text: polyshm.Segment, table: polyshm.Segment) -> None:
        program = EXAMPLES / f"wordcount_worker.{'lua' if language == 'lua' else 'py'}"
        self.number = number
        self.line = [*COMMANDS[language], str(program), address_of(text), address_of(table), str(number)]
        # Descriptors that were opened with inherit=True reach the child by their numbers.
        self.process = subprocess.Popen(self.line, close_fds=False)
        self.name = f"{language} worker, pid {self.process.pid}"


class Demo:
    def __init__(self, text: polyshm.Segment, chunk: int, screen: Plain | Rich) -> None:
        self.text, self.chunk, self.screen = text, chunk, screen
        self.chunks = -(-len(text) // chunk)
        segment = polyshm.Segment("memfd:wordcount-table", size=8192 + 4 * self.chunks, inherit=True)
        self.table: SimpleNamespace = open_table(segment, create=True, repair=lambda died: self.give_back(died.pid))
        self.table.setup[0], self.table.setup[1] = self.chunks, self.chunks // 3
        self.table.sizes[0], self.table.sizes[1] = len(text), chunk
        self.workers: list[Worker] = []
        self.killed_at = 0.0
        self.story: list[str] = []

    def run(self) -> None:
        for number, language in enumerate(LANGUAGES, 1):
            if number <= self.chunks:
                self.table.state[number - 1] = number
            self.workers.append(Worker(number, language, self.text, self.table.segment))
        self.start = time.monotonic()
        self.table.go.store(1)
        self.table.go.notify(len(self.workers))
        while self.table.done.load() < self.chunks:
            if self.killed_at:
                self.table.done.wait(self.table.done.load(), timeout=0.05)
            elif self.table.trapped.wait(0, timeout=0.05):
                self.kill(self.workers[0])
            self.look_after_workers()
            self.show()
        for worker in self.workers:
            worker.process.wait()

    def kill(self, worker: Worker) -> None:
        """It holds the lock and says so."""
        assert self.table.lock.owner() == worker.process.pid
        self.killed_at = time.monotonic()
        os.kill(worker.process.pid, signal.SIGKILL)
        self.tell(f"{worker.name}: killed -9 while holding the lock")
        if not self.table.repaired.wait(0, timeout=30):
            raise RuntimeError("nobody recovered the lock")
        took = 1000 * (time.monotonic() - self.killed_at)
        self.tell(f"{self.name_of(self.table.repaired.load())}: recovered after {took:.1f} ms")
        if not self.table.redone.wait(0, timeout=30):
            raise RuntimeError("nobody did the chunk again")
        again, redone = self.table.again.load() - 1, self.name_of(self.table.redone.load())
        self.tell(f"chunk {again} done again", f" by {redone}")

    def look_after_workers(self) -> None:
        """Who dies without the lock leaves no mark in it; only its parent sees that."""
        alive = False
        for worker in self.workers:
            code = worker.process.poll()
            if code is None:
                alive = True
            elif code != 0 and worker.process.pid in list(self.table.pid):
                expected = worker is self.workers[0] and self.killed_at
                if not expected and worker.number in list(self.table.state):
                    self.screen.say(f"{worker.name}: ended with {code}")
                    with self.table.lock:
                        self.give_back(worker.process.pid)
        if not alive and self.table.done.load() < self.chunks:
            raise RuntimeError("all workers ended before the text did")

    def give_back(self, pid: int | None) -> None:
        finish(self.table)
        dead = list(self.table.pid).index(pid) + 1
        for i, state in enumerate(self.table.state):
            if state == dead:
                self.table.state[i] = 0

    def name_of(self, number: int) -> str:
        return self.workers[number - 1].name

    def tell(self, text: str, more: str = "") -> None:
        self.screen.say(("→ " if self.story else "") + text + more)
        self.story.append(text)

    def show(self) -> None:
        states = list(self.table.state)
        done = self.table.done.load()
        rate = done * self.chunk / 1e6 / (time.monotonic() - self.start)
        workers = [
            f"{worker.name}: {states.count(DONE + worker.number)} chunks"
            + (", killed" if worker.process.poll() == -signal.SIGKILL else "")
            for worker in self.workers
        ]
        self.screen.progress("counting", min(done, self.chunks), self.chunks, rate, workers)

    def result(self) -> tuple[list[int], list[int]]:
        front = self.table.front.load()
        return list(self.table.words[front]), list(self.table.bytes[front])

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()
        close_table(self.table)


# ---- the check


def count_alone(text: polyshm.Segment, screen: Plain | Rich) -> tuple[list[int], list[int]]:
    """The whole text in this process, without the table."""
    step, size, start = 4 << 20, len(text), time.monotonic()
    words, histogram = [0] * LONGEST, [0] * 256
    counter = Edges(text) if np is not None else None
    for at in range(0, size, step):
        end = min(at + step, size)
        more = counter.count(at, end) if counter else count(text, at, end)
        words = [a + b for a, b in zip(words, more[0], strict=True)]
        histogram = [a + b for a, b in zip(histogram, more[1], strict=True)]
        screen.progress("checking", end, size, end / 1e6 / (time.monotonic() - start), [])
    return words, histogram


class Edges:
    """Another way to the same numbers, with numpy: words are what lies between the edges of runs of letters."""

    def __init__(self, text: polyshm.Segment) -> None:
        self.data = np.frombuffer(text, dtype=np.uint8)
        self.letter = np.zeros(256, dtype=bool)
        self.letter[list(LETTERS)] = True
        self.previous = np.zeros(1, dtype=bool)
        self.open = np.zeros(0, dtype=np.int64)

    def count(self, start: int, end: int) -> tuple[list[int], list[int]]:
        part = self.data[start:end]
        letters = self.letter[part]
        edges = np.flatnonzero(letters != np.concatenate((self.previous, letters[:-1]))) + start
        edges = np.concatenate((self.open, edges))
        if end == len(self.data) and letters[-1]:
            edges = np.append(edges, end)
        whole = len(edges) & ~1
        self.previous, self.open = letters[-1:], edges[whole:]
        lengths = np.minimum(edges[1:whole:2] - edges[:whole:2], LONGEST)
        return (
            np.bincount(lengths, minlength=LONGEST + 1)[1:].tolist(),
            np.bincount(part, minlength=256).tolist(),
        )


# ---- all of it


def parse_size(text: str) -> int:
    unit = {"K": 10, "M": 20, "G": 30}.get(text[-1:].upper(), 0)
    size = int(text[:-1] if unit else text) << unit
    if size <= 0:
        raise ValueError
    return size


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Python and Lua count the words of one text together.")
    parser.add_argument("file", nargs="?", metavar="FILE", help="the text; without it the GPL-3, repeated")
    parser.add_argument("--size", type=parse_size, default="256M", help="how long the repeated text is (%(default)s)")
    parser.add_argument("--chunk", type=parse_size, help="bytes of a chunk (1M, less for a short text)")
    return parser.parse_args()


def demonstrate(arguments: argparse.Namespace, screen: Plain | Rich) -> bool:
    with open_text(arguments.file, arguments.size) as text:
        # A short text too gets some chunks for each worker.
        chunk = arguments.chunk or max(4096, min(1 << 20, len(text) // 48))
        what = f"{text.address}, {len(text) / 1e6:,.1f} MB"
        screen.say(f"{what}: mapped by this process, two Lua workers and a Python worker")
        demo = Demo(text, chunk, screen)
        try:
            demo.run()
            seconds = time.monotonic() - demo.start
            screen.say(f"{demo.chunks} chunks in {seconds:.1f} s, {len(text) / 1e6 / seconds:.0f} MB/s")
            shared = demo.result()
        finally:
            demo.close()
        equal = shared == count_alone(text, screen)
    demo.tell("all counts equal" if equal else "THE COUNTS DIFFER")
    words, histogram = shared
    lengths = [(f"{i}{'+' if i == LONGEST else ''}", n) for i, n in enumerate(words, 1)]
    common = sorted(range(256), key=lambda byte: -histogram[byte])[:12]
    screen.say(bars("\nwords by length", lengths))
    screen.say(bars("\nthe most common bytes", [(repr(chr(byte)), histogram[byte]) for byte in common]))
    screen.say("\n" + " → ".join(demo.story))
    return equal


def main() -> int:
    sys.stdout.reconfigure(errors="replace")
    arguments = parse_arguments()
    screen = make_screen()
    try:
        return 0 if demonstrate(arguments, screen) else 1
    except (OSError, RuntimeError, ValueError) as error:
        screen.close()
        print(f"wordcount: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        screen.close()


if __name__ == "__main__":
    sys.exit(main())
