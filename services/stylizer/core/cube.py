"""3-D lookup tables as .cube text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["CUBE_LINE_BYTES", "cube_text"]

CUBE_LINE_BYTES: Final = 27
"""Bytes of one line of the table: three values of six decimals, far finer than 16 bits."""

_MAX_TEXT: Final = 200
"""Characters of a title or comment, so that its line stays below the 250 bytes of the specification."""


def cube_text(table: NDArray[np.float64], title: str, comments: Sequence[str] = ()) -> bytes:
    """Write a table as Adobe's *Cube LUT Specification* 1.0 has it, red fastest.

    Args:
        table: (n, n, n, 3) indexed by blue, green, red; values 0..1.
        title: what programs show as the table's name. In it and in the comments, what the specification does not allow
            (other than printable ASCII; in the title, quotation marks) becomes "?", and what is too long is cut.
        comments: lines for people.

    Returns:
        The file.
    """
    n = len(table)
    head = [f'TITLE "{_plain(title).replace(chr(34), "?")}"']
    head += [f"# {_plain(comment)}" for comment in comments]
    head += [f"LUT_3D_SIZE {n}", "DOMAIN_MIN 0.0 0.0 0.0", "DOMAIN_MAX 1.0 1.0 1.0"]
    lines = ["{:.6f} {:.6f} {:.6f}".format(*rgb) for rgb in table.reshape(-1, 3).tolist()]
    return ("\n".join(head + lines) + "\n").encode("ascii")


def _plain(text: str) -> str:
    return re.sub(r"[^ -~]", "?", text)[:_MAX_TEXT]
