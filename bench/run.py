"""Speed beside the peers and the bare floor, all in one run.

Rounds of every script follow each other, so that a change of the machine's speed meets all of them; each ratio is taken
within a round, and the median over the rounds is printed beside its bar. Nothing here passes or fails.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"
BUILD = ROOT / "build" / "bench"

# what, numerator, denominators that are added up, comparison, bar
PYTHON = [
    ("atomic.add / (empty + bare atomic)", "atomic.add", ["empty add", "floor atomic"], "<=", 1.2),
    ("mutex acquire + release / mp.Lock", "mutex pair", ["mp.Lock pair"], "<=", 0.8),
    ("mutex acquire + release / (two empty + pthread)", "mutex pair", ["two empty", "floor mutex pair"], "<=", 1.25),
    ("mutex with / mp.Lock with", "mutex with", ["mp.Lock with"], "<=", 0.7),
    ("arena mutex acquire + release / mp.Lock", "arena mutex pair", ["mp.Lock pair"], "<=", 0.75),
    ("arena mutex with / mp.Lock with", "arena mutex with", ["mp.Lock with"], "<=", 0.65),
    ("counter.add / (empty + bare atomic)", "counter.add", ["empty add", "floor atomic"], "<=", 1.2),
    ("turns over two conditions / mp.Condition", "condition turn", ["mp.Condition turn"], "<=", float("inf")),
    ("mutex acquire + release / sysv_ipc.Semaphore", "mutex pair", ["sysv_ipc pair"], "<=", 0.1),
    ("64 B slice read / mmap", "slice read", ["mmap slice read"], "<=", 1.1),
    ("64 B slice write / mmap", "slice write", ["mmap slice write"], "<=", 1.1),
    ("64 B read / mmap slice", "read", ["mmap slice read"], "<=", 1.0),
    ("64 B write / mmap slice", "write", ["mmap slice write"], "<=", 1.0),
    ("create cycle 4 KiB / mp.shared_memory", "create", ["mp create"], "<=", 0.75),
    ("create cycle 4 KiB / the system calls in C", "create", ["floor create"], "<=", 1.5),
    ("attach cycle 1 MiB / mp.shared_memory", "attach", ["mp attach"], "<=", 0.75),
    ("attach cycle 1 MiB / the system calls in C", "attach", ["floor attach"], "<=", 1.5),
]
# Verbs of locks, and the empty methods that they are measured against, with their time in C added.
LOCKS = [
    ("rwlock read pair", "two empty"),
    ("rwlock write pair", "two empty"),
    ("semaphore pair", "two empty"),
    ("event pair", "two empty"),
    ("event.is_set", "one empty"),
    ("latch.count_down", "empty add"),  # which makes a number, too
    ("permits pair", "two empty"),
    ("once.done", "one empty"),
]
LOCKS_BOUND: list[tuple[str, str, list[str], str, float]] = [
    (f"{verb} / ({empty} + the same in C)", verb, [empty, f"C {verb}"], "<=", 1.25) for verb, empty in LOCKS
]
PYTHON += [
    *LOCKS_BOUND,
    ("semaphore acquire + release / mp.Semaphore", "semaphore pair", ["mp.Semaphore pair"], "<=", 0.77),
    ("event set + clear / mp.Event", "event pair", ["mp.Event pair"], "<=", 0.77),
    ("event.is_set / mp.Event", "event.is_set", ["mp.Event.is_set"], "<=", 0.77),
]
ARENA = [
    ("mutex pair / bare CAS + exchange", "mutex pair", ["bare CAS + exchange"], "<=", 1.6),
    ("mutex pair / robust pthread mutex", "mutex pair", ["robust pthread pair"], "<=", 0.85),
    ("rwlock read pair / mutex pair", "rwlock read pair", ["mutex pair"], "<=", 1.6),
    ("rwlock write pair / mutex pair", "rwlock write pair", ["mutex pair"], "<=", float("inf")),
    ("semaphore pair / bare CAS + exchange", "semaphore pair", ["bare CAS + exchange"], "<=", 2.0),
    ("event set + clear / bare CAS + exchange", "event pair", ["bare CAS + exchange"], "<=", 2.0),
    ("latch.count_down / bare add", "latch.count_down", ["bare add"], "<=", 2.0),
    ("permits pair / mutex pair", "permits pair", ["mutex pair"], "<=", float("inf")),
    (
        "two readers of two rwlocks / of one, on two cores",
        "two readers of two rwlocks",
        ["two readers of one rwlock"],
        ">=",
        0.9,
    ),
    ("mutex pair with a notify / without", "mutex pair with notify", ["mutex pair"], "<=", float("inf")),
    ("counter.add / bare add", "counter.add", ["bare add"], "<=", 2.0),
    ("alloc_into + free_from 64 B / malloc + free", "alloc_into + free_from 64", ["malloc + free 64"], "<=", 4.0),
    ("hand-over, one core / bare futex", "mutex hand-over", ["futex hand-over"], "<=", 1.2),
]
# what, value, of what a multiple, and what may be added: milliseconds
DEATH = [
    ("death of a holder: lock", "death: lock ms", "death: pidfd ms"),
    ("the same, 512 MiB resident", "death with 512 MiB: lock ms", "death with 512 MiB: pidfd ms"),
]
AWAITED = [
    ("aio.Mutex acquire + release / asyncio.Lock", "Mutex pair", ["asyncio.Lock pair"], "<=", 1.5),
    ("async with aio.Mutex / asyncio.Lock", "Mutex with", ["asyncio.Lock with"], "<=", 1.5),
    ("aio.Semaphore acquire + release / asyncio.Lock", "Semaphore pair", ["asyncio.Lock pair"], "<=", 1.5),
    ("aio.Event.wait, set, / asyncio.Lock pair", "Event.wait", ["asyncio.Lock pair"], "<=", 1.5),
    ("wake of a task / by an eventfd", "Event wake", ["eventfd wake"], "<=", 1.3),
]
LUA = [
    ("atomic.add / (empty + bare atomic)", "atomic.add", ["empty add", "floor atomic"], "<=", 1.2),
    ("counter.add / (empty + bare atomic)", "counter.add", ["empty add", "floor atomic"], "<=", 1.2),
    (
        "arena mutex pair / (two empty + the C pair)",
        "arena mutex pair",
        ["two empty", "C arena mutex pair"],
        "<=",
        1.25,
    ),
    ("mutex acquire + release / (two empty + pthread)", "mutex pair", ["two empty", "floor mutex pair"], "<=", 1.25),
    ("64 B read / empty, table __index", "read", ["empty give"], "<=", 1.3),
    ("64 B read / empty, C __index", "read", ["empty give, fields"], "<=", 1.3),
    ("64 B write / empty, table __index", "write", ["empty take"], "<=", 1.3),
    ("64 B write / empty, C __index", "write", ["empty take, fields"], "<=", 1.3),
    ("v[i] / bare C __index", "v[i]", ["bare __index"], "<=", 1.6),
    ("string.unpack(f, seg:read(o, 8)) / v[i]", "unpack(read)", ["v[i]"], ">=", 3.0),
    ("create cycle 4 KiB / the system calls in C", "create", ["floor create"], "<=", 1.5),
    ("attach cycle 1 MiB / the system calls in C", "attach", ["floor attach"], "<=", 1.5),
]
LUA += LOCKS_BOUND
# speeds, so the floor's time over ours
BULK = {
    "python": [("write", "floor copy", 0.9), ("read_into", "floor copy", 0.9), ("read", "floor malloc copy", 0.9)],
    "lua": [
        ("write", "floor copy", 0.9),
        ("view copy", "floor copy", 0.9),
        ("read_into", "floor copy", 0.9),
        ("read", "floor malloc copy", 0.6),
    ],
}


def build(python: str) -> dict[str, str]:
    """Compiles the floors, and gives the environment that finds them and the modules."""
    BUILD.mkdir(parents=True, exist_ok=True)
    floor = [str(BENCH / "floor" / "floor.c")]
    flags = ["gcc", "-std=c11", "-O2", "-D_GNU_SOURCE", "-fPIC", "-shared", "-fvisibility=default", "-pthread"]
    include = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('include'))"], text=True
    ).strip()
    lua = subprocess.check_output(["pkg-config", "--cflags", "lua5.4"], text=True).split()
    for source, output, more in (
        ("floor_python.c", "floor_python.so", [f"-I{include}"]),
        ("floor_lua.c", "floor_lua.so", lua),
    ):
        subprocess.run([*flags, *more, str(BENCH / "floor" / source), *floor, "-o", str(BUILD / output)], check=True)
    subprocess.run(
        [
            "gcc",
            "-std=c11",
            "-O2",
            "-D_GNU_SOURCE",
            f"-I{ROOT}/csrc/include",
            str(BENCH / "arena.c"),
            str(ROOT / "build" / "libpolyshm.a"),
            "-pthread",
            "-o",
            str(BUILD / "arena"),
        ],
        check=True,
    )
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [os.environ.get("PYTHONPATH", str(ROOT / "python")), str(BUILD)])
    )
    environment["LUA_PATH"] = f"{ROOT}/lua/?.lua;{ROOT}/lua/?/init.lua;;"
    environment["LUA_CPATH"] = f"{ROOT}/build/lua/?.so;{BUILD}/?.so;;"
    return environment


def json_of(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    return json.loads(subprocess.check_output(command, env=environment, cwd=ROOT, text=True))


def lines_of(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    text = subprocess.check_output(command, env=environment, text=True)
    return {name: float(value) for name, value in (line.split("\t") for line in text.splitlines())}


def lua_round(environment: dict[str, str]) -> dict[str, float]:
    return lines_of(["taskset", "-c", "0", "lua5.4", str(BENCH / "lua_side.lua")], environment)


def startup(command: list[str], environment: dict[str, str]) -> float:
    """Milliseconds of a whole process."""
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True)
    return (time.perf_counter() - start) * 1e3


def import_round(python: str, environment: dict[str, str]) -> dict[str, float]:
    # As installed packages are: with their bytecode written.
    environment = {key: value for key, value in environment.items() if key != "PYTHONDONTWRITEBYTECODE"}
    commands = {
        "python": ([python, "-c", "pass"], [python, "-c", "import polyshm"]),
        "lua": (["lua5.4", "-e", ""], ["lua5.4", "-e", "require 'polyshm'"]),
    }
    return {
        name: min(startup(with_, environment) for _ in range(5)) - min(startup(without, environment) for _ in range(5))
        for name, (without, with_) in commands.items()
    }


def row(what: str, values: list[float], comparison: str, bar: float, unit: str = "") -> None:
    middle = statistics.median(values)
    met = middle <= bar if comparison == "<=" else middle >= bar
    spread = f"{min(values):.2f} - {max(values):.2f}"
    print(f"  {what:<52} {middle:6.2f}{unit}  ({spread})  bar {comparison} {bar}{unit}{'' if met else '   MISSED'}")


def ratios(title: str, rows: list[tuple[str, str, list[str], str, float]], rounds: list[dict[str, float]]) -> None:
    print(title)
    for what, above, below, comparison, bar in rows:
        usable = [r for r in rounds if above in r and all(name in r for name in below)]
        if usable:
            row(what, [r[above] / sum(r[name] for name in below) for r in usable], comparison, bar)
        else:
            print(f"  {what:<52} not measured: the peer is not installed")


def deaths(rounds: list[dict[str, float]]) -> None:
    for what, value, floor in DEATH:
        row(f"{what} <= 1.5 x pidfd + 1 ms", [r[value] / (1.5 * r[floor] + 1) for r in rounds], "<=", 1.0)
        worst = max(r[value + ", worst"] for r in rounds)
        print(f"  {'worst of all':<52} {worst:6.2f} ms")
    row("sleeps a hand-over", [r["sleeps a hand-over"] for r in rounds], "<=", 1.0)
    row("attach to 1 GiB", [r["attach 1 GiB us"] for r in rounds], "<=", 100, " us")
    row("attach to 1 GiB / to 16 MiB", [r["attach 1 GiB us"] / r["attach 16 MiB us"] for r in rounds], "<=", 1.2)


def bulk(language: str, rounds: list[dict[str, float]]) -> None:
    for what, floor, bar in BULK[language]:
        for size in ("1 MiB", "64 MiB"):
            values = [r[f"{floor} {size}"] / r[f"{what} {size}"] for r in rounds]
            row(f"{what} {size}, speed / {floor[6:]} in C", values, ">=", bar)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--python", default=sys.executable, help="the CPython to measure")
    parser.add_argument("--absolute", action="store_true", help="print the medians in nanoseconds too")
    options = parser.parse_args()
    environment = build(options.python)
    python, lua, contention, imports, arena, awaited = [], [], [], [], [], []
    for _ in range(options.rounds):
        arena.append(lines_of([str(BUILD / "arena")], environment))
        pairs = {f"C {verb}": arena[-1][verb] for verb, _ in LOCKS}
        python.append(json_of([options.python, str(BENCH / "python_side.py")], environment) | pairs)
        lua.append(lua_round(environment) | {"C arena mutex pair": arena[-1]["mutex pair"]} | pairs)
        contention.append(json_of([options.python, str(BENCH / "contention.py")], environment))
        awaited.append(json_of([options.python, str(BENCH / "awaited.py")], environment))
        imports.append(import_round(options.python, environment))
    ratios(f"The arena in C, {options.rounds} rounds, medians (least - most)", ARENA, arena)
    deaths(arena)
    version = subprocess.check_output([options.python, "-V"], text=True).strip()
    ratios(f"{version}, {options.rounds} rounds, medians (least - most)", PYTHON, python)
    for name, bar in (("mutex", 2.0), ("arena mutex", 2.5)):
        values = [c[name] / c["mp.Lock"] for c in contention]
        row(f"two processes, {name} around c[0] += 1, / mp.Lock", values, ">=", bar)
    ratios("polyshm.aio", AWAITED, awaited)
    bulk("python", python)
    row("import, beyond the interpreter's start", [i["python"] for i in imports], "<=", 1.0, " ms")
    ratios("Lua 5.4", LUA, lua)
    bulk("lua", lua)
    row("require, beyond the interpreter's start", [i["lua"] for i in imports], "<=", 1.0, " ms")
    if options.absolute:
        for title, rounds in (("Arena in C", arena), ("Python", python), ("Lua", lua)):
            print(f"{title}, nanoseconds")
            for name in rounds[0]:
                print(f"  {name:<30} {statistics.median(r[name] for r in rounds):12.1f}")
    print(f"({sysconfig.get_platform()}, {os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
