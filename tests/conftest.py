"""Shared fixtures: where the real models and photo pairs are, if they are there at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

_SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable) or default)
    if not folder.is_dir():
        pytest.skip(f"{variable}: {folder} is not a folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def logs_through_logging() -> None:
    """Send log lines to the standard library, where pytest captures them; structlog alone prints to stdout."""
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.KeyValueRenderer(["event"])],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


@pytest.fixture(scope="session", autouse=True)
def no_models_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the models that the developer pulled, from these tests and the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """Folder of <name>/<version>/manifest.json with the real networks."""
    return _folder("DPST_MODELS_DIR", _SHARED / "models")


@pytest.fixture(scope="session")
def test_data_dir() -> Path:
    """Folder with the published photo pairs."""
    return _folder("DPST_TEST_DATA", _SHARED / "data")
