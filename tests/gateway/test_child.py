"""Child processes of the local stack: start, early death, stop, and the death of the parent."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from gateway.child import Child, StackError
from tests.gateway.fakes import eventually

MODULE = "tests.common.fake_service"


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_child_has_a_session_of_its_own_and_stops_cleanly(tmp_path: Path) -> None:
    child = Child("fake", MODULE, tmp_path, {}, tmp_path / "fake.log")
    try:
        address = child.address()
        child.check()
        assert listens(address.grpc)
        assert listens(address.http)
        assert os.getsid(child.pid) == child.pid, "the terminal's Ctrl-C does not reach it"
        child.terminate()
        assert child.reap(limit_seconds=15) == 0
        with pytest.raises(StackError, match="the fake process ended with exit status 0"):
            child.check()
    finally:
        child.reap(0)


def test_early_death_is_told_with_the_last_error_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        child = Child("fake", MODULE, tmp_path, {"port": port}, tmp_path / "fake.log")
        with pytest.raises(StackError, match=f"fake process ended with exit status 1: port {port} .* is taken"):
            child.address()
        child.reap(0)


def test_missing_module_is_told(tmp_path: Path) -> None:
    child = Child("fake", "no_such_module", tmp_path, {}, tmp_path / "fake.log")
    with pytest.raises(StackError, match=r"exit status 1: .*No module named no_such_module"):
        child.address()
    child.reap(0)


def test_a_child_that_does_not_drain_is_killed(tmp_path: Path) -> None:
    child = Child("fake", MODULE, tmp_path, {}, tmp_path / "fake.log")
    child.address()
    os.kill(child.pid, signal.SIGSTOP)
    child.terminate()
    assert child.reap(limit_seconds=0.1) == -signal.SIGKILL


async def test_child_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time; from gateway.child import Child; folder = pathlib.Path(sys.argv[1]);"
        f"child = Child('fake', {MODULE!r}, folder, {{}}, folder / 'fake.log');"
        "print(child.address().grpc, flush=True); time.sleep(60)"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    address = (await parent.stdout.readline()).decode().strip()
    assert listens(address)
    parent.kill()
    await parent.wait()
    await eventually(lambda: not listens(address))
    await eventually(lambda: '"stopped"' in (tmp_path / "fake.log").read_text())
