"""What an import pulls in: nothing heavy for the package itself, no training for inference."""

import ast
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from daa_diffusers import telemetry
from daa_diffusers.hub.repository import INLINED

from .conftest import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / "daa_diffusers"

REPORT_NEW_MODULES = """
import json, sys
before = set(sys.modules)
{statement}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def modules_loaded_by(statement: str) -> set[str]:
    """The modules that `statement` adds to a fresh interpreter."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    program = [sys.executable, "-c", REPORT_NEW_MODULES.format(statement=statement)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def foreign(modules: set[str]) -> set[str]:
    """The top-level packages among `modules` that belong neither to Python nor to this project."""
    return {m.split(".")[0] for m in modules} - set(sys.stdlib_module_names) - {"daa_diffusers"}


@pytest.mark.parametrize(
    "statement",
    [
        "import daa_diffusers",
        "import daa_diffusers; dir(daa_diffusers); daa_diffusers.__version__",
        "from daa_diffusers.errors import CheckpointError",
    ],
)
def test_the_package_itself_loads_nothing_but_python(statement):
    assert foreign(modules_loaded_by(statement)) == set()


def test_a_public_name_is_loaded_when_it_is_used():
    loaded = modules_loaded_by("import daa_diffusers; daa_diffusers.RestorationUNet")
    assert {"daa_diffusers.models.restoration_unet", "torch", "diffusers"} <= loaded


def test_loading_and_restoring_with_torch_leave_onnxruntime_alone():
    """diffusers imports it to ask whether a component is one of its own; `telemetry.without_onnxruntime`."""
    statement = (
        "import numpy as np, daa_diffusers; "
        "pipe = daa_diffusers.DAARestorationPipeline.from_pretrained('daa-denoise'); "
        "pipe(np.zeros((16, 16, 3), np.uint8))"
    )
    assert "onnxruntime" not in foreign(modules_loaded_by(statement))


UNUSED = {
    *("transformers", "scipy", "torchvision", "sympy", "datasets", "onnxruntime", "torch._dynamo", "requests"),
    *("diffusers.models.transformers", "diffusers.models.autoencoders", "diffusers.models.unets.unet_3d_condition"),
}


@pytest.mark.parametrize("answer", ["restore", "adapt"])
def test_commands_start_without_libraries_that_diffusers_takes_in_passing(answer, tmp_path):
    """And whatever imports those libraries later gets them: `cli/lean.py`."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / name / f"{name}.png")
    if answer == "restore":
        arguments = ["restore", str(tmp_path / "a/a.png"), "-o", str(tmp_path / "out") + "/"]
        then = "import torch, scipy.fft; from diffusers.utils.torch_utils import is_compiled_module as compiled; "
        then += "line = torch.nn.Linear(1, 1); assert not compiled(line) and compiled(torch.compile(line))"
    else:
        arguments = ["adapt", str(tmp_path / "a"), "--clean", str(tmp_path / "b"), "-o", str(tmp_path / "out")]
        arguments, then = [*arguments, "--dry-run"], "pass"
    program = f"import sys; sys.argv[1:] = {arguments}; from daa_diffusers.cli.app import main; assert main() == 0; "
    modules_loaded_by(f"{program} found = {UNUSED} & set(sys.modules); assert not found, found; {then}")
    assert (tmp_path / "out/a.png").is_file() == (answer == "restore")


def test_what_the_commands_import_late_is_what_it_would_have_been():
    """Classes of diffusers that stand for others make and recognize instances of those: `cli/lean.py`."""
    modules_loaded_by(
        "from daa_diffusers.cli.lean import lean_diffusers; lean_diffusers(); import diffusers; "
        "from diffusers.models.unets.unet_2d_blocks import Transformer2DModel as Late; "
        "from diffusers.pipelines.pipeline_utils import AutoencoderKL as Checked; "
        "options = dict(num_attention_heads=1, attention_head_dim=8, in_channels=8, norm_num_groups=4); "
        "made = Late(**options); "
        "from diffusers.models.transformers.transformer_2d import Transformer2DModel; "
        "assert type(made) is Transformer2DModel and isinstance(made, Late) and not isinstance(made, Checked); "
        "assert diffusers.AutoencoderKL.__module__.endswith('autoencoder_kl'); "
        "assert isinstance(diffusers.AutoencoderKL(), Checked); "
        "import importlib.metadata; assert importlib.metadata.packages_distributions(); "
        "import requests; from diffusers.utils import loading_utils; assert loading_utils.requests.get is requests.get"
    )


def test_reports_of_libraries_are_off_unless_somebody_turned_them_on():
    report = "import json, os; from daa_diffusers import telemetry; "
    report += "print(json.dumps({name: os.environ[name] for name in telemetry.OFF}))"
    unset = {k: v for k, v in os.environ.items() if k not in telemetry.OFF}
    for given in ({}, {"HF_HUB_DISABLE_TELEMETRY": "0", "RAY_USAGE_STATS_ENABLED": "1"}):
        environment = {**unset, "PYTHONPATH": str(PROJECT_ROOT), **given}
        done = subprocess.run([sys.executable, "-c", report], env=environment, capture_output=True, check=True)
        assert json.loads(done.stdout) == telemetry.OFF | given


def test_inference_loads_neither_training_nor_evaluation_nor_readers_of_data_sets():
    loaded = modules_loaded_by("from daa_diffusers import DAARestorationPipeline")
    assert "daa_diffusers.pipelines.pipeline_daa_restoration" in loaded
    ours = {m for m in loaded if m.startswith("daa_diffusers.")}
    above = {"training", "objectives", "evaluation", "degradations", "sources", "data"}
    assert [m for m in sorted(ours) if m.split(".")[1] in above] == []
    assert foreign(loaded) & {"datasets", "tensorboard", "matplotlib", "skimage"} == set()


@pytest.mark.parametrize(
    "path", sorted({*(PACKAGE / "models").glob("*.py")} - {PACKAGE / "models/registry.py"}), ids=lambda path: path.name
)
def test_a_model_file_imports_only_torch_and_diffusers(path):
    """So that a Hub repository can carry the file as custom code, for people who do not have this package."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add("." * node.level + (node.module or ""))
    ours = {name for name in imported if name.startswith((".", "daa_diffusers"))}
    earlier_path = {"..foreign.restorer"} if path.name == "foreign_restorer.py" else set()
    assert ours <= {*INLINED, *earlier_path}  # a repository's file holds the text of the inlined ones
    assert foreign(imported - ours) - {"torch", "diffusers"} == set()
