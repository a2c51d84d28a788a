"""What a fresh interpreter has loaded after importing something."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

__all__ = ["loaded_by"]


def loaded_by(modules: Sequence[str]) -> set[str]:
    """Names in ``sys.modules`` of a new process that has imported ``modules`` and nothing else of ours."""
    program = (
        "import importlib, json, sys\n"
        "for name in json.loads(sys.argv[1]): importlib.import_module(name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    command = [sys.executable, "-c", program, json.dumps(list(modules))]
    return set(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
