"""How long a job will take, by those that were done before it."""

from __future__ import annotations

from collections.abc import Mapping

from services.stylizer.jobs import Job, StylizeJob

__all__ = ["Forecast"]

_WEIGHT_OF_NEW = 0.3
_PIXELS_OF_NOTHING = 2_000_000
"""What opening and closing files costs whatever their size, in pixels."""

_EDGE_OF_NOTHING = 170
"""What an evaluation costs whatever its size, as a long edge: with vgg19-student on two cores one takes 11, 21, 45 and
93 ms at 64, 128, 256 and 512 px."""

_MOST_EVALUATIONS = 200
"""A solve of the field seldom comes so far: it ends on its plateau before."""

_ON_PROXIES = ("warm_start", "score")


class Forecast:
    """Learns seconds per unit of work: of each mode's solve, of what else is done on proxies, and on photos."""

    def __init__(self) -> None:
        self._rates: dict[str, float] = {}

    def seconds(self, job: Job) -> float:
        """Of the whole job; 0 as long as nothing of its kind was timed."""
        if not isinstance(job, StylizeJob):
            return self.around_seconds(job)
        solve = self._rates.get(job.params.mode, 0.0) * _solve_work(job)
        return solve + self.around_seconds(job) if solve else 0.0

    def around_seconds(self, job: Job) -> float:
        """Of everything but the solve."""
        seconds = self._rates.get(_kind(job), 0.0) * _photo_work(job)
        if isinstance(job, StylizeJob):
            seconds += self._rates.get("proxies", 0.0) * _proxy_work(job)
        return seconds

    def learn(self, job: Job, stage_seconds: Mapping[str, float]) -> None:
        """Take the times of a finished job into account."""
        rest = dict(stage_seconds)
        if isinstance(job, StylizeJob):
            solve = rest.pop("solve", 0.0)
            if not job.checkpoint:
                self._learn(job.params.mode, solve / _solve_work(job))
            self._learn("proxies", sum(rest.pop(name, 0.0) for name in _ON_PROXIES) / _proxy_work(job))
        self._learn(_kind(job), sum(rest.values()) / _photo_work(job))

    def _learn(self, name: str, rate: float) -> None:
        before = self._rates.get(name, rate)
        self._rates[name] = before + _WEIGHT_OF_NEW * (rate - before)


def _kind(job: Job) -> str:
    return type(job).__name__


def _solve_work(job: StylizeJob) -> float:
    evaluations = job.params.max_evaluations
    if job.params.mode == "field":
        evaluations = min(evaluations, _MOST_EVALUATIONS)
    return (_proxy_work(job) + _EDGE_OF_NOTHING**2) * evaluations


def _proxy_work(job: StylizeJob) -> float:
    return float(job.params.solve_edge_px**2)


def _photo_work(job: Job) -> float:
    return float(job.pixels + _PIXELS_OF_NOTHING)
