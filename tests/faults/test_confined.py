"""A container's limits: a root that cannot be written, no capabilities, no home; one folder for what is temporary."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dpst_client import Client

from tests.faults.cluster import picture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# Every mount is made read-only but the kernel's own and the folder that is given; "touch" shows that it worked.
_CONFINED = """
mount --make-rprivate /
mount --bind "$TMPDIR" "$TMPDIR"
mount -o remount,ro,bind /
awk '$2 != ENVIRON["TMPDIR"] && $2 !~ "^/(proc|sys|dev)" && $2 != "/" {print $2}' /proc/mounts |
    while read -r mounted; do mount -o remount,ro,bind "$mounted"; done
if touch "$0" 2> /dev/null; then exit 9; fi
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


def _can_confine() -> bool:
    tools = all(shutil.which(tool) for tool in ("unshare", "setpriv", "mount"))
    return tools and subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode == 0


@pytest.fixture
def confined(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Address of the gateway of a stack that may write to one folder, and its process."""
    if not _can_confine():
        pytest.skip("needs unshare and setpriv, and the right to mount")
    command = [str(Path(sys.executable).with_name("dpst")), "up", "--port", "0", "--http-port", "0", "--device", "cpu"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DPST_", "XDG_"))}
    environment |= {"TMPDIR": str(tmp_path), "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-ec", _CONFINED, str(Path(__file__)), *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        found = None
        while found is None and (line := process.stdout.readline()):
            lines.append(line)
            found = re.match(r"gateway +grpc (\S+)", line)
        assert found, "".join(lines)
        try:
            yield found[1], process
        finally:
            process.kill()


def test_serves_where_nothing_can_be_written(confined: tuple[str, subprocess.Popen[str]], tmp_path: Path) -> None:
    address, process = confined
    with Client(address) as client:
        result = client.transfer(picture(1), picture(2), solve_edge_px=96, max_evaluations=4)
    assert result.picture
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not [*tmp_path.glob("*dpst*")], "torch leaves an empty folder, we leave nothing"
