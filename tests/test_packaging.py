"""What is shipped, and the promises that are kept in more than one file."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import masactrl
from masactrl import attention

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "masactrl"
WEIGHTS = PACKAGE / "puppets" / "weights"

# Who may import whom: a module imports from its own room and from the rooms of the lines above, so
# that rooms of a line do not know each other and there is no circle of rooms.
FLOORS = (
    ("_version", "errors"),
    ("settings",),
    ("attention", "diffusion", "pictures"),
    ("models",),
    ("inversion", "layouts", "methods", "puppets"),
    ("runs",),
    ("batch", "studies"),
    ("bench", "rerun"),
    ("app",),
    ("cli",),
    ("__init__", "__main__"),  # the door
)


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def modules() -> Iterator[str]:
    for found in pkgutil.walk_packages([str(PACKAGE)], prefix="masactrl."):
        if not found.name.endswith("__main__"):
            yield found.name


def test_the_version_is_written_once(project: dict[str, Any]) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", masactrl.__version__)
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/masactrl/_version.py"
    assert f"\nversion: {masactrl.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    nodes = tomllib.loads((ROOT / "integrations/comfyui/pyproject.toml").read_text())
    assert nodes["project"]["version"] == masactrl.__version__
    assert f"## [{masactrl.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_what_is_installed_is_this_version() -> None:
    try:
        installed = metadata.version("masactrl")
    except metadata.PackageNotFoundError:
        pytest.skip("masactrl is not installed here, only on the path")
    assert installed == masactrl.__version__


@pytest.mark.parametrize("name", sorted(["masactrl", *modules()]))
def test_every_module_imports_and_keeps_its_promises(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, "a module opens with one sentence"
    public = getattr(module, "__all__", [])
    assert len(set(public)) == len(public)
    for one in public:
        assert hasattr(module, one), one


def test_public_names_are_sorted_and_visible() -> None:
    assert sorted(masactrl.__all__) == masactrl.__all__
    assert set(masactrl.__all__) <= set(dir(masactrl))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = masactrl.nonsense


def floor_of(name: str) -> int:
    part = [*name.split("."), "__init__"][1]
    return next(floor for floor, parts in enumerate(FLOORS) if part in parts)


def imports(path: Path) -> Iterator[str]:
    """Names of this package that the file imports when it runs, not for types alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", None) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "masactrl")


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_point_downward(path: Path) -> None:
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imports(path):
        below = floor_of(name) < floor_of(f"masactrl.{room}")
        assert below or name.split(".")[1:2] == [room], f"{room} imports {name}, which is not below"


def test_every_dependency_has_a_tested_version(project: dict[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    extras = project["project"]["optional-dependencies"].values()
    for text in [*project["project"]["dependencies"], *(one for extra in extras for one in extra)]:
        wanted = Requirement(text)
        assert wanted.specifier, f"{wanted.name} has no range"
        assert wanted.specifier.contains(pins[wanted.name]), wanted.name


@pytest.mark.parametrize("name", [".ci/run", "scripts/check", "scripts/docs", "scripts/test"])
def test_scripts_can_be_run(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
    assert (ROOT / name).read_text().startswith("#!/usr/bin/env bash\n")


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling (extra dev) builds the wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=300,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"masactrl-{masactrl.__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 100e6
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry,) = (name for name in names if name.endswith("entry_points.txt"))
        entry_points = archive.read(entry).decode()
    info = f"masactrl-{masactrl.__version__}.dist-info/"
    assert all(name.startswith(("masactrl/", info)) for name in names)
    assert "masactrl/py.typed" in names
    assert f"{info}licenses/LICENSE" in names
    assert "masactrl = masactrl.cli:main" in entry_points
    on_disk = {f"masactrl/{path.relative_to(PACKAGE)}" for path in PACKAGE.rglob("*.py")}
    on_disk |= {
        f"masactrl/{path.relative_to(PACKAGE)}" for path in WEIGHTS.rglob("*") if path.is_file()
    }
    assert on_disk <= names
    assert not [name for name in names if name.endswith((".bin", ".ckpt", ".pt", ".pyc"))]


def test_the_root_holds_rooms_and_little_else() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")}
    assert files == {"__init__", "__main__", "_version", "errors"}
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms <= {name for floor in FLOORS for name in floor}
    table = (ROOT / "CONTRIBUTING.md").read_text()
    assert not [room for room in rooms if f"`{room}/`" not in table]


def test_the_equations_need_torch_alone() -> None:
    """A host with networks of its own imports them without diffusers (`integrations/comfyui`)."""
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('diffusers', 'transformers', 'accelerate', 'PIL'):\n"
        "            raise AssertionError(f'{name} is imported')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import torch\n"
        "from masactrl.attention import LayerCall, Rows, Schedule\n"
        "from masactrl.methods.mutual import mutual_self_attention\n"
        "h = torch.arange(6.0).reshape(2, 1, 3)\n"
        "call = LayerCall(layer=lambda q, c=None, allowed=None: q if c is None else c, hidden=h,\n"
        "    bank=h, rows=Rows.one_source(targets=1).on_batch(2, h.device), masks=None)\n"
        "assert torch.equal(mutual_self_attention(call), h[[0, 0]])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)


def test_old_names_lead_to_the_new_modules_and_say_so() -> None:
    code = (
        "import importlib, sys, warnings\n"
        "from masactrl.settings.old_names import MOVED\n"
        "for old, moved in MOVED.items():\n"
        "    new = importlib.import_module(f'masactrl.{moved}')\n"
        "    with warnings.catch_warnings(record=True) as said:\n"
        "        warnings.simplefilter('always')\n"
        "        found = importlib.import_module(f'masactrl.{old}')\n"
        "    assert [w.category for w in said] == [DeprecationWarning], (old, said)\n"
        "    for name in getattr(new, '__all__', ()):\n"
        "        assert getattr(found, name) is getattr(new, name)\n"
        "import masactrl\n"
        "assert callable(masactrl.generate)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)


def test_old_names_in_a_room_lead_to_the_new_ones_and_say_so() -> None:
    for old, new in attention._RENAMED.items():
        with pytest.warns(DeprecationWarning, match=f"{old} is now masactrl.attention.{new}"):
            found = getattr(attention, old)
        assert found is getattr(attention, new)
