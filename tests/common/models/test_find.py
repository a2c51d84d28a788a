"""Model folders are found, verified, and refused with path, reason and what to do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from services.common.models import ModelError, find_model, user_models_dir


def put(models_dir: Path, name: str, version: str, /, **changes: Any) -> Path:
    folder = models_dir / name / version
    folder.mkdir(parents=True)
    (folder / "net.bin").write_bytes(name.encode())
    manifest = {
        "name": name,
        "version": version,
        "task": "segmentation",
        "licence": "Apache-2.0",
        "files": {"net.bin": hashlib.sha256(name.encode()).hexdigest()},
    } | changes
    manifest = {key: value for key, value in manifest.items() if value is not None}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_what_is_wanted_is_found(tmp_path: Path) -> None:
    put(tmp_path, "b-net", "9")
    put(tmp_path, "b-net", "10")
    put(tmp_path, "a-trunk", "1", task="features")
    (tmp_path / "README.md").write_text("not a model")
    for wanted, version in (("auto", "10"), ("b-net", "10"), ("b-net/9", "9")):
        model = find_model(tmp_path, "segmentation", wanted)
        assert model is not None
        assert (model.name, model.version, model.licence) == ("b-net", version, "Apache-2.0")
        assert model.file("net.bin").read_bytes() == b"b-net"
        with pytest.raises(ModelError, match=r"lists no file 'other\.bin'"):
            model.file("other.bin")
    features = find_model(tmp_path, "features", "auto")
    assert features is not None
    assert features.name == "a-trunk"


def test_built_in(tmp_path: Path) -> None:
    assert find_model(None, "segmentation", "auto") is None
    assert find_model(None, "segmentation", "builtin") is None
    assert find_model(tmp_path, "segmentation", "auto") is None
    put(tmp_path, "net", "1")
    assert find_model(tmp_path, "segmentation", "builtin") is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"files": {"net.bin": "0" * 64}}, r"net\.bin: wrong checksum, sha256 [0-9a-f]{64} instead of 0{64}; fetch"),
        ({"files": {"gone.bin": "0" * 64}}, r"gone\.bin: cannot be read \(No such file"),
        ({"files": {"../net.bin": "0" * 64}}, "leaves the folder"),
        ({"licence": None}, "field 'licence' is missing"),
        ({"files": ["net.bin"]}, "field 'files' is missing or no dict"),
        ({"version": "2"}, "says net/2; rename"),
        ({"task": "features"}, "is for the task 'features', not 'segmentation'"),
    ],
)
def test_damaged_models(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    folder = put(tmp_path, "net", "1", **changes)
    with pytest.raises(ModelError, match=says) as caught:
        find_model(tmp_path, "segmentation", "net/1")
    assert str(folder) in str(caught.value)


def test_missing_models(tmp_path: Path) -> None:
    put(tmp_path, "net", "1")
    for folder, wanted, says in (
        (None, "net", "no models folder is set; set DPST_MODELS_DIR"),
        (tmp_path / "nowhere", "auto", "nowhere: no such folder"),
        (tmp_path, "other", "other: no model there"),
        (tmp_path, "net/7", r"net/7/manifest\.json: no such file"),
        (tmp_path, "../net", "is no name"),
        (tmp_path, "net/../net", "is no name"),
    ):
        with pytest.raises(ModelError, match=says):
            find_model(folder, "segmentation", wanted)
    (tmp_path / "net" / "1" / "manifest.json").write_text("{")
    for wanted in ("auto", "net"):
        with pytest.raises(ModelError, match="cannot be read as JSON"):
            find_model(tmp_path, "segmentation", wanted)
    (tmp_path / "net" / "1" / "manifest.json").write_text("[]")
    with pytest.raises(ModelError, match="no JSON object"):
        find_model(tmp_path, "segmentation", "auto")


@pytest.mark.weights
def test_real_models(models_dir: Path) -> None:
    for task in ("segmentation", "features"):
        model = find_model(models_dir, task, "auto")
        assert model is not None
        assert model.task == task


def test_auto_passes_over_what_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (put(tmp_path, "a-net", "1") / "manifest.json").write_text("{")
    (put(tmp_path, "b-net", "1") / "net.bin").write_bytes(b"half")
    put(tmp_path, "c-net", "1")
    model = find_model(tmp_path, "segmentation", "auto")
    assert model is not None
    assert model.name == "c-net"
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    with pytest.raises(ModelError, match=r"b-net/1/net\.bin: wrong checksum"):
        find_model(tmp_path, "segmentation", "b-net")
    (put(tmp_path, "c-net", "2") / "net.bin").unlink()
    older = find_model(tmp_path, "segmentation", "auto")
    assert older is not None
    assert older.version == "1"


def test_embedded_models(tmp_path: Path) -> None:
    models, embedded = tmp_path / "models", tmp_path / "embedded"
    put(embedded, "student", "1")
    put(embedded, "net", "1")
    put(models, "net", "2")
    found = {
        (place, wanted): find_model(models if place else None, "segmentation", wanted, embedded)
        for place in (True, False)
        for wanted in ("auto", "builtin", "student", "net", "net/1")
    }
    assert {key: model and (model.name, model.version, model.built_in) for key, model in found.items()} == {
        (True, "auto"): ("net", "2", False),
        (True, "builtin"): ("net", "1", True),
        (True, "student"): ("student", "1", True),
        (True, "net"): ("net", "2", False),
        (True, "net/1"): ("net", "1", True),
        (False, "auto"): ("net", "1", True),
        (False, "builtin"): ("net", "1", True),
        (False, "student"): ("student", "1", True),
        (False, "net"): ("net", "1", True),
        (False, "net/1"): ("net", "1", True),
    }
    assert find_model(models, "features", "auto", embedded) is None
    assert find_model(None, "segmentation", "auto", tmp_path / "nowhere") is None
    with pytest.raises(ModelError, match="models: no such folder"):
        find_model(tmp_path / "no-models", "segmentation", "auto", embedded)


def test_a_damaged_model_gives_way_to_the_embedded_one(tmp_path: Path) -> None:
    put(tmp_path / "embedded", "student", "1")
    (put(tmp_path / "models", "net", "1") / "net.bin").unlink()
    model = find_model(tmp_path / "models", "segmentation", "auto", tmp_path / "embedded")
    assert model is not None
    assert (model.name, model.built_in) == ("student", True)
    with pytest.raises(ModelError, match=r"net\.bin: cannot be read"):
        find_model(tmp_path / "models", "segmentation", "net", tmp_path / "embedded")


def test_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert user_models_dir() is None
    (tmp_path / "dpst" / "models").mkdir(parents=True)
    assert user_models_dir() == tmp_path / "dpst" / "models"
