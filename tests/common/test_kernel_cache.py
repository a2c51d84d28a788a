"""Where compiled kernels go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.common import kernel_cache
from services.common.kernel_cache import ensure_kernel_cache


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Neither package nor home can be written: both lie below a file. Temporary folders lie below what is returned."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")  # so that it is as it was afterwards
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(kernel_cache, "_PACKAGE", file / "services")
    monkeypatch.setenv("HOME", str(file))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_temporary_folder_where_nothing_else_can_be_written(nowhere: Path) -> None:
    ensure_kernel_cache()
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    assert folder.parent == nowhere
    assert folder.stat().st_mode & 0o077 == 0, "what lies there is run"
    ensure_kernel_cache()
    assert os.environ["NUMBA_CACHE_DIR"] == str(folder)


def test_numbas_own_places_come_first(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(nowhere / "home"))
    ensure_kernel_cache()
    assert "NUMBA_CACHE_DIR" not in os.environ


def test_a_user_without_any_home(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does for a user that nobody knows
    ensure_kernel_cache()
    assert Path(os.environ["NUMBA_CACHE_DIR"]).parent == nowhere


def test_no_folder_at_all_is_explained(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(nowhere / "file"))
    with pytest.raises(SystemExit, match="TMPDIR or NUMBA_CACHE_DIR"):
        ensure_kernel_cache()
