"""The store that DPST_JOBS_URL names, with all that works on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.jobs.files import FolderFiles, JobFiles
from gateway.jobs.sqlite import SqliteStore
from gateway.jobs.store import JobStore, Policy
from services.common.config import GatewaySettings
from services.common.process import StartError

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


def _sqlite(url: str, settings: GatewaySettings) -> tuple[JobStore, JobFiles]:
    folder = Path(url.removeprefix("sqlite:")).expanduser()
    return SqliteStore(folder / _DATABASE), FolderFiles(folder / _FILES, settings.max_image_bytes)


def _nats(url: str, settings: GatewaySettings) -> tuple[JobStore, JobFiles]:
    try:
        from gateway.jobs.jetstream.connection import Connection
        from gateway.jobs.jetstream.files import JetStreamFiles
        from gateway.jobs.jetstream.store import JetStreamStore
    except ModuleNotFoundError as error:
        raise StartError(
            f"DPST_JOBS_URL: {url.partition(':')[0]} needs the extra nats: pip install dpst[nats]"
        ) from error
    credentials = str(settings.jobs_nats_credentials) if settings.jobs_nats_credentials else None
    connection = Connection(url.split(","), credentials, settings.jobs_nats_replicas, settings.jobs_nats_prefix)
    return JetStreamStore(connection), JetStreamFiles(connection)


_ENGINES: dict[str, _Maker] = {"sqlite": _sqlite, "nats": _nats, "tls": _nats}


def engine_of(settings: GatewaySettings) -> Engine | None:
    """None if the settings name no store. Raises StartError if what it needs is not installed."""
    if settings.jobs_url is None:
        return None
    store, files = _ENGINES[settings.jobs_url.partition(":")[0]](settings.jobs_url, settings)
    policy = Policy(
        settings.job_lease_seconds, settings.job_attempts, settings.job_patience_seconds, settings.job_keep_seconds
    )
    return Engine(store, files, policy)
