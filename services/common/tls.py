"""TLS of servers and channels from PEM files, read again when they have changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import grpc
import structlog

from services.common.config import ProcessSettings

__all__ = ["TlsError", "channel_credentials", "server_credentials"]

_log = structlog.stdlib.get_logger(__name__)


class TlsError(Exception):
    """A certificate, key or list of authorities cannot be read."""


@dataclass
class _Files:
    """Contents of some files, and whether they have changed since they were last read."""

    paths: tuple[Path, ...]
    _stamps: list[tuple[int, int]] = field(default_factory=list)

    def read(self) -> list[bytes]:
        self._stamps = self._now()
        try:
            return [path.read_bytes() for path in self.paths]
        except OSError as error:
            raise TlsError(f"{error.filename}: cannot be read ({error.strerror})") from error

    def changed(self) -> bool:
        try:
            return self._now() != self._stamps
        except OSError:  # being replaced at this moment
            return False

    def _now(self) -> list[tuple[int, int]]:
        try:
            statuses = [path.stat() for path in self.paths]
        except OSError as error:
            if self._stamps:
                raise
            raise TlsError(f"{error.filename}: cannot be read ({error.strerror})") from error
        return [(status.st_mtime_ns, status.st_ino) for status in statuses]


def server_credentials(settings: ProcessSettings) -> grpc.ServerCredentials | None:
    """Credentials of ``DPST_TLS_CERT`` and ``DPST_TLS_KEY``, None without them.

    With ``DPST_TLS_CLIENT_CA`` callers need a certificate of one of its authorities. A handshake reads the files again
    if they have changed; ones that cannot be read then leave those before in force. Raises TlsError if they cannot be
    read at first.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    paths = [settings.tls_key, settings.tls_cert]
    if settings.tls_client_ca is not None:
        paths.append(settings.tls_client_ca)
    files = _Files(tuple(paths))

    def configuration() -> grpc.ServerCertificateConfiguration:
        key, certificate, *authorities = files.read()
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], root_certificates=authorities[0] if authorities else None
        )

    def refreshed() -> grpc.ServerCertificateConfiguration | None:
        if not files.changed():
            return None
        try:
            new = configuration()
        except TlsError as error:
            _log.error("certificates stay as they were", reason=str(error))
            return None
        _log.info("certificates were read again")
        return new

    return grpc.dynamic_ssl_server_credentials(
        configuration(),
        refreshed,  # type: ignore[arg-type]  # None means "as before", which the stubs do not know
        require_client_authentication=settings.tls_client_ca is not None,
    )


def channel_credentials(settings: ProcessSettings) -> grpc.ChannelCredentials | None:
    """Credentials for the processes behind this one: ``DPST_TLS_CA``, None without it.

    The certificate of this process, if it has one, is shown to those who ask for one. Raises TlsError if a file cannot
    be read.
    """
    if settings.tls_ca is None:
        return None
    (authorities,) = _Files((settings.tls_ca,)).read()
    key: bytes | None = None
    certificate: bytes | None = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        key, certificate = _Files((settings.tls_key, settings.tls_cert)).read()
    return grpc.ssl_channel_credentials(authorities, key, certificate)
