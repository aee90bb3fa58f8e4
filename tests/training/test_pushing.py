"""A run whose result is pushed: checked before the first step, kept whatever happens after the last."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.training.pushing import check_push, push_result

from ..hub.hub_server import loopback_hub

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_daa.py"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with loopback_hub(monkeypatch, tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_TOKEN", hub.write_token)
        yield hub


@pytest.fixture
def run():
    spec = importlib.util.spec_from_file_location("train_daa", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run


def test_the_result_is_pushed_with_its_card(hub, run, tiny_config, tmp_path, capsys):
    config = tiny_config(push_to_hub=True, hub_model_id="org/mine", hub_license="mit", hub_private=True, steps=1)
    assert run(config) == 0
    assert f"pushed: {hub.url}/org/mine/commit/" in capsys.readouterr().out
    assert hub.private["org/mine"]
    card = (hub.revisions["org/mine"]["main"] / "README.md").read_text()
    assert "license: mit" in card
    DAARestorationPipeline.from_pretrained("org/mine", cache_dir=tmp_path / "cache")
    # and when it fails, the result stays
    hub.root = None
    with pytest.raises(ConfigurationError, match=f"daa push {config.output_dir} org/other --license mit"):
        push_result(config, "org/other")
    DAARestorationPipeline.from_pretrained(Path(config.output_dir) / "pipeline")


def test_what_cannot_be_pushed_is_refused_before_the_first_step(hub, run, tiny_config, monkeypatch):
    config = tiny_config(push_to_hub=True, hub_model_id="org/mine")
    for changes, message in (
        ({"hub_model_id": "others/mine"}, "`hub_model_id` must belong to one of org, got 'others/mine'"),
        ({"hub_model_id": "org/my photos"}, '`hub_model_id` must be "owner/name"'),
        (
            {"init_from": "daa-denoise-research", "hub_license": "mit"},
            "`hub_license` is 'mit', but the weights of `init_from`",
        ),
    ):
        with pytest.raises(ConfigurationError, match=message):
            run(replace(config, **changes))
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ConfigurationError, match="`push_to_hub` needs access to the Hub and a token with write access"):
        run(config)
    assert not Path(config.output_dir).exists() and not hub.commits and not hub.revisions
    with pytest.raises(ConfigurationError, match="`hub_model_id` needs `push_to_hub`"):
        tiny_config(hub_model_id="org/mine").check()
    with pytest.raises(ConfigurationError, match="`hub_license` must be an identifier that the Hub lists"):
        tiny_config(push_to_hub=True, hub_license="foo").check()


def test_a_bare_name_or_none_is_the_accounts_own(hub, tiny_config):
    assert check_push(tiny_config(push_to_hub=True, hub_model_id="mine")) == "org/mine"
    assert check_push(tiny_config(push_to_hub=True)) == "org/run"
    assert check_push(tiny_config()) is None
