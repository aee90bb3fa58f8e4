"""What every pipeline of the package keeps, as tests to inherit: a class gives tiny pipelines over some restorer."""

import copy
import io
import json
import pickle

import numpy as np
import PIL.Image
import pytest
import torch
from accelerate import cpu_offload
from skimage import data
from torch import nn

from daa_diffusers import DAARestorationPipeline, DAARestorationPipelineOutput
from daa_diffusers.errors import CheckpointError

# Odd sizes, one-pixel sides, sides shorter than a reflection, and one that fits as it is.
SIZES = [(1, 1), (1, 37), (37, 1), (5, 3), (33, 65), (32, 48)]


def photo(height: int, width: int, top: int = 100, left: int = 180) -> np.ndarray:
    """A piece (H, W, 3), uint8, of a real photo."""
    return np.ascontiguousarray(data.astronaut()[top : top + height, left : left + width])


def tensor(array: np.ndarray) -> torch.Tensor:
    """(H, W, C) -> (C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


class PipelineContract:
    """Tests of sizes, kinds, bit depths, batches, determinism, callbacks and files."""

    saveable = True

    def build(self) -> nn.Module:
        """A tiny restorer whose output differs from its input by some gray levels."""
        raise NotImplementedError

    @pytest.fixture
    def pipe(self) -> DAARestorationPipeline:
        torch.manual_seed(0)
        pipe = DAARestorationPipeline(self.build().eval())
        pipe.set_progress_bar_config(disable=True)
        return pipe

    # --- sizes and kinds ---

    @pytest.mark.parametrize("size", SIZES)
    def test_any_size_comes_back(self, pipe, size):
        restored = pipe(photo(*size), output_type="np").images
        assert restored.shape == (1, *size, 3) and restored.dtype == np.uint8
        assert pipe(PIL.Image.fromarray(photo(*size))).images[0].size == size[::-1]

    def test_what_needs_no_padding_is_the_bare_restorer(self, pipe):
        degraded = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
        low, high = pipe.value_range
        network_input = low + degraded * (high - low)
        with torch.no_grad():
            if pipe.channels == 1:
                restored = pipe.restorer(network_input.flatten(0, 1)[:, None]).view(2, 3, 32, 48)
            else:
                restored = pipe.restorer(network_input)
        expected = ((restored - low) / (high - low)).clamp(0, 1)
        result = pipe(degraded, output_type="pt").images
        torch.testing.assert_close(result, expected, rtol=0, atol=2e-5)
        assert (result - degraded).abs().max() > 0.01  # it does restore

    def test_every_kind_of_the_same_photo_gives_the_same_pixels(self, pipe):
        array = photo(40, 56)
        inputs = [PIL.Image.fromarray(array), array, tensor(array), [array], array[None], tensor(array)[None]]
        results = [np.asarray(pipe(image, output_type="np", as_float=False).images[0]) for image in inputs]
        assert all(np.array_equal(results[0], result) for result in results)
        assert not np.array_equal(results[0], array)
        assert np.array_equal(np.array(pipe(array).images[0]), results[0])
        assert torch.equal(pipe(array, output_type="pt").images[0], tensor(results[0]))

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
    def test_the_bit_depth_stays(self, pipe, dtype):
        unit = photo(24, 24) / 255
        depth = {np.uint8: 255, np.uint16: 65535}.get(dtype)
        array = unit.astype(dtype) if depth is None else np.rint(unit * depth).astype(dtype)
        restored = pipe(array, output_type="np").images[0]
        assert restored.dtype == dtype
        exact = pipe(unit.astype(np.float32), output_type="np").images[0]
        step = 1 / depth if depth else (1e-3 if dtype == np.float16 else 1e-6)
        error = np.abs(restored.astype(np.float64) / (depth or 1) - exact).max()
        assert error <= (0.5 * step if depth else step) + 1e-5, error  # rounded, not cut off
        as_tensor = pipe(tensor(array), output_type="pt").images[0]
        assert as_tensor.dtype == torch.from_numpy(array).dtype
        assert np.array_equal(as_tensor.numpy().transpose(1, 2, 0), restored)

    def test_gray_in_gray_out(self, pipe):
        gray = photo(24, 40)[:, :, 1]
        restored = pipe(gray, output_type="np").images
        assert restored.shape == (1, 24, 40)
        assert pipe(gray[:, :, None], output_type="np").images.shape == (1, 24, 40, 1)
        assert pipe(gray, output_type="pt").images.shape == (1, 1, 24, 40)
        image = pipe(PIL.Image.fromarray(gray)).images[0]
        assert image.mode == "L" and np.array_equal(np.array(image), restored[0])
        colored = pipe(np.repeat(gray[:, :, None], 3, 2) / 255, output_type="np").images[0]
        inside = ((colored > 0) & (colored < 1)).all(2)  # elsewhere the mean comes before the clamp
        assert inside.mean() > 0.5
        assert np.abs(colored.mean(2) * 255 - restored[0])[inside].max() <= 0.5 + 1e-3

    # --- lists and batches ---

    def test_a_list_of_mixed_photos_comes_back_in_order(self, pipe):
        sizes = [(16, 16), (9, 21), (16, 16), (1, 1), (9, 21), (16, 16)]
        photos = [photo(*size, top=40 * i) for i, size in enumerate(sizes)]
        photos[3] = photos[3].astype(np.uint16) * 257
        restored = pipe(photos, output_type="np", batch_size=2).images
        assert isinstance(restored, list)
        for one, many in zip(photos, restored, strict=True):
            alone = pipe(one, output_type="np").images[0]
            assert many.shape == one.shape and many.dtype == one.dtype
            assert np.abs(many.astype(int) - alone.astype(int)).max() <= (1 if one.dtype == np.uint8 else 2)

    def test_a_batch_equals_its_photos(self, pipe):
        batch = torch.rand(5, 3, 19, 23, generator=torch.Generator().manual_seed(1))
        whole = pipe(batch, output_type="pt").images
        assert whole.shape == batch.shape
        for size in (1, 2, 5):
            torch.testing.assert_close(pipe(batch, output_type="pt", batch_size=size).images, whole, rtol=0, atol=1e-5)
        alone = torch.cat([pipe(one, output_type="pt").images for one in batch])
        torch.testing.assert_close(alone, whole, rtol=0, atol=1e-5)

    def test_the_same_call_gives_the_same_photo(self, pipe):
        first = pipe(photo(33, 65), output_type="np").images
        torch.manual_seed(99)
        assert np.array_equal(first, pipe(photo(33, 65), output_type="np").images)

    def test_the_given_pixels_stay_as_they_are(self, pipe):
        given = torch.rand(3, 32, 32)
        copy = given.clone()
        restored = pipe(given, output_type="pt").images
        restored.zero_()
        assert torch.equal(given, copy)

    # --- as any diffusers pipeline ---

    def test_the_output_is_a_class_or_a_tuple(self, pipe):
        assert isinstance(pipe(photo(8, 8)), DAARestorationPipelineOutput)
        images = pipe(photo(8, 8), return_dict=False)
        assert isinstance(images, tuple) and isinstance(images[0][0], PIL.Image.Image)

    def test_it_builds_no_graph_and_leaves_the_mode_of_training(self, pipe):
        pipe.restorer.train()
        assert not pipe(torch.rand(3, 16, 16), output_type="pt").images.requires_grad
        assert all(module.training for module in pipe.restorer.modules())

    def test_callbacks_see_each_pass_and_may_change_it(self, pipe):
        seen = []

        def callback(pipeline, step, timestep, kwargs):
            assert pipeline is pipe and timestep == 0
            seen.append((step, kwargs["indices"].tolist(), kwargs["restored"].dtype))
            return {"restored": torch.full_like(kwargs["restored"], pipe.value_range[1])}

        photos = [photo(16, 16), photo(8, 8), photo(16, 16)]
        inputs = ["restored", "indices"]
        images = pipe(
            photos, output_type="np", callback_on_step_end=callback, callback_on_step_end_tensor_inputs=inputs
        ).images
        assert seen == [(0, [0, 2], torch.float32), (1, [1], torch.float32)]
        assert all((image == 255).all() for image in images)

    def test_the_progress_bar_counts_photos(self, pipe):
        shown = io.StringIO()
        pipe.set_progress_bar_config(file=shown)
        pipe([photo(8, 8)] * 3, batch_size=2)
        assert "3/3" in shown.getvalue()

    def test_bfloat16_agrees_roughly(self, pipe):
        exact = pipe(photo(32, 32), output_type="np").images.astype(int)
        pipe.to(torch.bfloat16)
        assert pipe.dtype == torch.bfloat16
        rough = pipe(photo(32, 32), output_type="np").images
        assert rough.dtype == np.uint8
        assert np.abs(rough.astype(int) - exact).mean() < 3

    def test_models_are_offloaded(self, pipe):
        expected = pipe(photo(16, 16), output_type="np").images
        pipe.enable_model_cpu_offload(device="cpu")
        for _ in range(2):  # the hooks are put back after each call
            assert np.array_equal(pipe(photo(16, 16), output_type="np").images, expected)

    def test_pil_images_become_floats_and_arrays_keep_their_depth(self, pipe):
        array, image = photo(24, 40), PIL.Image.fromarray(photo(24, 40))
        floats = pipe(image, output_type="np").images
        assert floats.dtype == np.float32 and floats.shape == (1, 24, 40, 3)
        assert np.array_equal(np.rint(floats * 255), pipe(array, output_type="np").images)
        assert len(np.unique(floats)) > 256  # not rounded
        assert np.array_equal(pipe(array, output_type="np", as_float=True).images, floats)
        assert np.array_equal(pipe(image, output_type="np", as_float=False).images, np.rint(floats * 255))
        assert pipe([image], output_type="pt").images[0].dtype == torch.float32
        with pytest.raises(ValueError, match="`as_float` must be False or None if `out` has an integer dtype"):
            pipe(array, output_type="np", as_float=True, out=np.empty_like(array))

    def test_arguments_of_any_pipeline_are_taken(self, pipe, caplog):
        expected = pipe(photo(8, 8), output_type="np").images
        with caplog.at_level("WARNING", logger="daa_diffusers"):
            generator = torch.Generator().manual_seed(1)
            images = pipe(photo(8, 8), output_type="np", generator=generator, num_inference_steps=1).images
            assert np.array_equal(images, expected) and caplog.text == ""
            assert np.array_equal(pipe(photo(8, 8), output_type="np", num_inference_steps=50).images, expected)
        assert "`num_inference_steps` is 50, but has no effect" in caplog.text

    def test_a_pipeline_is_made_from_another_one(self, pipe):
        pipe.to(torch.bfloat16)
        made = DAARestorationPipeline.from_pipe(pipe)
        assert made.restorer is pipe.restorer and made.dtype == torch.bfloat16
        assert made.components.keys() == pipe.components.keys() == {"restorer", "unet", "scheduler"}
        single = DAARestorationPipeline.from_pipe(pipe, dtype=torch.float32)
        assert single.dtype == torch.float32

    def test_a_copy_and_a_pickled_pipeline_restore_alike(self, pipe):
        expected = pipe(photo(16, 16), output_type="np").images
        for again in (copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))):
            assert again.restorer is not pipe.restorer
            assert np.array_equal(again(photo(16, 16), output_type="np").images, expected)

    def test_layers_are_offloaded(self, pipe):
        expected = pipe(photo(16, 16), output_type="np").images
        cpu_offload(pipe.restorer, execution_device=torch.device("cpu"))  # as `enable_sequential_cpu_offload` does
        assert np.array_equal(pipe(photo(16, 16), output_type="np").images, expected)

    def test_nothing_is_shown_where_there_is_nothing_to_wait_for(self, capfd):
        pipe = DAARestorationPipeline(self.build().eval())
        pipe(photo(8, 8))
        pipe([photo(8, 8)] * 2)
        shown = capfd.readouterr()
        assert shown.out == shown.err == ""

    # --- files ---

    def test_a_saved_pipeline_loads_as_it_was(self, pipe, tmp_path):
        if not self.saveable:
            with pytest.raises(TypeError, match="`restorer` must be a diffusers ModelMixin to be saved"):
                pipe.save_pretrained(tmp_path / "saved")
            assert list(tmp_path.iterdir()) == []  # nothing half-written
            return
        pipe.save_pretrained(tmp_path / "saved")
        files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
        assert files == [
            "saved/model_index.json",
            "saved/pipeline.py",
            "saved/restorer/config.json",
            "saved/restorer/diffusion_pytorch_model.safetensors",
        ]
        index = json.loads((tmp_path / "saved/model_index.json").read_text())
        assert index["restorer"] == [type(pipe.restorer).__module__, type(pipe.restorer).__name__]
        loaded = DAARestorationPipeline.from_pretrained(tmp_path / "saved")
        loaded.set_progress_bar_config(disable=True)
        assert loaded.unet is None and not loaded.restorer.training
        assert loaded.value_range == pipe.value_range and loaded.channels == pipe.channels
        image = torch.rand(3, 33, 35)
        torch.testing.assert_close(
            loaded(image, output_type="pt").images, pipe(image, output_type="pt").images, rtol=0, atol=1e-5
        )
        loaded.save_pretrained(str(tmp_path / "again"))
        assert str(tmp_path) not in (tmp_path / "again/restorer/config.json").read_text()  # no path of this machine
        with pytest.raises(CheckpointError, match="holds no noise predictor"):
            DAARestorationPipeline.from_pretrained(tmp_path / "saved", load_noise_predictor=True)
