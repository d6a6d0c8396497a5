"""count.py OPERATION TIMES: does one operation so often, for callgrind to count."""

import sys

import polyshm

segment = polyshm.Segment("anon:", size=1 << 16)
names = {
    "s": segment,
    "a": segment.atomic("i64", 0),
    "l": segment.mutex(64, create=True),
    "b": b"x" * 64,
}
statements = {
    "empty": "pass",
    "atomic.add": "a.add(1)",
    "atomic.load": "a.load()",
    "mutex.acquire+release": "l.acquire(); l.release()",
    "mutex with": "with l: pass",
    "segment.read 64 B": "s.read(4096, 64)",
    "segment.write 64 B": "s.write(4096, b)",
    "segment[a:b]": "s[4096:4160]",
    "segment[i]": "s[4096]",
}
source = f"def run({', '.join(names)}, times):\n for _ in range(times):\n  {statements[sys.argv[1]]}\n"
exec(source, scope := {})
scope["run"](*names.values(), int(sys.argv[2]))
