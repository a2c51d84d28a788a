"""TLS of servers and channels from PEM files, read again when they have changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import grpc
import structlog

from services.common.config import ProcessSettings
from services.common.watched_files import WatchedFiles

__all__ = ["ChannelCertificates", "TlsError", "server_credentials"]

_log = structlog.stdlib.get_logger(__name__)


class TlsError(Exception):
    """A certificate, key or list of authorities cannot be read."""


class _Files:
    """Contents of some files that may be exchanged. Raises TlsError if one cannot be read at first."""

    def __init__(self, *paths: Path) -> None:
        self._watched = WatchedFiles(*paths)
        self.contents = _contents(paths)

    def exchanged(self) -> bool:
        """Whether ``contents`` are new ones; files that cannot be read leave them as they were."""
        if not self._watched.changed():
            return False
        try:
            self.contents = _contents(self._watched.paths)
        except TlsError as error:
            _log.error("certificates stay as they were", reason=str(error))
            return False
        _log.info("certificates were read again")
        return True


def _contents(paths: Iterable[Path]) -> list[bytes]:
    try:
        return [path.read_bytes() for path in paths]
    except OSError as error:
        raise TlsError(f"{error.filename}: cannot be read ({error.strerror})") from error


def server_credentials(settings: ProcessSettings) -> grpc.ServerCredentials | None:
    """Credentials of ``DPST_TLS_CERT`` and ``DPST_TLS_KEY``, None without them.

    With ``DPST_TLS_CLIENT_CA`` callers need a certificate of one of its authorities. A handshake reads the files again
    if they have changed; ones that cannot be read then leave those before in force. Raises TlsError if they cannot be
    read at first.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    authorities = [settings.tls_client_ca] if settings.tls_client_ca is not None else []
    files = _Files(settings.tls_key, settings.tls_cert, *authorities)

    def configuration() -> grpc.ServerCertificateConfiguration:
        key, certificate, *roots = files.contents
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], root_certificates=roots[0] if roots else None
        )

    return grpc.dynamic_ssl_server_credentials(
        configuration(),
        lambda: configuration() if files.exchanged() else None,  # type: ignore[arg-type,return-value]
        require_client_authentication=settings.tls_client_ca is not None,
    )


class ChannelCertificates:
    """What a channel to the processes behind this one is opened with: ``DPST_TLS_CA``.

    The certificate of this process, if it has one, is shown to those who ask for one. Raises TlsError if a file cannot
    be read at first.
    """

    def __init__(self, authorities: Path, settings: ProcessSettings) -> None:
        own = [settings.tls_key, settings.tls_cert] if settings.tls_key and settings.tls_cert else []
        self._files = _Files(authorities, *own)

    def credentials(self) -> grpc.ChannelCredentials:
        """Credentials of the files as they were last read."""
        return grpc.ssl_channel_credentials(*self._files.contents)

    def exchanged(self) -> bool:
        """Whether other credentials are to be used from now on."""
        return self._files.exchanged()
