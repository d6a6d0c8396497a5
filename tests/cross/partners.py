# SPDX-License-Identifier: MIT
"""The other side of peer.py, peer.lua and peer.c: starts partners and talks to them."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = Path(os.environ.get("POLYSHM_BUILD", HERE.parent.parent / "build")).resolve()

LANGUAGES = ("c", "python", "lua")
PROGRAMS = {
    "c": [str(BUILD / "tests" / "cross_peer")],
    "python": [sys.executable, str(HERE / "peer.py")],
    "lua": ["lua5.4", str(HERE / "peer.lua")],
}
PAIRS = [(writer, reader) for writer in LANGUAGES for reader in LANGUAGES]
if "POLYSHM_PAIRS" in os.environ:
    # "c-python lua-lua": these alone, where it is not about whether two languages agree.
    PAIRS = [
        (writer, reader) for writer, reader in PAIRS if f"{writer}-{reader}" in os.environ["POLYSHM_PAIRS"].split()
    ]
FOREVER = "-"


class Refused(Exception):
    """The partner answered "err CODE TEXT"."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code, self.text = code, text


class Died(Exception):
    """The partner was told that the owner of a lock died; `pid` is None where nobody knows it."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(pid)
        self.pid = pid


class Lines:
    """Sends and receives lines on two descriptors, with a limit on how long an answer may take."""

    limit = 30.0

    def __init__(self, source: int, target: int) -> None:
        self.source, self.target = source, target
        self._buffer = b""

    def send(self, *words: object) -> None:
        os.write(self.target, " ".join(map(str, words)).encode() + b"\n")

    def answered(self, seconds: float) -> bool:
        return b"\n" in self._buffer or bool(select.select([self.source], [], [], seconds)[0])

    def line(self) -> str:
        """The next line; EOFError if the other side ended."""
        end = time.monotonic() + self.limit
        while b"\n" not in self._buffer:
            if not self.answered(max(0.0, end - time.monotonic())):
                raise TimeoutError("no answer")
            chunk = os.read(self.source, 1 << 16)
            if not chunk:
                raise EOFError("the partner ended")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def end(self) -> None:
        os.close(self.source)
        os.close(self.target)


@dataclass(frozen=True)
class Participant:
    slot: int
    generation: int
    pid: int
    thread: int
    language: str
    alive: bool
    self: bool
    holds: list[str]
    waits: str | None

    @classmethod
    def of(cls, word: str) -> Participant:
        slot, generation, pid, thread, language, alive, self, holds, waits = word.split(";")
        numbers = (int(slot), int(generation), int(pid), int(thread))
        held = [] if holds == "-" else holds.split(",")
        return cls(*numbers, language, alive == "1", self == "1", held, None if waits == "-" else waits)


class Peer:
    """A partner. `peer("read", "s", 0, 4)` sends a command and returns the words of its answer; `send` and `answer`
    do the two apart, so that partners work at the same time."""

    def __init__(self, language: str, lines: Lines, pid: int, process: subprocess.Popen[bytes] | None = None) -> None:
        self.language, self.lines, self.pid, self.process = language, lines, pid, process
        self.waiting = 0  # answers that are still to come

    @classmethod
    def start(cls, language: str, **options) -> Peer:
        child = subprocess.Popen(
            PROGRAMS[language], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, **options
        )
        # Lines owns the descriptors.
        return cls(language, Lines(os.dup(child.stdout.fileno()), os.dup(child.stdin.fileno())), child.pid, child)

    def __repr__(self) -> str:
        return f"<{self.language} {self.pid}>"

    def send(self, *words: object) -> Peer:
        self.waiting += 1
        self.lines.send(*words)
        return self

    def answer(self) -> list[str]:
        line = self.lines.line()
        self.waiting -= 1
        verdict, *words = line.split(" ")
        if verdict == "ok":
            return words
        if verdict == "died":
            raise Died(None if words[0] == "-" else int(words[0]))
        if verdict == "err":
            raise Refused(words[0], " ".join(words[1:]))
        raise AssertionError(f"{self}: {line}")

    def __call__(self, *words: object) -> list[str]:
        return self.send(*words).answer()

    def number(self, *words: object) -> int:
        return int(self(*words)[0])

    def bytes(self, name: str, offset: int, size: int) -> bytes:
        text = self("read", name, offset, size)[0]
        return b"" if text == "-" else bytes.fromhex(text)

    def write(self, name: str, offset: int, data: bytes) -> None:
        self("write", name, offset, data.hex() or "-")

    def stat(self, *words: str) -> dict[str, str]:
        return stat_of(self(*words))

    def names(self, name: str = "a") -> dict[str, str]:
        """The objects of an arena: name and kind."""
        found = [word.partition("=") for word in self("names", name)]
        assert len({word for word, _, _ in found}) == len(found)
        return {bytes.fromhex(word).decode(): kind for word, _, kind in found}

    def crowd(self, name: str = "a") -> dict[int, Participant]:
        """The participants of an arena, by pid; of one process the last one."""
        return {one.pid: one for one in map(Participant.of, self("crowd", name))}

    def list(self) -> dict[str, dict[str, str]]:
        found = [stat_of(word.split(";")) for word in self("list")]
        return {stat["address"]: stat for stat in found}

    def _relative(self, how: str, tmp_path: Path, language: str, program: Sequence[str]) -> Peer:
        fifos = [tmp_path / f"{how}-{self.pid}-{len(list(tmp_path.iterdir()))}-{way}" for way in ("in", "out")]
        for fifo in fifos:
            os.mkfifo(fifo)
        pid = self.number(how, *fifos, *program)
        target = os.open(fifos[0], os.O_WRONLY | os.O_CLOEXEC)
        return Peer(language, Lines(os.open(fifos[1], os.O_RDONLY | os.O_CLOEXEC), target), pid)

    def fork(self, tmp_path: Path) -> Peer:
        """A forked child of this partner; `reap` it."""
        return self._relative("fork", tmp_path, self.language, ())

    def launch(self, tmp_path: Path, language: str) -> Peer:
        """A partner of another language, started by this one, with the descriptors that are inherited."""
        return self._relative("start", tmp_path, language, PROGRAMS[language])

    def reap(self, child: Peer) -> tuple[str, int]:
        """Ends a child that this partner started; how it ended: ("exit", code) or ("signal", number)."""
        child.lines.end()
        how, number = self("reap", child.pid)
        return how, int(number)

    def last(self, verb: str) -> None:
        """Sends "exit" or "die" and waits until the partner has ended."""
        self.send(verb)
        try:
            raise AssertionError(f"{self} still answers: {self.lines.line()}")
        except EOFError:
            pass
        if self.process:
            self.process.wait()

    def stop(self) -> None:
        self.lines.end()
        self.process.stdin.close()
        self.process.stdout.close()
        if self.waiting:
            self.process.kill()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def stat_of(words: list[str]) -> dict[str, str]:
    stat = dict(word.split("=", 1) for word in words)
    stat["address"] = bytes.fromhex(stat["address"]).decode()
    return stat
