"""The store that DPST_JOBS_URL names, with all that works on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.jobs.files import JobFiles
from gateway.jobs.sqlite import SqliteStore
from gateway.jobs.store import JobStore, Policy
from services.common.config import GatewaySettings

__all__ = ["Engine", "engine_of"]

_DATABASE = "jobs.sqlite3"
_FILES = "files"


@dataclass(frozen=True)
class Engine:
    """Jobs and their files."""

    store: JobStore
    files: JobFiles
    policy: Policy


_Maker = Callable[[str, GatewaySettings], tuple[JobStore, JobFiles]]


def _sqlite(rest: str, settings: GatewaySettings) -> tuple[JobStore, JobFiles]:
    folder = Path(rest).expanduser()
    return SqliteStore(folder / _DATABASE), JobFiles(folder / _FILES, settings.max_image_bytes)


_ENGINES: dict[str, _Maker] = {"sqlite": _sqlite}


def engine_of(settings: GatewaySettings) -> Engine | None:
    """None if the settings name no store."""
    if settings.jobs_url is None:
        return None
    kind, _, rest = settings.jobs_url.partition(":")
    store, files = _ENGINES[kind](rest, settings)
    policy = Policy(
        settings.job_lease_seconds, settings.job_attempts, settings.job_patience_seconds, settings.job_keep_seconds
    )
    return Engine(store, files, policy)
