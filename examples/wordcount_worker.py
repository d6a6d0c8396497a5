#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A worker of wordcount.py: wordcount_worker.py TEXT TABLE NUMBER, both by address.

It claims chunks of the text, counts them and adds what it found to the shared table, until all chunks are in.
wordcount_worker.lua is the same in Lua.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import polyshm

LAYOUT = Path(__file__).with_name("wordcount.layout")
FREE, DONE = 0, 100
LONGEST = 20

LETTERS = bytes(c for c in range(256) if chr(c).isascii() and chr(c).isalpha())
SPACED = bytes(c if c in LETTERS else 0x20 for c in range(256))
# Bytes in the order in which English uses them: each is counted by taking it out, so the common ones come first.
FREQUENT = b" etoainsrhdlcum\nfpgwybvkxj.,qz"


def open_table(segment: polyshm.Segment, create: bool = False, repair=None) -> SimpleNamespace:
    """What wordcount.layout describes: atomics, views and the mutex, by name."""
    table = SimpleNamespace(segment=segment)
    for line in LAYOUT.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        name, type_, offset, count = line.split()[:4]
        if type_ == "mutex":
            part = segment.mutex(int(offset), create=create, repair=repair)
        elif type_ == "word":
            part = segment.atomic("u32", int(offset))
        else:
            part = segment.view(type_, int(offset), None if count == "*" else int(count))
        setattr(table, name, part)
        setattr(table, name + "_offset", int(offset))
    table.heads = (table.head0, table.head1)
    table.words = (table.words0, table.words1)
    table.bytes = (table.bytes0, table.bytes1)
    return table


def close_table(table: SimpleNamespace) -> None:
    for part in vars(table).values():
        if isinstance(part, memoryview):
            part.release()
    table.segment.close()


# ---- counting


def edges(text: polyshm.Segment, start: int, end: int) -> tuple[int, int]:
    """A word belongs to the chunk that it starts in. Where this chunk's first word begins, and its last one ends."""
    first, last = start, end
    if start > 0 and text[start - 1] in LETTERS:
        while first < end and text[first] in LETTERS:
            first += 1
    if first < end and text[end - 1] in LETTERS:
        while last < len(text) and text[last] in LETTERS:
            last += 1
    return first, last


def count(text: polyshm.Segment, start: int, end: int) -> tuple[list[int], list[int]]:
    """Words by length, and bytes, of one chunk."""
    first, last = edges(text, start, end)
    data = text[start:last]
    words = [0] * LONGEST
    lengths = Counter(map(len, data[first - start :].translate(SPACED).split()))
    for length, n in lengths.items():
        words[min(length, LONGEST) - 1] += n
    histogram = [0] * 256
    rest = data[: end - start]
    for byte in FREQUENT:
        before = len(rest)
        rest = rest.translate(None, bytes((byte,)))
        histogram[byte] = before - len(rest)
    for byte, n in Counter(rest).items():
        histogram[byte] = n
    return words, histogram


# ---- the table


def finish(table: SimpleNamespace) -> None:
    """What follows a commit. Under the lock; doing it twice does no harm."""
    chunk, worker, done, _ = table.heads[table.front.load()]
    if chunk:
        table.state[chunk - 1] = DONE + worker
        if chunk == table.again.load():
            table.redone.store(worker)
    table.done.store(done)
    table.done.notify(100)


def add(table: SimpleNamespace, worker: int, chunk: int, words: list[int], histogram: list[int]) -> None:
    """Adds a chunk to the sums. Under the lock; a death before the store to `front` leaves them as they were."""
    front = table.front.load()
    back = 1 - front
    for target, source, more in (
        (table.words[back], table.words[front], words),
        (table.bytes[back], table.bytes[front], histogram),
    ):
        for i, n in enumerate(more):
            target[i] = source[i] + n
    head = table.heads[back]
    head[0], head[1], head[2] = chunk + 1, worker, table.heads[front][2] + 1
    table.front.store(back)
    finish(table)


def repair(table: SimpleNamespace, worker: int, pid: int | None) -> None:
    """The owner of the lock died. Under the lock: finishes what it had committed, and gives its chunk back."""
    finish(table)
    dead = list(table.pid).index(pid) + 1
    for chunk, state in enumerate(table.state):
        if state == dead:
            table.again.store(chunk + 1)
            table.state[chunk] = FREE
    table.repaired.store(worker)
    table.repaired.notify()


def claim(table: SimpleNamespace, worker: int) -> int | None:
    """A chunk that nobody has: the one given back, the next one, or any that fell through."""

    def take(chunk: int) -> bool:
        return table.segment.atomic("u32", table.state_offset + 4 * chunk).compare_exchange(FREE, worker) == FREE

    chunks = table.setup[0]
    again = table.again.load()
    if again and take(again - 1):
        return again - 1
    while table.cursor.load() < chunks:
        chunk = table.cursor.add(1)
        if chunk < chunks and take(chunk):
            return chunk
    return next((chunk for chunk, state in enumerate(table.state) if state == FREE and take(chunk)), None)


def work(text: polyshm.Segment, table: SimpleNamespace, worker: int) -> None:
    chunks, size, step, parent = table.setup[0], *table.sizes, os.getppid()
    if not table.go.wait(0, timeout=30):
        sys.exit("nobody said go")
    # The first chunk of each worker is its own from the beginning.
    chunk = worker - 1 if worker <= chunks else None
    while True:
        if chunk is None:
            done = table.done.load()
            if done == chunks or os.getppid() != parent:
                return
            # The others are at the last ones. If one of them dies, its chunk comes back: who takes the lock is told.
            if not table.done.wait(done, timeout=0.1):
                with table.lock:
                    pass
        else:
            start = chunk * step
            words, histogram = count(text, start, min(start + step, size))
            with table.lock:
                add(table, worker, chunk, words, histogram)
        chunk = claim(table, worker)


def main() -> None:
    text = polyshm.Segment(sys.argv[1], access="r")
    worker = int(sys.argv[3])
    segment = polyshm.Segment(sys.argv[2])
    table = open_table(segment, repair=lambda died: repair(table, worker, died.pid))
    table.pid[worker - 1] = os.getpid()
    work(text, table, worker)
    close_table(table)
    text.close()


if __name__ == "__main__":
    main()
