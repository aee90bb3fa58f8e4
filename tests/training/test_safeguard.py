"""Runs that start from a given restorer do not end with worse weights, at whatever learning rate."""

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from daa_diffusers import DAARestorationPipeline, ForeignRestorer
from daa_diffusers.training.loop import Trainer, train
from daa_diffusers.training.run_state import list_checkpoints
from daa_diffusers.training.steps import Steps
from daa_diffusers.training.verification import differences

NOISY = {"type": "gaussian", "sigma_min": 25.0, "sigma_max": 25.0}


class Smoother(nn.Module):
    """Four convolutions without normalization that predict what to take off."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return x - self.layers(x)


@pytest.fixture(scope="session")
def smoother(tmp_path_factory):
    """A restorer that has learned a little."""
    torch.manual_seed(0)
    network, generator = Smoother(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(60):
        clean = torch.rand(4, 3, 1, 1, generator=generator).expand(4, 3, 16, 16)
        noisy = clean + 25 / 255 * torch.randn(clean.shape, generator=generator)
        optimizer.zero_grad()
        (network(noisy) - clean).abs().mean().backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("smoother")
    DAARestorationPipeline(ForeignRestorer.wrap(network, value_range=(0, 1))).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def config(tiny_config, smoother):
    def make(**changes):
        options = {"init_from": smoother, "trust_remote_code": True, "objective": "supervised", "real": [], "steps": 24}
        options |= {"degradation": NOISY, "checkpoint_every": 0, "ema_decay": 0.5, "patch": 16, **changes}
        return tiny_config(**options)

    return make


def quiet(config, **options):
    return Trainer(config, progress_bar=False).train(**options)


def record(config):
    return json.loads((Path(config.output_dir) / "run.json").read_text())


def weights(folder):
    return dict(DAARestorationPipeline.from_pretrained(folder, trust_remote_code=True).restorer.state_dict())


def test_a_rate_that_the_network_cannot_take_is_lowered_by_the_probe(config, tiny_config):
    given = config(ema_decay=0.5)
    given.learning_rate = 0.3  # as a preset would have it: nobody typed it
    given.probe_learning_rate = True
    result = quiet(given)
    found = record(given)["learning_rate"]
    assert found["factor"] < 1 and found["of"] == 0.3 and len(found["tried"]) > 1
    assert found["tried"][0]["rise"] is None or found["tried"][0]["rise"] > 1
    assert not result.start_kept and result.rise < 0.05


def test_a_rate_that_the_network_can_take_is_left_as_it_is(config):
    given = config(learning_rate=1e-4, probe_learning_rate=True)
    quiet(given)
    assert record(given)["learning_rate"]["factor"] == 1 and len(record(given)["learning_rate"]["tried"]) == 1


def test_a_typed_rate_is_not_probed(config):
    given = config(learning_rate=1e-4, steps=1)
    quiet(given)
    assert not given.probe_learning_rate and "learning_rate" not in record(given)


def test_an_absurd_rate_is_taken_back_and_the_start_is_saved_where_nothing_helps(config, smoother, caplog):
    given = config(learning_rate=1e3, steps=6)
    with caplog.at_level(logging.WARNING):
        result = quiet(given)
    assert result.start_kept and result.returns > 0 and (result.rise is None or result.rise > 0.05)
    assert "the initial weights, unchanged, are saved" in caplog.text and "of step 0 are restored" in caplog.text
    start, saved = weights(smoother), weights(result.pipeline)
    assert start.keys() == saved.keys() and all(torch.equal(start[name], saved[name]) for name in start)
    assert record(given)["held_to_start"]["kept_step"] == 0


def test_without_the_safeguard_the_same_run_ends_far_below_its_start(config, smoother):
    result = quiet(config(learning_rate=0.3, steps=6, hold_to_start=False))
    saved = weights(result.pipeline)
    assert any((saved[name] - value).abs().max() > 0.1 for name, value in weights(smoother).items())
    assert result.rise is None and result.kept_step is None


def test_an_exploding_step_returns_to_the_last_good_weights_and_the_run_ends_above_its_start(config, monkeypatch):
    original = Steps.take

    def exploding(self, step, batches, kept, is_outlier=None):
        scalars = original(self, step, batches, kept, is_outlier)
        if step == 13:
            with torch.no_grad():
                for parameter in self.bare.restorer.parameters():
                    parameter.mul_(30)
        return scalars

    monkeypatch.setattr(Steps, "take", exploding)
    given = config(learning_rate=3e-4)
    result = quiet(given)
    (back,) = record(given)["held_to_start"]["returns"]
    assert 14 < back["step"] <= 16 and back["to"] in (12, 14) or back["to"] == 12
    assert result.returns == 1 and result.kept_step is None and result.rise <= 0.05
    log = [json.loads(line) for line in (Path(given.output_dir) / "log.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in log if "learning_rate" in line]
    assert rates[-1] == pytest.approx(rates[0] / 4)


@pytest.mark.parametrize("rate", [3e-4, 0.03])
def test_a_resumed_run_is_bit_identical_with_probe_and_returns(config, tmp_path, rate):
    whole, cut = (config(output_dir=str(tmp_path / name), steps=12, checkpoint_every=3) for name in ("whole", "cut"))
    for given in (whole, cut):
        given.learning_rate, given.probe_learning_rate = rate, True
    quiet(whole)
    quiet(cut, stop_after=5)
    quiet(cut, stop_after=8)
    quiet(cut)
    assert differences(Path(whole.output_dir), Path(cut.output_dir)) == []
    assert record(whole)["learning_rate"] == record(cut)["learning_rate"]
    first, second = (weights(Path(given.output_dir) / "pipeline") for given in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_last_good_state_comes_back_from_a_checkpoint(config, monkeypatch, tmp_path):
    from daa_diffusers.training import safeguard

    monkeypatch.setattr(safeguard, "TOLERATED", -1e-9)  # only what is better counts
    options = {"learning_rate": 0.02, "steps": 12, "checkpoint_every": 1, "ema_decay": 0.0}
    whole, cut = (config(output_dir=str(tmp_path / name), **options) for name in ("whole", "cut"))
    expected = quiet(whole)
    for stop in range(1, 12):
        quiet(cut, stop_after=stop)
    found = quiet(cut)
    assert (found.kept_step, found.rise, found.returns) == (expected.kept_step, expected.rise, expected.returns)
    first, second = (weights(result.pipeline) for result in (expected, found))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert list_checkpoints(tmp_path / "cut" / "checkpoints")


def test_a_run_from_new_weights_is_not_held(tiny_config):
    result = train(tiny_config(objective="supervised", real=[], steps=1), progress_bar=False)
    assert result.rise is None and "held_to_start" not in json.loads((result.pipeline.parent / "run.json").read_text())
