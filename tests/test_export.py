"""ONNX files: the same numbers as torch at every size, and a restorer like any other."""

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.errors import CheckpointError, ConfigurationError

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'daa-diffusers[onnx]'")
pytest.importorskip("onnxscript")

from daa_diffusers.export import OnnxRestorer, export_onnx, read_facts  # noqa: E402


def network(**options) -> RestorationUNet:
    torch.manual_seed(0)
    return RestorationUNet(**{"width": 4, "depth": 3, **options}).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "restorer.onnx"
    return export_onnx(network(value_range=[-1, 1]), path)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (1, 3, 4, 64), (3, 3, 20, 8), (2, 3, 64, 100), (5, 3, 4, 4)])
def test_every_batch_height_and_width_gives_the_numbers_of_torch(exported, shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        expected = network()(x)
    np.testing.assert_allclose(OnnxRestorer(exported)(x).numpy(), expected.numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"channels": 1}, {"depth": 1}, {"align_corners": True}, {"negative_slope": 0.0}], ids=str
)
def test_every_kind_of_restorer_can_be_exported(tmp_path, options):
    restorer = network(**options)
    found = OnnxRestorer(export_onnx(restorer, tmp_path / "x.onnx"))
    multiple = restorer.size_multiple
    assert found.size_multiple == multiple
    x = torch.rand(2, restorer.config.channels, 5 * multiple, 2 * multiple)
    with torch.no_grad():
        np.testing.assert_allclose(found(x).numpy(), restorer(x).numpy(), atol=1e-5)


def test_a_pipeline_takes_it_as_its_restorer(exported):
    photo = np.random.default_rng(0).integers(0, 256, (13, 9, 3), dtype=np.uint8)
    expected = DAARestorationPipeline(network(value_range=[-1, 1]))(photo, output_type="np").images
    pipeline = DAARestorationPipeline(OnnxRestorer(exported))
    assert (pipeline.channels, pipeline.value_range) == (3, (-1, 1))
    found = pipeline(photo, output_type="np").images
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1  # a rounding that falls the other way
    with pytest.raises(TypeError, match="`restorer` must be a diffusers ModelMixin to be saved"):
        pipeline.save_pretrained("nowhere")


def test_the_file_says_what_a_pipeline_must_know(exported):
    assert read_facts(exported) == {
        "class": "RestorationUNet",
        "channels": 3,
        "value_range": [-1.0, 1.0],
        "size_multiple": 4,
        "receptive_radius": 30,
    }


@pytest.mark.slow
def test_exporting_leaves_the_restorer_as_it_was(tmp_path):
    restorer = network().to(torch.bfloat16).train()
    before = {name: tensor.clone() for name, tensor in restorer.state_dict().items()}
    export_onnx(restorer, tmp_path / "x.onnx", check=False)
    assert restorer.training
    assert all(torch.equal(before[name], tensor) for name, tensor in restorer.state_dict().items())


class Reshapes(nn.Module):
    """A network for one size only."""

    def forward(self, x):
        return x.reshape(2, 3, 12)[:, :, :12].reshape(x.shape)


class Random(nn.Module):
    """Another result each time."""

    def forward(self, x):
        return x + torch.rand_like(x)


def test_what_cannot_be_exported_leaves_no_file(tmp_path):
    with pytest.raises(
        ConfigurationError,
        match="(?s)`restorer` Reshapes cannot be exported for every batch, height and.*with torch instead.*DnCNN.*",
    ):
        export_onnx(Reshapes(), tmp_path / "x.onnx")
    with pytest.raises(ConfigurationError, match="and its ONNX export differ by"):
        export_onnx(Random(), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.pt", "x", "absent/x.onnx"])
def test_a_path_ends_in_onnx(tmp_path, name):
    with pytest.raises(ConfigurationError, match="`path` must end in .onnx, in an existing folder, got"):
        export_onnx(network(), tmp_path / name)


def test_another_file_is_refused(tmp_path, exported):
    with pytest.raises(CheckpointError, match="must be an existing .onnx file, got .*absent.onnx'"):
        OnnxRestorer(tmp_path / "absent.onnx")
    (tmp_path / "broken.onnx").write_bytes(exported.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="broken.onnx' is not a readable ONNX file"):
        OnnxRestorer(tmp_path / "broken.onnx")


def test_a_foreign_onnx_file_is_refused(tmp_path, exported):
    import onnx

    model = onnx.load(exported)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(CheckpointError, match="foreign.onnx' was not made by export_onnx"):
        OnnxRestorer(tmp_path / "foreign.onnx")
    model.metadata_props.add(key="daa_diffusers", value='{"channels": 3, "size_multiple": 0, "value_range": [0, 1]}')
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(CheckpointError, match="foreign.onnx' was not made by export_onnx"):
        read_facts(tmp_path / "foreign.onnx")


@pytest.mark.parametrize(
    "x", [torch.rand(3, 4, 4), torch.rand(1, 1, 4, 4), torch.rand(1, 3, 5, 4)], ids=lambda x: str(x.shape)
)
def test_a_batch_that_does_not_fit_is_named(exported, x):
    with pytest.raises(ValueError, match=r"`x` must be \(B, 3, H, W\), got|`x` must be positive multiples of 4, got"):
        OnnxRestorer(exported)(x)


def test_another_dtype_is_named(exported):
    with pytest.raises(ValueError, match="`x` must be float32, got torch.float64"):
        OnnxRestorer(exported)(torch.rand(1, 3, 4, 4, dtype=torch.float64))


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name.startswith("onnx") else found(name))
    with pytest.raises(ImportError, match=r"ONNX needs onnxruntime: pip install 'daa-diffusers\[onnx\]'"):
        OnnxRestorer(tmp_path / "x.onnx")
    with pytest.raises(ImportError, match=r"ONNX needs onnx, onnxscript, onnxruntime: pip install"):
        export_onnx(network(), tmp_path / "x.onnx")
