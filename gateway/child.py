"""One service as a child process that cannot outlive its parent."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["Address", "Child", "StackError"]

# A cold import of the numeric libraries from a slow disk takes up to half a minute.
_BIND_LIMIT_SECONDS = 90.0
_POLL_SECONDS = 0.05


class StackError(Exception):
    """The service ``name`` of the local stack could not be started, or ended by itself."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


@dataclass(frozen=True)
class Address:
    """Where a process listens, each as host:port."""

    grpc: str
    http: str


class Child:
    """``python -m module`` with ``settings`` as its ``DPST_`` environment.

    It runs in a session of its own, so that a terminal's Ctrl-C reaches only the parent, which then stops it in order.
    Its standard input is a pipe that the parent never writes to: when the parent dies, even by SIGKILL, the pipe ends
    and the child drains. ``log`` receives its log; None leaves it on the parent's standard error.
    """

    def __init__(self, name: str, module: str, folder: Path, settings: Mapping[str, str], log: Path | None) -> None:
        self.name = name
        self._log = log
        self._address_file = folder / f"{name}.json"
        environment = {
            **os.environ,
            **{f"DPST_{key.upper()}": value for key, value in settings.items()},
            "DPST_ADDRESS_FILE": str(self._address_file),
            "DPST_EXIT_WITH_PARENT": "true",
        }
        with contextlib.ExitStack() as stack:
            errors: IO[bytes] | None = stack.enter_context(log.open("wb")) if log else None
            self._process = subprocess.Popen(  # noqa: S603 - our own module, by our own interpreter
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def address(self) -> Address:
        """Wait until both ports are bound. Raises ``StackError`` if the child dies before, or takes too long."""
        limit = time.monotonic() + _BIND_LIMIT_SECONDS
        while not self._address_file.exists():
            self.check(wait_seconds=_POLL_SECONDS)
            if time.monotonic() > limit:
                raise StackError(self.name, f"{self.name} did not open its ports within {_BIND_LIMIT_SECONDS:.0f} s")
        found = json.loads(self._address_file.read_text(encoding="utf-8"))
        return Address(found["grpc"], found["http"])

    def check(self, wait_seconds: float = 0.0) -> None:
        """Wait up to ``wait_seconds``; raise ``StackError`` if the child has ended."""
        try:
            status = self._process.wait(timeout=wait_seconds)
        except subprocess.TimeoutExpired:
            return
        reason = f"signal {-status}" if status < 0 else f"exit status {status}"
        raise StackError(self.name, f"the {self.name} process ended with {reason}{self._last_words()}")

    def _last_words(self) -> str:
        if self._log is None:
            return "; its log is above"
        lines = [line for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        for line in reversed(lines):
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("level") in ("error", "critical"):
                    return f": {entry.get('reason') or entry.get('event')}"
        return f": {lines[-1]}" if lines else ""

    def terminate(self) -> None:
        """Ask the child to drain and exit."""
        if self._process.poll() is None:
            self._process.terminate()

    def reap(self, limit_seconds: float) -> int:
        """Wait for the exit, kill the child after ``limit_seconds``, and return its exit status."""
        try:
            return self._process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            if self._process.stdin is not None:
                self._process.stdin.close()
