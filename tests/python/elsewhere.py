# SPDX-License-Identifier: MIT
"""What tests run in another thread or in a forked child."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any


def in_thread(function: Callable[[], Any]) -> Any:
    """Runs it in another thread and gives what it gave, or raises what it raised."""
    result: list = []

    def run() -> None:
        try:
            result.append((function(), None))
        except BaseException as error:
            result.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    value, error = result[0]
    if error is not None:
        raise error
    return value


def in_child(function: Callable[[], Any]) -> int:
    """Runs it in a forked child; 0 if it came back, whatever it gave, and else what the child ended with."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_holding(lock: Any, how: Callable[[], Any] | None = None) -> int:
    """A child takes the lock and dies; its pid."""
    pid = os.fork()
    if pid == 0:
        lock.acquire()
        if how is None:
            os.kill(os.getpid(), signal.SIGKILL)
        how()
        os._exit(1)
    os.waitpid(pid, 0)
    return pid


class Holder:
    """A thread that holds a lock until it is told to let go."""

    def __init__(self, lock: Any) -> None:
        self._holding, self._release = threading.Event(), threading.Event()
        self._lock = lock
        self._thread = threading.Thread(target=self._hold)

    def _hold(self) -> None:
        with self._lock:
            self._holding.set()
            self._release.wait(40)

    def release(self) -> None:
        self._release.set()

    def __enter__(self) -> Holder:
        self._thread.start()
        assert self._holding.wait(20)
        return self

    def __exit__(self, *args: object) -> None:
        self.release()
        self._thread.join()
