"""What a checkpoint of a run becomes as weights, without going on with the run."""

import pytest
import torch

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.training.loop import train
from daa_diffusers.training.run_state import list_checkpoints, load_average


@pytest.mark.parametrize("blend", [1.0, 0.5])
def test_the_last_checkpoint_becomes_the_weights_that_the_run_ends_with(tiny_config, tmp_path, blend):
    first = tiny_config(output_dir=str(tmp_path / "first"), steps=2)
    train(first, progress_bar=False)
    start = str(tmp_path / "first" / "pipeline")
    config = tiny_config(output_dir=str(tmp_path / "second"), init_from=start, blend=blend, steps=3, checkpoint_every=1)
    train(config, progress_bar=False)
    restorer = DAARestorationPipeline.from_pretrained(start).restorer
    ended = DAARestorationPipeline.from_pretrained(str(tmp_path / "second" / "pipeline")).restorer.state_dict()
    before = {name: value.clone() for name, value in restorer.state_dict().items()}
    load_average(list_checkpoints(tmp_path / "second" / "checkpoints")[-1], restorer, blend)
    for name, value in restorer.state_dict().items():
        torch.testing.assert_close(value, ended[name], rtol=0, atol=1e-7)
    assert any(not torch.equal(before[name], ended[name]) for name in ended)
