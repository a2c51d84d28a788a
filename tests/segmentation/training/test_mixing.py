"""Views of the training that are made of two photos."""

from __future__ import annotations

import numpy as np
import torch

from services.segmentation.training.data import Batch
from services.segmentation.training.mixing import mixed


def plain(count: int) -> Batch:
    """Views of one grey and one label each, so that every pixel tells whose it is."""
    values = torch.arange(count)
    photos = (values / count).view(count, 1, 1, 1).expand(count, 3, 41, 57).clone()
    return Batch(photos, values.view(count, 1, 1).expand(count, 11, 15).clone())


def test_views_stay_or_get_something_of_the_view_before() -> None:
    """Blended ones lose their labels, spliced ones have two greys that the labels follow."""
    count = 60
    batch = plain(count)
    found = mixed(batch, np.random.default_rng(0))
    kinds = {"same": 0, "blended": 0, "spliced": 0}
    for n in range(count):
        own, other = batch.photos[n, 0, 0, 0], batch.photos[n - 1, 0, 0, 0]
        greys = found.photos[n].unique()
        if (found.people[n] == -1).all():
            kinds["blended"] += 1
            assert len(greys) == 1
            assert abs(greys[0] - own) <= abs(greys[0] - other)
        elif len(greys) == 1:
            kinds["same"] += 1
            assert greys[0] == own
            assert (found.people[n] == n).all()
        else:
            kinds["spliced"] += 1
            assert sorted(greys.tolist()) == sorted([float(own), float(other)])
            whose = torch.where(found.photos[n, 0, ::4, ::4] == own, n, (n - 1) % count)
            assert torch.equal(whose, found.people[n])
            assert 0.2 < float((whose == n).float().mean()) < 0.8
    assert min(kinds.values()) > count // 6, kinds


def test_the_batch_that_was_given_stays_as_it_was() -> None:
    """What is mixed is a copy: the next view is mixed with the photo, not with a mixture."""
    batch = plain(8)
    mixed(batch, np.random.default_rng(1))
    assert torch.equal(batch.photos, plain(8).photos)
    assert torch.equal(batch.people, plain(8).people)
