# SPDX-License-Identifier: MIT
"""python -m polyshm: what shared memory there is on this machine, what is in an arena, and what nobody needs any more.

It changes nothing unless told to remove, takes no lock that an arena has, and works when everybody who takes part is
stopped. docs/command.rst describes it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from types import ModuleType

import polyshm
from polyshm import _tool, _tool_remove

FINE, FAILED, USAGE = 0, 1, 2
LIVES = ("keep", "last-detach")


def complain(text: str) -> None:
    print(f"polyshm: {_tool.plain(text)}", file=sys.stderr)


class NoRich(Exception):
    pass


def tables() -> ModuleType:
    """The module that shows tables; asked for before anything is done."""
    try:
        from polyshm import _tool_show
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        raise NoRich("tables need rich: pip install 'polyshm[cli]', or say --json") from None
    return _tool_show


def print_json(found: object) -> None:
    print(json.dumps(found, indent=2))


def ls(options: argparse.Namespace) -> int:
    show = None if options.json else tables()
    entries, problems = _tool.segments(options.files)
    if show is None:
        print_json(entries)
    else:
        show.show_segments(entries)
    for entry in entries:
        if entry["error"] is not None:
            complain(entry["error"])
    for problem in problems:
        complain(problem)
    return FAILED if problems else FINE


def info(options: argparse.Namespace) -> int:
    show = None if options.json else tables()
    found = _tool.info(options.address)
    if show is None:
        print_json(found)
    else:
        show.show_info(found)
    return FINE


def check(options: argparse.Namespace) -> int:
    found = _tool.check(options.address)
    if options.json:
        print_json(found)
    else:
        for line in found["findings"]:
            print(line)
        for p in found["busy"] if found["findings"] else ():
            holds = " and ".join(name for name in p["holds"] if name in ("(heap)", "(directory)"))
            complain(f"{options.address}: {p['pid']} holds {holds}; what it is in the middle of is not finished")
    return FAILED if found["findings"] else FINE


def rm(options: argparse.Namespace) -> int:
    found = [_tool_remove.remove(address) for address in options.address]
    if options.json:
        print_json(found)
    for removal in found:
        if removal["error"] is not None:
            complain(removal["error"])
    return FINE if all(removal["removed"] for removal in found) else FAILED


def gc(options: argparse.Namespace) -> int:
    show = None if options.json else tables()
    found = _tool_remove.orphans(options.address, {options.life} if options.life else set(LIVES), options.yes)
    if show is None:
        print_json(found)
    else:
        show.show_orphans(found, options.yes)
    for orphan in found:
        if orphan["error"] is not None:
            complain(orphan["error"])
    return FAILED if any(orphan["error"] for orphan in found) else FINE


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m polyshm", description="Shared memory on this machine.")
    top.add_argument("--version", action="version", version=f"polyshm {polyshm.__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(run.__name__, help=text, description=text)
        made.add_argument("--json", action="store_true", help="print JSON")
        made.set_defaults(run=run)
        return made

    listing = verb(ls, "all segments, and what each is")
    listing.add_argument("--files", metavar="DIR", action="append", default=[], help="also the arenas in this folder")
    verb(info, "what is in an arena, and who takes part").add_argument("address", metavar="ADDRESS")
    verb(check, "what is wrong in an arena").add_argument("address", metavar="ADDRESS")
    verb(rm, "remove names").add_argument("address", metavar="ADDRESS", nargs="+")
    garbage = verb(gc, "arenas on which nobody lives, by proof")
    garbage.add_argument("address", metavar="ADDRESS", nargs="*", help="look at these alone")
    garbage.add_argument("--life", choices=LIVES, help="only those of this life")
    garbage.add_argument("--yes", action="store_true", help="remove them")
    return top


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except NoRich as error:
        complain(str(error))
        return USAGE
    except BrokenPipeError:
        # Whoever read has seen enough. What is still buffered must not fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except (ValueError, TypeError, OSError, polyshm.Error) as error:
        complain(_tool.message_of(getattr(options, "address", None), error))
        return USAGE if isinstance(error, ValueError | TypeError) else FAILED


if __name__ == "__main__":
    sys.exit(main())
