"""Client of dpst, for photo backends: one call gives one photo the light, season or hour of another.

::

    from dpst_client import Client

    with Client("dns:///photo-style:50051", token=os.environ["DPST_TOKEN"]) as client:
        result = client.transfer(content, style, timeout=120, on_progress=print)
        Path("evening.jpg").write_bytes(result.picture)

``AsyncClient`` is the same for asyncio. Neither needs torch, or anything of the services.
"""

from dpst_client.aio import AsyncClient
from dpst_client.client import Client
from dpst_client.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotAllowed,
    Overloaded,
    TransferFailed,
    Unavailable,
)
from dpst_client.requests import Uploaded
from dpst_client.results import LutResult, Progress, RenderResult, TransferResult

__all__ = [
    "AsyncClient",
    "Client",
    "DeadlineExceeded",
    "InvalidRequest",
    "LutResult",
    "NotAllowed",
    "Overloaded",
    "Progress",
    "RenderResult",
    "TransferFailed",
    "TransferResult",
    "Unavailable",
    "Uploaded",
]
