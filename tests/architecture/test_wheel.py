"""The wheel: every package once, the client under its own name, the models with it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_wheel_holds_each_package_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names))
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"services", "gateway", "dpst", "dpst_client"}
    assert {"dpst_client/py.typed", "dpst/v1/photo_style_pb2.py", "services/common/models.toml"} <= set(names)
    assert "services/stylizer/models/vgg19-student/1/student.safetensors" in names
    assert not [name for name in names if name.startswith("gateway/sdk")]
