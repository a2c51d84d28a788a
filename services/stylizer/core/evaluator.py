"""Evaluations of the feature network, value and gradient, which solves that run side by side make together.

Each solve runs in a thread of its own and comes here once in an evaluation. Pictures of one size that are waiting go
through the network as one batch; a solve joins between two evaluations and leaves between two others (continuous
batching, Yu et al. 2022, *Orca*). What happens to a picture is the same as alone but for the rounding of the network's
convolutions, which add in another order in a batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from services.stylizer.core.trunk import Trunk

__all__ = ["Evaluator", "Terms"]

Terms = Callable[[Mapping[str, Tensor]], Tensor]
"""Features of one picture, (1, C, h, w) by layer, to terms (k,) whose sum counts; differentiable."""

_PATIENCE: Final = 0.5
"""How long a picture waits for others, as a share of what the last batch of its size took: a solve that has just had
its answer comes back after less than that."""

_LEAST_PATIENCE_SECONDS, _MOST_PATIENCE_SECONDS = 0.002, 0.1
_KEPT_SECONDS: Final = 60.0
"""How long it is remembered how long batches of a size take."""


@dataclass(eq=False)
class _Asked:
    """A picture that waits for its turn, and then the answer."""

    O: Tensor
    layers: Sequence[str]
    terms: Terms
    since: float = field(default_factory=time.monotonic)
    answer: tuple[Tensor, Tensor] | Exception | None = None
    together: int = 1


@dataclass
class _Queue:
    """Pictures of one size. ``ended`` and ``seconds`` are of the last batch; ``running`` of these batches run now."""

    waiting: list[_Asked] = field(default_factory=list)
    running: int = 0
    ended: float = 0.0
    seconds: float = 0.0

    def since(self) -> float:
        """When waiting began that counts."""
        return max(self.waiting[0].since, self.ended)

    def patience(self) -> float:
        return min(max(_PATIENCE * self.seconds, _LEAST_PATIENCE_SECONDS), _MOST_PATIENCE_SECONDS)


class Evaluator:
    """Value and gradient of terms of a picture's features.

    Args:
        trunk: the feature network.
        most: pictures in one batch; with 1 every thread works on its own, and nobody waits for anybody.

    A batch starts when it is full, when every solve is waiting, or when its first picture has waited for half the time
    that the last one took. A batch that fails is made again picture by picture: an error is its own picture's only.

    Attributes:
        batches: how many there were of each number of pictures; not counted with ``most`` 1.
    """

    def __init__(self, trunk: Trunk, most: int = 1) -> None:
        self.trunk, self.most = trunk, most
        self._changed = threading.Condition()
        self._solves = 0
        self._busy = 0  # pictures that wait or are being evaluated
        self._queues: dict[Hashable, _Queue] = {}  # by size
        self._last = threading.local()
        self.batches: dict[int, int] = {}

    @property
    def together(self) -> int:
        """How many pictures were in the batch that gave this thread its last answer."""
        return getattr(self._last, "pictures", 1)

    @contextmanager
    def solving(self) -> Iterator[None]:
        """To be held by a solve from its first evaluation to its last one: others wait a moment for it."""
        with self._changed:
            self._solves += 1
        try:
            yield
        finally:
            with self._changed:
                self._solves -= 1
                self._forget(time.monotonic() - _KEPT_SECONDS)
                self._changed.notify_all()

    def __call__(self, O: Tensor, layers: Sequence[str], terms: Terms) -> tuple[Tensor, Tensor]:
        """Evaluate one picture.

        Args:
            O: (3, H, W) RGB 0..1.
            layers: that the terms want.
            terms: of the features; called in whichever thread evaluates the batch.

        Returns:
            The sum of the terms, differentiable once in O, and the terms, (k,), which are not.

        Raises:
            Exception: whatever the network or the terms raise for this picture.
        """
        total, values = _Evaluated.apply(O, self, layers, terms)  # type: ignore[no-untyped-call]
        return total, values

    def evaluated(self, O: Tensor, layers: Sequence[str], terms: Terms) -> tuple[Tensor, Tensor]:
        """The terms (k,), and the gradient of their sum, (3, H, W)."""
        asked = _Asked(O.detach(), layers, terms)
        if self.most == 1:
            return _batch(self.trunk, [asked])[0]
        key = (tuple(O.shape), O.dtype, O.device, tuple(layers))
        with self._changed:
            queue = self._queues.setdefault(key, _Queue())
            queue.waiting.append(asked)
            self._busy += 1
            self._changed.notify_all()
        while True:
            with self._changed:
                while asked.answer is None and (seconds := self._wait_seconds(queue, asked)) != 0:
                    self._changed.wait(seconds)
                if asked.answer is not None:
                    break
                batch = queue.waiting[: self.most]
                del queue.waiting[: self.most]
                queue.running += 1
            self._run(queue, batch)
        self._last.pictures = asked.together
        if isinstance(asked.answer, Exception):
            raise asked.answer
        return asked.answer

    def _forget(self, before: float) -> None:
        """Sizes of which no picture has come for long."""
        for key, queue in list(self._queues.items()):
            if not queue.waiting and not queue.running and queue.ended < before:
                del self._queues[key]

    def _wait_seconds(self, queue: _Queue, asked: _Asked) -> float | None:
        """How long to wait before looking again: 0 is to evaluate now, None to wait until something changes."""
        if asked not in queue.waiting:
            return None
        if len(queue.waiting) >= self.most:
            return 0
        if queue.running:  # whose solves will be back
            return None
        if self._busy >= self._solves:
            return 0
        return max(0.0, queue.since() + queue.patience() - time.monotonic())

    def _run(self, queue: _Queue, batch: Sequence[_Asked]) -> None:
        began = time.monotonic()
        given_up = RuntimeError("the evaluation was given up")
        answers: Sequence[tuple[Tensor, Tensor] | Exception] = [given_up for _ in batch]
        try:
            answers = _answers(self.trunk, batch)
        finally:  # nobody waits for ever, whatever happens to this thread
            with self._changed:
                for asked, answer in zip(batch, answers, strict=True):
                    asked.answer, asked.together = answer, len(batch)
                queue.running -= 1
                queue.ended = time.monotonic()
                queue.seconds = queue.ended - began
                self._busy -= len(batch)
                self.batches[len(batch)] = self.batches.get(len(batch), 0) + 1
                self._changed.notify_all()


class _Evaluated(torch.autograd.Function):
    """The gradient is made along with the value: for a whole batch there is no other moment."""

    @staticmethod
    def forward(ctx: Any, O: Tensor, evaluator: Evaluator, layers: Sequence[str], terms: Terms) -> Any:
        values, gradient = evaluator.evaluated(O, layers, terms)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(values)
        return values.sum(), values

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None, None, None


def _answers(trunk: Trunk, batch: Sequence[_Asked]) -> Sequence[tuple[Tensor, Tensor] | Exception]:
    """Of a batch; alone, each with its own error, if that cannot be had."""
    try:
        return _batch(trunk, batch)
    except Exception as error:
        if len(batch) == 1:
            return [error]
    return [_answers(trunk, [asked])[0] for asked in batch]


def _batch(trunk: Trunk, batch: Sequence[_Asked]) -> list[tuple[Tensor, Tensor]]:
    """Terms and gradient of each picture: nothing of one enters another's."""
    with torch.enable_grad():
        pictures = torch.stack([asked.O for asked in batch]).requires_grad_(True)
        features = trunk(pictures, batch[0].layers)
        single = {name: torch.split(F, 1) if len(batch) > 1 else (F,) for name, F in features.items()}  # no copies
        terms = [asked.terms({name: F[n] for name, F in single.items()}) for n, asked in enumerate(batch)]
        torch.cat(terms).sum().backward()  # type: ignore[no-untyped-call]
    assert pictures.grad is not None, "backward has filled it"  # noqa: S101
    return [(values.detach(), gradient) for values, gradient in zip(terms, pictures.grad, strict=True)]
