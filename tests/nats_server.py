"""A real NATS server with JetStream, on a free port, for as long as a test needs it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

__all__ = ["NatsServer", "nats_server"]

_START_SECONDS = 20.0


@dataclass
class NatsServer:
    """A server that may be stopped and started again with what it kept.

    Attributes:
        folder: of its files.
        port: the same after a restart; 0 before the first start.
    """

    folder: Path
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """For DPST_JOBS_URL."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Return when it listens; skips the test where there is none."""
        executable = shutil.which("nats-server")
        if executable is None:
            pytest.skip("needs nats-server, of Debian's package of that name")
        ports = self.folder / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir(parents=True)
        wanted = str(self.port or -1)  # -1 = any that is free
        arguments = [executable, "-js", "-sd", self.folder / "data", "-a", "127.0.0.1", "-p", wanted]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*arguments, "--ports_file_dir", ports], stdout=log, stderr=log)
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            for file in ports.glob("*.ports"):
                if text := file.read_text():
                    self.port = int(json.loads(text)["nats"][0].rpartition(":")[2])
                    return
            time.sleep(0.02)
        raise AssertionError((self.folder / "log").read_text())

    def send(self, how: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None, "start it first"
        self._process.send_signal(how)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it with this signal."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None


@contextmanager
def nats_server(folder: Path) -> Iterator[NatsServer]:
    """Started in ``folder``, ended afterwards."""
    server = NatsServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)
