"""Where model folders lie: the user's, when ``DPST_MODELS_DIR`` names none, and those inside the package."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_data_path

__all__ = ["default_models_dir", "embedded_models_dir", "user_models_dir"]

_SERVICES = Path(__file__).parents[2]
_ROOMS = {"features": "stylizer", "segmentation": "segmentation"}


def default_models_dir() -> Path:
    """Folder that ``dpst models`` fills: ``~/.local/share/dpst/models``, or below ``XDG_DATA_HOME``."""
    return user_data_path("dpst", appauthor=False) / "models"


def user_models_dir() -> Path | None:
    """The same folder if it is there, else None."""
    folder = default_models_dir()
    return folder if folder.is_dir() else None


def embedded_models_dir(task: str) -> Path:
    """Folder of the models that the package carries for a task, "features" or "segmentation"; it may be missing."""
    return _SERVICES / _ROOMS[task] / "models"
