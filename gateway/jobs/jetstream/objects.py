"""Objects of NATS JetStream's object stores are removed without a trace."""

from __future__ import annotations

import base64
import json

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

__all__ = ["remove_object"]


async def remove_object(js: JetStreamContext, bucket: str, name: str) -> None:
    """Remove an object as it is now, if it is there; what is put under the name meanwhile stays.

    ``ObjectStore.delete`` leaves a marker for those who watch the store. Nobody watches ours, and of a million jobs
    there would be millions. Subjects and fields are those of NATS's ADR-20.
    """
    stream, subject = f"OBJ_{bucket}", f"$O.{bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"
    try:
        described = await js.get_last_msg(stream, subject)
    except NotFoundError:
        return
    assert described.seq is not None, "the server counts"  # noqa: S101
    await js.purge_stream(stream, seq=described.seq + 1, subject=subject)
    await js.purge_stream(stream, subject=f"$O.{bucket}.C.{json.loads(described.data or b'{}')['nuid']}")
