"""The networks that a process holds: loaded together, exchanged together, chosen by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from dpst.v1 import report_pb2
from numpy.typing import NDArray

from services.common.config import SegmentationSettings
from services.common.errors import NotFound
from services.common.metrics import Metrics
from services.common.models import Model, ModelError, embedded_models_dir, find_model, user_models_dir
from services.segmentation.batching import Batcher
from services.segmentation.network import Inferred, Network
from services.segmentation.segmenter import warm_up

__all__ = ["ONE_REGION", "Held", "Registry"]


@dataclass(frozen=True, eq=False)
class Held:
    """A network with its batcher, and how replies call it; no network means the whole photo is one region."""

    reference: report_pb2.ModelRef
    identity: str
    network: Network | None = None
    batcher: Batcher[NDArray[np.float32], Inferred] | None = None

    @property
    def names(self) -> tuple[str, str]:
        """What requests may call it."""
        return self.reference.name, f"{self.reference.name}/{self.reference.version}"


ONE_REGION = Held(
    report_pb2.ModelRef(
        name="single-region",
        version="1",
        device="cpu",
        built_in=True,
        description="No segmentation network: the whole photo is one region.",
    ),
    identity="single-region/1",
)
_BUILT_IN = "builtin"


class Registry:
    """Holds what DPST_SEGMENTATION_MODEL lists, the first as the default, and the single region beside them.

    A network that is replaced lives until the last request that chose it has ended.
    """

    def __init__(self, settings: SegmentationSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._held: tuple[Held, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether anything was loaded yet."""
        return bool(self._held)

    @property
    def held(self) -> tuple[Held, ...]:
        """Everything, the default first."""
        return self._held

    def load(self) -> tuple[Held, ...]:
        """Find, load and dry-run all networks, for ``use``; those that are held and unchanged are taken as they are.

        Blocks. Raises ModelError if one of them cannot be used: there is no serving with a part of them.
        """
        wanted = [name.strip() for name in self._settings.segmentation_model.split(",")]
        if not all(wanted):
            text = self._settings.segmentation_model
            raise ModelError(f"DPST_SEGMENTATION_MODEL={text!r} holds an empty name; separate names by one comma each")
        loaded: dict[str, Held] = {}
        for name in wanted:
            held = self._loaded(name)
            loaded.setdefault(held.identity, held)
        loaded.setdefault(ONE_REGION.identity, ONE_REGION)
        return tuple(loaded.values())

    def use(self, loaded: Sequence[Held]) -> None:
        """Serve these from now on."""
        for gone in self._in_use():
            self._metrics.model_info.remove(*_labels(gone))
        self._held = tuple(loaded)
        for held in self._in_use():
            self._metrics.model_info.labels(*_labels(held)).set(1)

    def chosen(self, wanted: str) -> Held:
        """Give what a request calls "name" or "name/version"; empty = the default. Raises NotFound for other names."""
        if not wanted:
            return self._held[0]
        if wanted == _BUILT_IN:
            return next((held for held in self._held if held.reference.built_in), ONE_REGION)
        for held in self._held:
            if wanted in held.names:
                return held
        names = ", ".join(dict.fromkeys(name for held in self._held for name in held.names))
        raise NotFound(f"model: {wanted[:80]!r} is unknown; this process holds {names}")

    def close(self) -> None:
        """Wait for running batches."""
        for held in self._held:
            if held.batcher is not None:
                held.batcher.close()

    def _in_use(self) -> list[Held]:
        return [held for held in self._held if held.network is not None or held is self._held[0]]

    def _loaded(self, wanted: str) -> Held:
        settings = self._settings
        if wanted in ONE_REGION.names:
            return ONE_REGION
        models_dir = settings.models_dir or user_models_dir()
        model = find_model(models_dir, "segmentation", wanted, embedded_models_dir("segmentation"))
        if model is None:
            return ONE_REGION
        for held in self._held:
            if held.network is not None and held.network.is_of(model):
                return held
        network = Network(
            model,
            settings.device,
            settings.threads,
            tensorrt=settings.tensorrt,
            max_batch_size=settings.segmentation_max_batch_size,
        )
        network.dry_pass()
        warm_up()
        return Held(_reference(network), network.identity, network, self._batcher(network))

    def _batcher(self, network: Network) -> Batcher[NDArray[np.float32], Inferred]:
        settings = self._settings
        size, delay_seconds = settings.segmentation_max_batch_size, settings.segmentation_max_queue_delay_ms / 1000
        return Batcher(network.run, size, delay_seconds, self._metrics, network.photos_at_a_time)


def _reference(network: Network) -> report_pb2.ModelRef:
    model: Model = network.model
    description = str(model.manifest.get("source") or f"Segmentation network {model.name}.")
    return report_pb2.ModelRef(
        name=model.name,
        version=model.version,
        device=network.device,
        built_in=model.built_in,
        description=description,
    )


def _labels(held: Held) -> tuple[str, str, str]:
    return held.reference.name, held.reference.version, held.reference.device
