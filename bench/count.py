"""Instructions per operation, counted by callgrind: the same on a busy machine as on an idle one.

Each operation runs twice with different counts; the difference, less an empty loop's, is what one costs. The table in
bench/count.txt is compared: what moved by more than 5 % is named. `--keep` writes the table anew.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COUNT = ROOT / "bench" / "count"
TABLE = ROOT / "bench" / "count.txt"
LOOPS = (1000, 6000)
TOLERANCE = 0.05

# From measurements of bare calls on Debian 12 (Python 3.11, Lua 5.4.4): where a budget is known, it is printed.
BUDGETS = {
    ("python", "mutex.acquire+release"): 450,
    ("python", "mutex with"): 1150,
    ("python", "atomic.add"): 430,
    ("lua", "mutex.acquire+release"): 1000,
    ("lua", "atomic.add"): 650,
}


def operations(language: str) -> list[str]:
    """Read from the program itself, so that there is one list."""
    if language == "c":
        found = re.findall(r'^    \{"([^"]+)", ', (COUNT / "count.c").read_text(), re.MULTILINE)
        return [name for name in found if name != "empty"]
    pattern = r'^    "([^"]+)": ' if language == "python" else r'^    \["([^"]+)"\] = '
    suffix = "py" if language == "python" else "lua"
    found = re.findall(pattern, (COUNT / f"count.{suffix}").read_text(), re.MULTILINE)
    return [name for name in found if name != "empty" and len(name) > 1]


def instructions(command: list[str], environment: dict[str, str]) -> int:
    with tempfile.NamedTemporaryFile() as out:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", *command],
            env=environment,
            capture_output=True,
            text=True,
        )
    match = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not match:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return int(match[1])


def per_operation(command: list[str], operation: str, environment: dict[str, str]) -> float:
    low, high = (instructions([*command, operation, str(n)], environment) for n in LOOPS)
    return (high - low) / (LOOPS[1] - LOOPS[0])


def build_c() -> str:
    target = ROOT / "build" / "bench" / "count"
    target.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-std=c11", "-O2", "-D_GNU_SOURCE", "-DPSHM_STATIC", f"-I{ROOT}/csrc/include", "-pthread"]
    command += [str(COUNT / "count.c"), str(ROOT / "build" / "libpolyshm.a"), "-o", str(target)]
    subprocess.run(command, check=True)
    return str(target)


def measure(languages: list[str], python: str) -> dict[tuple[str, str], float]:
    environment = dict(os.environ, PYTHONHASHSEED="0", PYTHONDONTWRITEBYTECODE="1")
    environment.setdefault("PYTHONPATH", str(ROOT / "python"))
    environment["LUA_PATH"] = f"{ROOT}/lua/?.lua;{ROOT}/lua/?/init.lua;;"
    environment["LUA_CPATH"] = f"{ROOT}/build/lua/?.so;;"
    commands = {
        "c": lambda: [build_c()],
        "python": lambda: [python, str(COUNT / "count.py")],
        "lua": lambda: ["lua5.4", str(COUNT / "count.lua")],
    }
    results = {}
    for language in languages:
        command = commands[language]()
        empty = per_operation(command, "empty", environment)
        for operation in operations(language):
            results[language, operation] = per_operation(command, operation, environment) - empty
            print(f"  {language:<7} {operation:<24} {results[language, operation]:8.0f}", flush=True)
    return results


def read_table() -> dict[tuple[str, str], float]:
    if not TABLE.exists():
        return {}
    rows = (line.split("\t") for line in TABLE.read_text().splitlines() if not line.startswith("#"))
    return {(language, operation): float(count) for language, operation, count in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="write bench/count.txt anew")
    parser.add_argument("--python", default=sys.executable, help="the CPython to count")
    parser.add_argument("languages", nargs="*", default=["c", "python", "lua"])
    options = parser.parse_args()
    results, kept = measure(options.languages, options.python), read_table()
    for key, count in results.items():
        if key in kept and abs(count - kept[key]) > TOLERANCE * max(kept[key], 20):
            print(f"moved: {key[0]} {key[1]}: {kept[key]:.0f} -> {count:.0f}")
        if count > BUDGETS.get(key, count):
            print(f"over its budget of {BUDGETS[key]}: {key[0]} {key[1]}: {count:.0f}")
    if options.keep:
        kept.update(results)
        rows = [f"{language}\t{operation}\t{count:.0f}" for (language, operation), count in sorted(kept.items())]
        heading = "# instructions per operation (callgrind), empty loop taken off: make bench-count"
        TABLE.write_text("\n".join([heading, *rows]) + "\n")


if __name__ == "__main__":
    main()
