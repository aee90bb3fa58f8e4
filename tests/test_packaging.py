"""The wheel: what is in it, what it says of itself, and that it works where only the wheel is installed."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from email import message_from_string
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import daa_diffusers

from .conftest import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / "daa_diffusers"
CHECKPOINTS = sorted(p.parent.name for p in PACKAGE.glob("checkpoints/*/model_index.json"))
MAX_CHECKPOINT_BYTES = 20_000_000

TRY_THE_INSTALLED_PACKAGE = """
import pathlib, sys, torch, daa_diffusers
from daa_diffusers import *
assert pathlib.Path(daa_diffusers.__file__).is_relative_to(sys.prefix), daa_diffusers.__file__
assert (pathlib.Path(daa_diffusers.__file__).parent / "py.typed").is_file()
photo = torch.rand(1, 3, 19, 33)
pipelines = [DAARestorationPipeline(RestorationUNet(width=4, depth=2))]
pipelines += [DAARestorationPipeline.from_pretrained(name) for name in sys.argv[1:]]
for pipeline in pipelines:
    assert pipeline(photo, output_type="pt").images[0].shape[-2:] == (19, 33)
print("works", daa_diffusers.__version__, len(pipelines))
"""


def run(*command, cwd: Path) -> str:
    """Runs a command that must succeed, without the variables that would show it this checkout."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def new_environment(folder: Path, *, with_pip: bool) -> Path:
    """Creates a virtual environment and returns its interpreter."""
    venv.create(folder, with_pip=with_pip, symlinks=os.name != "nt")
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy, since a build leaves files (and uses stale ones) in its source folder."""
    source = tmp_path_factory.mktemp("a folder with spaces") / "source"
    shutil.copytree(PACKAGE, source / "daa_diffusers", ignore=shutil.ignore_patterns("__pycache__"))
    for path in filter(Path.is_file, PROJECT_ROOT.iterdir()):
        shutil.copy(path, source)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return message_from_string(archive.read(name).decode("utf-8"))


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    expected = {
        path.relative_to(PROJECT_ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    dist_info = f"daa_diffusers-{daa_diffusers.__version__}.dist-info/"
    assert {name for name in names if not name.startswith(dist_info)} == expected
    assert {dist_info + "licenses/LICENSE", dist_info + "licenses/NOTICE"} <= set(names)
    assert "daa_diffusers/py.typed" in expected


def test_the_wheel_says_what_it_is(wheel_metadata):
    assert wheel_metadata["Name"] == "daa-diffusers"
    assert wheel_metadata["Version"] == daa_diffusers.__version__
    assert wheel_metadata["License-Expression"].split(" AND ")[0] == "Apache-2.0"
    assert {"train", "demo", "test", "dev", "zoo", "onnx"} <= set(wheel_metadata.get_all("Provides-Extra"))
    assert any(url.endswith("https://arxiv.org/abs/2406.18516") for url in wheel_metadata.get_all("Project-URL"))
    assert wheel_metadata["Requires-Python"] == ">=3.11"


def test_the_environment_satisfies_every_declared_dependency(wheel_metadata):
    requirements = [Requirement(line) for line in wheel_metadata.get_all("Requires-Dist")]
    wrong = []
    for requirement in requirements:
        if requirement.name == "daa-diffusers":  # an extra that includes another
            continue
        installed = metadata.version(requirement.name)
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement}: {installed} is installed")
    assert requirements and not wrong


def test_the_wheel_works_without_the_checkout(wheel, tmp_path):
    """In a fresh environment that has the dependencies, but not this project."""
    python = new_environment(tmp_path / "env", with_pip=False)
    (libraries,) = (tmp_path / "env").rglob("site-packages")
    ours = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (libraries / "dependencies.pth").write_text("\n".join(ours), encoding="utf-8")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    out = run(python, "-c", TRY_THE_INSTALLED_PACKAGE, *CHECKPOINTS, cwd=tmp_path)
    assert out.splitlines()[-1] == f"works {daa_diffusers.__version__} {1 + len(CHECKPOINTS)}"


@pytest.mark.slow
def test_the_wheel_installs_into_an_empty_environment(wheel, tmp_path):
    """With all its dependencies, as a user does it; needs the package index and about 6 GB for a while."""
    if shutil.disk_usage(tmp_path).free < 12 * 2**30:
        pytest.skip(f"12 GB of free disk are needed in {tmp_path}")
    python = new_environment(tmp_path / "env", with_pip=True)
    pip = (python, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir")
    try:
        run(*pip, "install", "-c", PROJECT_ROOT / "constraints.txt", f"{wheel}[train]", cwd=tmp_path)
        run(*pip, "check", cwd=tmp_path)
        out = run(python, "-c", TRY_THE_INSTALLED_PACKAGE, *CHECKPOINTS, cwd=tmp_path)
        assert out.splitlines()[-1] == f"works {daa_diffusers.__version__} {1 + len(CHECKPOINTS)}"
    finally:
        shutil.rmtree(tmp_path / "env")  # pytest keeps the temporary folders of its last three runs


def test_bundled_checkpoints_are_small_and_hold_no_pickle():
    if not CHECKPOINTS:
        pytest.skip("no checkpoint is bundled yet")
    files = [path for path in (PACKAGE / "checkpoints").rglob("*") if path.is_file()]
    files = [path for path in files if path.parent.name not in ("checkpoints", "__pycache__")]  # its module
    assert sum(path.stat().st_size for path in files) <= MAX_CHECKPOINT_BYTES
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".yaml"}


def declared() -> dict[str, list[Requirement]]:
    """The requirements of pyproject.toml, under "" for the package itself and under the name of each extra."""
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {name: [Requirement(line) for line in lines] for name, lines in groups.items()}


def test_the_constraints_pin_every_dependency_within_its_range():
    lines = (PROJECT_ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert [str(p) for p in pins if not re.fullmatch(r"==[^*,]+", str(p.specifier))] == []
    versions = {canonicalize_name(p.name): str(p.specifier).removeprefix("==") for p in pins}
    assert len(versions) == len(pins)
    for requirement in (r for group in declared().values() for r in group if r.name != "daa-diffusers"):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def imported(node: ast.AST, *, in_functions: bool) -> set[str]:
    """The top-level packages that a syntax tree imports by absolute name, inside functions or outside of them."""
    found = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import) and not in_functions:
            found |= {alias.name.split(".")[0] for alias in child.names}
        elif isinstance(child, ast.ImportFrom) and not in_functions and not child.level:
            found.add(child.module.split(".")[0])
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            found |= imported(child, in_functions=False) if in_functions else set()
        else:
            found |= imported(child, in_functions=in_functions)
    return found - set(sys.stdlib_module_names) - {"daa_diffusers"}


@pytest.mark.parametrize(
    ("folder", "in_functions", "extras"),
    [
        ("daa_diffusers", False, []),
        ("daa_diffusers", True, ["train", "trackers", "demo", "heic", "raw", "ray", "zoo", "onnx"]),
        ("examples", False, ["train", "demo"]),
    ],
)
def test_every_imported_package_is_declared(folder, in_functions, extras):
    """Outside of functions by the package itself: an extra may be missing, and its absence is met where it is used."""
    groups = declared()
    names = {canonicalize_name(r.name) for group in ["", *extras] for r in groups[group]}
    owners = metadata.packages_distributions()
    undeclared = {
        f"{path.relative_to(PROJECT_ROOT)}: {package}"
        for path in (PROJECT_ROOT / folder).rglob("*.py")
        for package in imported(ast.parse(path.read_text(encoding="utf-8")), in_functions=in_functions)
        if not names & {canonicalize_name(owner) for owner in owners.get(package, [package])}
    }
    assert undeclared == set()


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((PROJECT_ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == daa_diffusers.__version__
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Liao", "Yue", "Wang", "Loy"]
