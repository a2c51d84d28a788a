"""The processes that containers run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from services.common.config import GatewaySettings, ProcessSettings, SegmentationSettings, StylizerSettings

__all__ = ["PROCESSES", "Process"]


@dataclass(frozen=True)
class Process:
    """What a container has to know of one: its settings, its module, the gRPC service that its health is about."""

    settings: type[ProcessSettings]
    module: str
    service: str

    def default(self, setting: str) -> Any:
        """What a setting is if nothing sets it."""
        return self.settings.model_fields[setting].default


PROCESSES = {
    "gateway": Process(GatewaySettings, "gateway", "dpst.v1.PhotoStyle"),
    "segmentation": Process(SegmentationSettings, "services.segmentation", "dpst.v1.Segmentation"),
    "stylizer": Process(StylizerSettings, "services.stylizer", "dpst.v1.Stylizer"),
}
