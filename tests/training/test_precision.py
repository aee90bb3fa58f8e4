"""Precision, and steps that are not finite: skipped, counted, and too many in a row end the run with all saved."""

import importlib.util
import logging
from pathlib import Path

import pytest
import torch

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.training.loop import Trainer, train
from daa_diffusers.training.run_state import list_checkpoints, load_file
from daa_diffusers.training.steps import Steps
from daa_diffusers.training.verification import differences, read_log


def quiet(config):
    return train(config, progress_bar=False)


def weights(config):
    return load_file(list_checkpoints(Path(config.output_dir) / "checkpoints")[-1] / "model.safetensors")


def spoil(monkeypatch, steps, value=float("nan")):
    original = Steps.joint_step

    def step_with_a_bad_loss(self, step, batch):
        output = original(self, step, batch)
        if step in steps:
            output.loss = output.loss * value
        return output

    monkeypatch.setattr(Steps, "joint_step", step_with_a_bad_loss)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_skipped_counted_and_logged(tiny_config, monkeypatch, caplog, value):
    spoil(monkeypatch, {1, 2}, value)
    config = tiny_config(steps=4)
    with caplog.at_level(logging.WARNING):
        result = quiet(config)
    assert result.skipped_steps == 2 and "step 2 is skipped: a loss or gradient is NaN or infinite" in caplog.text
    assert all(v.isfinite().all() for v in weights(config).values())
    log = {line["step"]: line for line in read_log(Path(config.output_dir))}
    assert [log[step]["skipped_steps"] for step in (1, 2, 3, 4)] == [0, 1, 2, 2]
    assert "loss/pair" in log[1] and "loss/pair" not in log[2] and "loss/pair" in log[4]


def test_nothing_is_learned_from_a_skipped_step(tiny_config, tmp_path, monkeypatch):
    config = tiny_config(steps=2, output_dir=str(tmp_path / "skipped"))
    with monkeypatch.context() as patch:
        spoil(patch, {1})
        quiet(config)
    one = tiny_config(steps=1, output_dir=str(tmp_path / "one"), learning_rate_schedule="constant")
    quiet(one)
    assert all(torch.equal(weights(one)[name], value) for name, value in weights(config).items())


def test_too_many_in_a_row_stop_the_run_and_leave_the_last_good_checkpoint(tiny_config, tmp_path, monkeypatch):
    config = tiny_config(steps=20, checkpoint_every=1, max_skipped_steps=3, output_dir=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch:
        spoil(patch, range(5, 20))
        with pytest.raises(FloatingPointError, match=r"in 4 steps in a row.*learning_rate"):
            quiet(config)
    assert list_checkpoints(Path(config.output_dir) / "checkpoints")[-1].name == "step-00000008"
    assert all(v.isfinite().all() for v in weights(config).values())


def test_the_count_in_a_row_survives_an_interruption(tiny_config, tmp_path, monkeypatch):
    spoil(monkeypatch, {2, 3})
    whole, cut = (tiny_config(output_dir=str(tmp_path / name)) for name in ("whole", "cut"))
    quiet(whole)
    Trainer(cut, progress_bar=False).train(stop_after=3)
    quiet(cut)
    assert differences(Path(whole.output_dir), Path(cut.output_dir)) == []


def test_bf16_keeps_weights_and_losses_in_float32(tiny_config, monkeypatch):
    convolutions, losses = set(), set()
    original = Steps.joint_step

    def watched(self, step, batch):
        hook = self.bare.restorer.conv_out.register_forward_hook(lambda *call: convolutions.add(call[2].dtype))
        output = original(self, step, batch)
        hook.remove()
        losses.update(value.dtype for value in output.losses.values())
        return output

    monkeypatch.setattr(Steps, "joint_step", watched)
    config = tiny_config(mixed_precision="bf16", steps=2)
    result = quiet(config)
    assert convolutions == {torch.bfloat16} and losses == {torch.float32}
    assert all(v.dtype == torch.float32 for v in weights(config).values())
    in_float32 = quiet(tiny_config(steps=2, output_dir=config.output_dir + " float32"))
    assert result.losses["pair"] == pytest.approx(in_float32.losses["pair"], rel=0.05)


@pytest.mark.skipif(torch.cuda.is_available(), reason="it works there")
def test_fp16_without_a_gpu_is_refused(tiny_config):
    config = tiny_config(mixed_precision="fp16")
    with pytest.raises(ConfigurationError, match="`mixed_precision` fp16 is not available on cpu"):
        quiet(config)
    assert not Path(config.output_dir).exists()


def test_a_tracker_that_is_not_installed_is_refused(tiny_config):
    missing = [name for name in ("wandb", "trackio") if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("all trackers are installed")
    config = tiny_config(report_to=missing[0])
    with pytest.raises(ConfigurationError, match=f"pip install {missing[0]}"):
        quiet(config)
    assert not Path(config.output_dir).exists()


def test_gradient_clipping_bounds_the_step(tiny_config, tmp_path):
    def moved(name, **changes):
        # Adam does not feel the scale of gradients but for its epsilon: a clip far below it stops the run in its tracks
        config = tiny_config(steps=1, output_dir=str(tmp_path / name), **changes)
        start = dict(Trainer(config, progress_bar=False).bare.state_dict())
        start = {k: v.clone() for k, v in start.items()}
        quiet(config)
        return max((v - start[k]).abs().max().item() for k, v in weights(config).items())

    assert moved("clipped", gradient_clip=1e-9) < 0.2 * moved("free")
