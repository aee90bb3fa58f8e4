"""The registry of restorers: one line makes a network trainable by name, saved, loaded, and pushed with its code."""

import pytest
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.hub.repository import with_code
from daa_diffusers.hub.single_files import load_restorer
from daa_diffusers.hub.untrusted import NETWORKS
from daa_diffusers.models import registry
from daa_diffusers.models.record_mixin import RecordMixin
from daa_diffusers.models.registry import PRESETS, RESTORERS, new_restorer, presets_in_words
from daa_diffusers.models.restorer import RestorerContract
from daa_diffusers.training.config import resolve


class OneLayer(RecordMixin, ModelMixin, ConfigMixin):
    """The least that a restorer is."""

    presets = {"one-layer": {"width": 3}}

    @register_to_config
    def __init__(self, channels=3, width=1, value_range=(0.0, 1.0), task=None, license=None):
        super().__init__()
        self.layer = nn.Conv2d(channels, channels, width, padding=width // 2)

    def forward(self, x):
        """See the class."""
        return x + self.layer(x)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_a_restorer_that_states_its_facts(preset):
    with torch.device("meta"):
        restorer = new_restorer(preset, value_range=(-1.0, 1.0))
    assert RESTORERS[type(restorer).__name__] is type(restorer)
    assert RestorerContract.of(restorer).value_range == (-1.0, 1.0)
    assert {"channels", "value_range", "task", "license"} <= set(restorer.config)


def test_presets_share_no_name_and_stand_in_the_help():
    names = [name for network in RESTORERS.values() for name in network.presets]
    assert len(names) == len(set(names)) == len(PRESETS) and all(name in presets_in_words() for name in names)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="`preset` must be one of tiny, small, .*, got 'huge'"):
        new_restorer("huge")
    with pytest.raises(ConfigurationError, match="`restorer` must be one of tiny, small"):
        resolve({"restorer": "huge", "clean": ["photos"]}).check()


def test_a_registered_class_is_built_and_loaded_from_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_CLASSES", (*registry._CLASSES, OneLayer))
    for table in (RESTORERS, NETWORKS):
        monkeypatch.setitem(table, "OneLayer", OneLayer)
    restorer = new_restorer("one-layer")
    restorer.save_pretrained(tmp_path)
    loaded = load_restorer(tmp_path / "diffusion_pytorch_model.safetensors")
    assert isinstance(loaded, OneLayer) and loaded.config.width == 3
    assert torch.equal(loaded.layer.weight, restorer.layer.weight)


@pytest.mark.parametrize("network", RESTORERS.values())
def test_a_repository_carries_its_code_whether_or_not_its_name_is_public(network, monkeypatch):
    monkeypatch.setattr("daa_diffusers.hub.repository._MODULES", {})
    code, _ = with_code({"restorer": [network.__module__, network.__name__]}, ["restorer"])
    file = f"restorer/{network.__module__.rpartition('.')[2]}.py"
    assert f"class {network.__name__}(" in code[file].decode()
