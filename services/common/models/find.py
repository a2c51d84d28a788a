"""Which model folder a service uses."""

from __future__ import annotations

from pathlib import Path

import structlog

from services.common.models.folder import Model, ModelError, check_name, model_folders, read_manifest, verified

__all__ = ["find_model"]

_log = structlog.stdlib.get_logger(__name__)


def find_model(models_dir: Path | None, task: str, wanted: str, embedded: Path | None = None) -> Model | None:
    """Find and verify a model of a task, "segmentation" or "features".

    Args:
        models_dir: the user's folder of models; None if there is none.
        task: what the model must be for.
        wanted: "auto": the first name that has the task, in its highest version; what is damaged is logged and passed
            over. "builtin": the package's own. "name" (its highest version) or "name/version": that one and no other.
        embedded: folder of the models that the package carries, of the same form; it is looked at last and may be
            missing.

    Returns:
        The model, every file's SHA-256 compared; None if "auto" or "builtin" finds none of the task.

    Raises:
        ModelError: what was wanted is missing, damaged or for another task; with "auto", all of the task are damaged.
    """
    if models_dir is not None and wanted != "builtin" and not models_dir.is_dir():
        raise ModelError(f"{models_dir}: no such folder; set DPST_MODELS_DIR to a folder of models or unset it")
    places = [(models_dir, False)] if models_dir is not None and wanted != "builtin" else []
    if embedded is not None and embedded.is_dir():
        places.append((embedded, True))
    if wanted in ("auto", "builtin"):
        return _first_usable(places, task)
    name, slash, version = wanted.partition("/")
    try:
        check_name(name)
        if slash:
            check_name(version)
    except ModelError as error:
        raise ModelError(f"model {wanted!r} is no name; expected name or name/version") from error
    for folder, built_in in places:
        versions = [path.name for path in model_folders(folder) if path.parent.name == name]
        if versions and (not version or version in versions):
            return verified(folder / name / (version or versions[0]), task, built_in)
    if models_dir is None:
        raise ModelError(
            f"model {wanted!r} is wanted but no models folder is set; set DPST_MODELS_DIR or use dpst models"
        )
    if version:
        return verified(models_dir / name / version, task)  # which says that it is not there
    raise ModelError(f"{models_dir / name}: no model there; expected <version>/manifest.json in it")


def _first_usable(places: list[tuple[Path, bool]], task: str) -> Model | None:
    problem: ModelError | None = None
    for place, built_in in places:
        for folder in model_folders(place):
            try:
                if read_manifest(folder / "manifest.json")["task"] == task:
                    return verified(folder, task, built_in)
            except ModelError as error:
                _log.warning("model passed over", reason=str(error))
                problem = problem or error
    if problem is not None:  # nothing else is there: to go on without would make worse pictures without a word
        raise problem
    return None
