"""What a worker shows of its card."""

from __future__ import annotations

import ctypes
from multiprocessing import get_context

import pytest
import torch

from services.stylizer.vitals import Vitals
from services.stylizer.worker import card_bytes


def test_nothing_without_a_card() -> None:
    if torch.cuda.is_initialized():
        pytest.skip("this process uses a card")
    assert card_bytes() == (0, 0)
    assert not torch.cuda.is_initialized(), "looking must not begin to use one"


def test_what_pytorch_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda card: (3 << 33) * card)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda card: (5 << 33) * card)
    vitals = get_context("spawn").RawValue(Vitals)
    vitals.card_allocated, vitals.card_reserved = card_bytes()
    assert (vitals.card_allocated, vitals.card_reserved) == (3 << 33, 5 << 33)
    assert ctypes.sizeof(vitals) == 40


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_tensor_on_a_card_is_counted() -> None:
    before = card_bytes()[0]
    tensor = torch.zeros(1 << 20, device="cuda")
    allocated, reserved = card_bytes()
    assert allocated >= before + tensor.numel() * 4
    assert reserved >= allocated
