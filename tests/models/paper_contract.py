"""The contract of the paper's networks: presets of the official sizes and initialization, as tests to inherit."""

import pytest
import torch
from torch import nn

from .contract import ModelContract


class PaperContract(ModelContract):
    """Tests of presets and initial weights beside those of every network.

    Attributes:
        paper_parameters: number of parameters of the official network.
    """

    paper_parameters: int

    def test_the_paper_preset_has_the_official_number_of_parameters(self):
        with torch.device("meta"):
            model = self.model_class.from_preset("paper")
        assert sum(parameter.numel() for parameter in model.parameters()) == self.paper_parameters

    def test_presets_grow_and_take_overrides(self):
        with torch.device("meta"):
            counts = [
                sum(p.numel() for p in self.model_class.from_preset(preset).parameters())
                for preset in ("tiny", "small", "paper")
            ]
        assert counts[0] < counts[1] / 3 < counts[2] / 9

    def test_an_unknown_preset_is_named_with_the_known_ones(self):
        with pytest.raises(ValueError, match=r"`preset` must be one of \['paper', 'small', 'tiny'\], got 'huge'"):
            self.model_class.from_preset("huge")

    def test_weights_start_kaiming_normal_and_biases_zero(self, model):
        scales = []
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                assert module.bias is None or not module.bias.any()
                fan_in = module.weight[0].numel()
                scales.append(((module.weight * (fan_in / 2) ** 0.5).std().item(), module.weight.numel()))
        total = sum(count for _, count in scales)
        assert total > 1000
        assert abs(sum(scale * count for scale, count in scales) / total - 1) < 0.03
        assert all(abs(scale - 1) < 6 / count**0.5 for scale, count in scales)
