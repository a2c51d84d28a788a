"""A folder for compiled kernels where Numba would find none: it refuses to start without one."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["ensure_kernel_cache"]

_VARIABLE = "NUMBA_CACHE_DIR"
_PACKAGE = Path(__file__).parents[1]


def ensure_kernel_cache() -> None:
    """To be called before Numba is imported, in this process or one that it spawns.

    Numba keeps kernels beside their modules, or below the user's home. Where neither can be written, as in a container
    with a read-only root, they go to a temporary folder that lives as long as this process; NUMBA_CACHE_DIR names one
    that lives longer. Raises SystemExit if nothing can be written at all.
    """
    if _VARIABLE in os.environ or _can_write(_PACKAGE) or _can_write(Path("~/.cache/numba")):
        return
    try:
        folder = tempfile.mkdtemp(prefix="dpst-kernels-")
    except OSError as error:
        raise SystemExit(
            f"kernels are compiled to a folder, and none can be written ({error}); "
            f"set TMPDIR or {_VARIABLE} to one that can"
        ) from error
    os.environ[_VARIABLE] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _can_write(folder: Path) -> bool:
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except (OSError, RuntimeError):  # the latter of a user who has no home at all
        return False
