"""The arrows of docs/architecture.md, by static analysis and in fresh processes."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import services.stylizer.core as core
from tests.architecture.fresh import loaded_by

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "onnxruntime"}


def test_contracts_of_pyproject_are_kept() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "Contracts: 4 kept, 0 broken." in done.stdout


def test_core_is_pure_numerics() -> None:
    modules = [module.name for module in pkgutil.walk_packages(core.__path__, f"{core.__name__}.")]
    assert "services.stylizer.core.transfer" in modules
    loaded = loaded_by(modules)
    assert set(modules) <= loaded
    assert not {name for name in loaded if name.partition(".")[0] in ("grpc", "google", "dpst", "gateway")}
    packages = {"services", "services.stylizer", core.__name__}  # they hold no code
    assert {name for name in loaded if name.partition(".")[0] == "services"} == {*packages, *modules}


@pytest.mark.parametrize(
    "package",
    ["services", "services.common", "services.segmentation", "services.stylizer", "gateway", "gateway.cli"],
)
def test_importing_a_package_loads_no_network_library(package: str) -> None:
    assert not HEAVY & loaded_by([package])


@pytest.mark.parametrize("package", ["services.common", "gateway"])
def test_not_even_all_modules_of_common_and_gateway_load_one(package: str) -> None:
    folder = ROOT / package.replace(".", "/")
    modules = [module.name for module in pkgutil.walk_packages([str(folder)], f"{package}.")]
    assert len(modules) > 5
    assert not HEAVY & loaded_by([name for name in modules if not name.endswith("__main__")])


def test_the_stylizers_grpc_process_loads_none() -> None:
    """It queues and forwards; only its worker computes."""
    assert "torch" not in loaded_by(["services.stylizer.servicer", "services.common.process"])
