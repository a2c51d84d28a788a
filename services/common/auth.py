"""Who calls: an API key, a client certificate, or just an address."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote

import structlog

from services.common.calls import HEALTH_SERVICE, Around, ServerCall, split_method
from services.common.errors import PermissionDenied, Unauthenticated
from services.common.keys import KeyFile

__all__ = ["authenticated", "current_caller"]

_SCHEME = "bearer "


def authenticated(keys: KeyFile | None) -> Around:
    """Refuse calls without a key of ``keys`` (None = everybody may call) and bind the caller's name.

    A key comes in the metadata as ``authorization: Bearer <key>``.
    """

    @asynccontextmanager
    async def around(call: ServerCall) -> AsyncIterator[None]:
        service, _ = split_method(call.method)
        caller = _identity(call)
        if keys is not None and service != HEALTH_SERVICE:
            key = keys.find(_token(call))
            if key is None:
                raise Unauthenticated("a valid key is needed: authorization: Bearer <key>")
            if key.services is not None and service not in key.services:
                raise PermissionDenied(f"the key {key.name} may not call {service}")
            caller = key.name
        structlog.contextvars.bind_contextvars(caller=caller)
        try:
            yield
        finally:
            structlog.contextvars.unbind_contextvars("caller")

    return around


def current_caller() -> str:
    """Name of the key, common name of the certificate, or address of the current call."""
    return str(structlog.contextvars.get_contextvars().get("caller", ""))


def _token(call: ServerCall) -> str:
    for name, value in call.context.invocation_metadata() or ():
        if name == "authorization" and isinstance(value, str) and value.lower().startswith(_SCHEME):
            return value[len(_SCHEME) :].strip()
    return ""


def _identity(call: ServerCall) -> str:
    names = call.context.auth_context().get("x509_common_name", ())
    for name in names:
        return name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    kind, _, address = unquote(call.context.peer()).partition(":")
    return address.rpartition(":")[0] if kind in ("ipv4", "ipv6") else kind
