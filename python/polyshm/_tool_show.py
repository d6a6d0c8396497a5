# SPDX-License-Identifier: MIT
"""How `python -m polyshm` shows what it found: tables, by rich."""

from __future__ import annotations

import grp
import pwd
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polyshm._tool import ARENA, Entry, Info, Name, Participant, plain
from polyshm._tool_remove import Orphan
from polyshm._tool_words import Owner


def _console() -> Console:
    # A pipe gets whole lines, however long.
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=10_000)


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _row(table: Table, *cells: object, style: str = "") -> None:
    table.add_row(*(Text(plain("-" if cell is None else str(cell))) for cell in cells), style=style)


def size_text(size: int | None) -> str | None:
    """As an option takes it: 1048576 is 1M."""
    if size is None:
        return None
    for unit in "GMK":
        scale = 1 << {"G": 30, "M": 20, "K": 10}[unit]
        if size and size % scale == 0:
            return f"{size // scale}{unit}"
    return str(size)


def _user(uid: int | None, gid: int | None) -> str | None:
    if uid is None:
        return None
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    if gid is None:
        return user
    try:
        return f"{user}:{grp.getgrgid(gid).gr_name}"
    except KeyError:
        return f"{user}:{gid}"


def show_segments(entries: list[Entry]) -> None:
    table = _table("address", "size", "what", "objects", "alive", "owner", "mode", "life", right=("size", "objects"))
    for e in entries:
        size, owner = size_text(e["size"]), _user(e["uid"], e["gid"])
        cells = (e["address"], size, e["what"], e["objects"], e["alive"], owner, e["mode"], e["life"])
        _row(table, *cells, style="" if e["error"] is None or e["what"] == ARENA else "red")
    _console().print(table)


def _dead(who: int | None) -> str:
    return "somebody" if who is None else str(who)


def owner_text(owner: Owner) -> str:
    if owner["state"] == "free":
        return "free"
    if owner["state"] == "abandoned":
        text = f"abandoned by {_dead(owner['died'])}"
    else:
        text = f"held by {owner['pid']} (participant {owner['participant']})"
        if owner["state"] == "recovering":
            text += f", recovering from the death of {_dead(owner['died'])}"
    return text + (", others wait" if owner["waiters"] else "")


def _rwlock_text(owner: Owner | None, details: dict[str, int | bool | str | None]) -> str:
    text = "free" if owner is None else owner_text(owner)
    if details["writer_waits"] and owner is not None:
        text = f"read, {owner['pid']} (participant {owner['participant']}) waits to write"
    elif details["read"]:
        text = "read" + text.removeprefix("free")
    return text


def _state(name: Name) -> object:
    of, owner = name["details"], name["owner"]
    match name["kind"]:
        case "mutex" if owner is not None:
            return owner_text(owner) + (", recursive" if name["recursive"] else "")
        case "rwlock" if of:
            return _rwlock_text(owner, of)
        case "semaphore" if of:
            return of["value"]
        case "permits" if of:
            return f"{of['available']} of {of['total']} free"
        case "event" if of:
            return ("set" if of["is_set"] else "clear") + (", auto" if of["auto"] else "")
        case "latch" if of:
            return f"{of['count']} to count"
        case "once" if of:
            if of["done"]:
                return "done"
            return "not done" if owner is None else f"{owner['pid']} (participant {owner['participant']}) does it"
        case "barrier" if of:
            text = f"{of['n_waiting']} of {of['parties']} wait" + (", broken" if of["broken"] else "")
            return text + (", shrinks" if of["on_death"] == "shrink" else "")
        case "condition" if of:
            return "its mutex was deleted" if of["mutex"] is None else f"of {of['mutex']}"
    return name["value"]


def _participants(all_: list[Participant]) -> Table:
    table = _table("slot", "pid", "thread", "language", "alive", "holds", "waits for", right=("slot", "pid", "thread"))
    for p in all_:
        alive = "yes" if p["alive"] else "dead"
        cells = (p["slot"], p["pid"], p["thread"], p["language"], alive, ", ".join(p["holds"]) or None, p["waits"])
        _row(table, *cells, style="" if p["alive"] else "red")
    return table


def show_info(found: Info) -> None:
    console, head, heap = _console(), found["header"], found["heap"]
    table = _table("arena", "")
    _row(table, "address", found["address"])
    _row(table, "size", size_text(found["size"]))
    _row(table, "life", found["life"])
    _row(table, "id", head["id"])
    _row(table, "format", f"{head['format']}, abi {head['abi']}")
    _row(table, "boot", head["boot"])
    _row(table, "heap", f"{heap['used']} bytes used, {heap['free']} free, {heap['largest_free']} in one block")
    if heap["large"]:
        _row(table, "", f"{heap['large']} large blocks, of {heap['large_pages']} pages")
    alive = sum(p["alive"] for p in found["participants"])
    _row(table, "participants", f"{alive} of {found['room']}, {len(found['participants']) - alive} dead")
    console.print(table)

    if heap["classes"]:
        console.print()
        table = _table("block", "used", "free", right=("block", "used", "free"))
        for c in heap["classes"]:
            _row(table, c["block"], c["used"], c["free"])
        console.print(table)
    if found["names"]:
        console.print()
        table = _table("name", "kind", "state")
        for name in found["names"]:
            _row(table, name["name"], name["kind"], _state(name))
        console.print(table)
    if found["participants"]:
        console.print()
        console.print(_participants(found["participants"]))


def show_orphans(found: list[Orphan], yes: bool) -> None:
    if not found:
        return
    table = _table("address", "size", "life", "objects", "dead", "removed", right=("size", "objects", "dead"))
    for o in found:
        removed = "yes" if o["removed"] else "no" if yes else None
        _row(table, o["address"], size_text(o["size"]), o["life"], o["objects"], o["dead"], removed)
    _console().print(table)
