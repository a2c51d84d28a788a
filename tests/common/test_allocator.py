"""Freed memory stays with the process, unless the operator or the C library says otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from services.common.allocator import allocated_bytes, keep_freed_memory
from services.common.metrics import Metrics

_PROGRAM = """
import resource, sys
from services.common.allocator import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "keep" else None)
def round():
    messages = [b"x" * (5 << 20) for _ in range(8)]  # 40 MiB, 10 000 pages
for _ in range(3):
    round()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    round()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(what: str) -> tuple[str, int]:
    """What was said, and the pages that five rounds took anew."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, what], capture_output=True, text=True, check=True, env=environment
    )
    said, faults = done.stdout.split()
    return said, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library can")
def test_pages_are_taken_once() -> None:
    said, faults = run("keep")
    _, before = run("leave")
    assert said == "True"
    assert faults < 1000 < before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library counts")
def test_what_is_allocated_is_counted_and_what_is_freed_is_not() -> None:
    registry = Metrics().registry
    before = registry.get_sample_value("dpst_allocated_bytes")
    assert before
    for size in (64 << 20, 64 << 10):  # a mapping of its own, and a piece of the heap
        held = [bytearray(size) for _ in range(4)]
        grown = (registry.get_sample_value("dpst_allocated_bytes") or 0) - before
        assert 4 * size <= grown < 4 * size + (1 << 20)
        held.clear()
        assert abs((registry.get_sample_value("dpst_allocated_bytes") or 0) - before) < 1 << 20


@pytest.mark.parametrize("variable", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_operator_has_set_stays(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1000000")
    assert not keep_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("services.common.allocator.ctypes.CDLL", lambda _name: object())
    assert not keep_freed_memory()
    assert allocated_bytes() is None
    assert Metrics().registry.get_sample_value("dpst_allocated_bytes") is None
