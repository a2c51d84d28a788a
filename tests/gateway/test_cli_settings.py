"""``dpst config`` and ``dpst keys``."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import main
from services.common.config import GatewaySettings
from services.common.keys import KeyFile


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    return CliRunner()


def test_config_prints_what_a_process_would_have(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPST_MAX_INFLIGHT", "7")
    result = runner.invoke(main, ["config", "gateway"])
    assert result.exit_code == 0
    assert "DPST_MAX_INFLIGHT=7  # *\n" in result.stdout
    assert "DPST_REFLECTION=false\n" in result.stdout
    assert "DPST_TLS_CERT=\n" in result.stdout
    shown = {line.split("=")[0] for line in result.stdout.splitlines() if line.startswith("DPST_")}
    assert shown == {f"DPST_{name.upper()}" for name in GatewaySettings.model_fields}
    every = runner.invoke(main, ["config", "--help-text"]).stdout
    assert [line for line in every.splitlines() if line in ("# gateway", "# segmentation", "# stylizer")]
    assert "# Most transfers at a time" in every


def test_config_refuses_what_no_process_could_use(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPST_MAX_INFLIHGT", "7")
    monkeypatch.setenv("DPST_SLOTS", "many")
    result = runner.invoke(main, ["config"])
    assert result.exit_code == 2
    assert "error: DPST_MAX_INFLIHGT: no such setting\n" in result.stderr
    assert "error: stylizer: DPST_SLOTS: " in result.stderr
    assert "many" not in result.stderr


def test_a_new_key_is_shown_once_and_kept_as_a_digest(runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    tokens = []
    for name in ("photo-backend", "batch"):
        result = runner.invoke(main, ["keys", "new", name, "--file", str(file)])
        assert result.exit_code == 0
        tokens.append(result.stdout.strip())
    keys = KeyFile(file)
    assert [key.name for key in map(keys.find, tokens) if key] == ["photo-backend", "batch"]
    assert not any(token in file.read_text() for token in tokens)
    again = runner.invoke(main, ["keys", "new", "batch", "--file", str(file)])
    assert again.exit_code == 1
    assert "two keys are called batch" in again.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["keys.toml"]
    printed = runner.invoke(main, ["keys", "new", "other"])
    assert 'name = "other"' in printed.stderr
    assert printed.stdout.startswith("dpst_")
    assert runner.invoke(main, ["keys", "new", "a b"]).exit_code == 2
