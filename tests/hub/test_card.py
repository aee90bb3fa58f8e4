"""Descriptions of checkpoints and the cards made of them."""

import json

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.checkpoints import bundled_names, bundled_path
from daa_diffusers.errors import CheckpointError, ConfigurationError
from daa_diffusers.evaluation import evaluate_folder
from daa_diffusers.evaluation.recording import record_evaluation
from daa_diffusers.hub.card import numbers_table, render_card
from daa_diffusers.hub.description import describe
from daa_diffusers.hub.licenses import RESEARCH, S_LAB, UNKNOWN, license_of

from ..conftest import PROJECT_ROOT


@pytest.fixture
def folder(tmp_path):
    DAARestorationPipeline(RestorationUNet(width=8, depth=3, value_range=[-1, 1])).save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


def test_a_folder_says_what_it_is(folder):
    description = describe(folder)
    network = RestorationUNet(width=8, depth=3)
    assert description.restorer.class_name == "RestorationUNet"
    assert description.restorer.parameters == sum(p.numel() for p in network.parameters())
    assert description.restorer.size_multiple == 4
    assert description.restorer.dtypes == ("F32",)
    assert description.value_range == (-1, 1)
    assert description.unet is None and description.task is None and description.license == UNKNOWN


@pytest.mark.parametrize(
    ("degradation", "task"),
    [
        ({"type": "gaussian", "sigma_max": 50.0}, "denoise"),
        ({"type": "mixture", "parts": [{"weight": 1, "degradation": {"type": "camera"}}]}, "denoise"),
        ({"type": "rain"}, "derain"),
        ({"type": "motion_blur"}, "deblur"),
        ({"type": "sequence", "parts": [{"type": "rain"}, {"type": "gaussian"}]}, "derain"),
        ({"type": "sequence", "parts": [{"type": "rain"}, {"type": "motion_blur"}]}, None),
        (None, None),
    ],
)
def test_the_task_follows_from_the_degradation(folder, degradation, task):
    (folder / "training.json").write_text(json.dumps({"options": {"degradation": degradation}}))
    assert describe(folder).task == task


@pytest.mark.parametrize(
    ("training", "license"),
    [
        ({}, UNKNOWN),
        ({"licence": "s-lab-license-1.0"}, S_LAB),
        ({"options": {"init_from": "daa-denoise"}}, RESEARCH),
        ({"options": {"init_from": "outputs/mine/pipeline"}}, UNKNOWN),
    ],
)
def test_the_license_follows_from_the_record(training, license):
    assert license_of(training) == license


def test_words_that_forbid_commercial_use_bind():
    license = license_of({"licence": "Weights for Non-Commercial research only."})
    assert license.non_commercial and license.metadata() == RESEARCH.metadata()
    assert not license_of({"licence": "Do what you like."}).non_commercial


def test_a_card_of_a_bare_folder_says_what_is_not_known(folder):
    card = render_card(describe(folder), "org/mine")
    assert ModelCard(card).data.to_dict() == {
        "library_name": "diffusers",
        "pipeline_tag": "image-to-image",
        "tags": ["image-restoration", "daa-diffusers"],
    }
    for text in ("# mine", "value range [-1, 1]", "No scores are recorded", "Not recorded.", UNKNOWN.text):
        assert text in card
    for heading in ("Data and licenses", "How it was made", "Numbers", "Intended use and limits"):
        assert f"## {heading}" in (PROJECT_ROOT / "model_cards" / "TEMPLATE.md").read_text() and f"## {heading}" in card


RESEARCH_ONLY = ("daa-denoise-research",)


@pytest.mark.parametrize("name", bundled_names())
def test_bundled_cards_are_rendered_from_the_bundled_files(name):
    written = (PROJECT_ROOT / "model_cards" / f"{name}.md").read_text()
    assert written == render_card(describe(bundled_path(name)), name), "run examples/model_cards.py"
    assert ("BSDS500" if name in RESEARCH_ONLY else "Unsplash before June 2017 (public domain)") in written
    for section in ("Without ground truth", "| identity |", "worst photo against identity", " minutes"):
        assert section in written


@pytest.mark.parametrize("name", bundled_names())
def test_the_hub_reads_a_bundled_card(name):
    card = ModelCard(render_card(describe(bundled_path(name)), f"org/{name}"))
    data = card.data
    research = ("other", "non-commercial-research")
    assert (data.license, data.license_name) == (research if name in RESEARCH_ONLY else ("cc-by-4.0", None))
    task = {"daa-derain": "deraining", "daa-deblur": "deblurring"}.get(name, "denoising")
    adapted = name == "daa-denoise-research"
    assert task in data.tags and ("domain-adaptation" in data.tags) == adapted
    described = describe(bundled_path(name))
    values = {result.dataset_name: result.metric_value for result in data.eval_results}
    assert values == {one["set"]: round(one["psnr"][name], 2) for one in described.evaluation["sets"]}
    renoir = "RENOIR (low light, three cameras)"
    dataset, psnr = {
        "daa-denoise": (renoir, 37.18),
        "daa-denoise-research": (renoir, 38.14),
        "daa-derain": ("Rain100L (val)", 31.76),
        "daa-deblur": ("Levin (val, best shift within 5 px)", 23.98),
    }[name]
    assert values[dataset] == psnr
    line = "- sidd_small/train/noisy: 111 photos, real, without ground truth."
    assert (line in card.text) == adapted
    assert ("photos, real, without ground truth." in card.text) == adapted
    options = yaml.safe_load(card.text.split("```yaml\n")[1].split("```")[0])
    steps = {"daa-denoise": 20000, "daa-denoise-research": 1200, "daa-derain": 7445, "daa-deblur": 5954}
    assert options["steps"] == steps[name]
    assert options["steps"] == described.training["steps"] and f"{options['steps']} steps" in card.text


def test_words_of_a_file_can_neither_break_the_table_nor_start_html():
    sets = [{"set": "a | b <script>\n# c", "photos": 2, "psnr": {"identity": 20, "mine": 21.236}}]
    assert numbers_table({"sets": sets}).splitlines() == [
        "| set | photos | identity | mine |",
        "|---|---:|---:|---:|",
        "| a \\| b &lt;script> # c | 2 | 20.00 | 21.24 |",
    ]


# --- numbers ---


@pytest.fixture
def measured(folder, tmp_path):
    draws = np.random.default_rng(0)
    for kind in ("noisy", "clean"):
        (tmp_path / kind).mkdir()
        for number in range(2):
            pixels = draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{number}.png")
    pipeline = DAARestorationPipeline.from_pretrained(folder)
    return evaluate_folder({"mine": pipeline}, tmp_path / "noisy", tmp_path / "clean", metrics=["psnr"])


def test_an_evaluation_ends_up_in_the_card(folder, measured):
    record_evaluation(folder, "night | day", measured, note="Chosen on these photos.")
    record_evaluation(folder, "night | day", measured)
    record_evaluation(folder, "others", measured)
    evaluation = describe(folder).evaluation
    assert [one["set"] for one in evaluation["sets"]] == ["night | day", "others"]
    assert evaluation["sets"][0]["psnr"]["identity"] == pytest.approx(measured.mean("identity", "psnr"), abs=1e-4)
    card = render_card(describe(folder), "org/mine")
    assert measured.protocol in card and "Chosen on these photos." in card and "| night \\| day | 2 |" in card


def test_numbers_of_two_protocols_do_not_meet_in_one_table(folder, measured, tmp_path):
    record_evaluation(folder, "rgb", measured)
    restorers = dict(measured.restorers)
    other = evaluate_folder(
        {"mine": restorers["mine"]}, tmp_path / "noisy", tmp_path / "clean", metrics=["psnr"], space="y"
    )
    with pytest.raises(ConfigurationError, match="has another protocol .*all entries must have the same protocol"):
        record_evaluation(folder, "y", other)
    without = evaluate_folder({"mine": restorers["mine"]}, tmp_path / "noisy")
    with pytest.raises(ConfigurationError, match="`evaluation` must include a PSNR"):
        record_evaluation(folder, "none", without)
    with pytest.raises(ConfigurationError, match="`name` must name these photos"):
        record_evaluation(folder, " ", measured)


@pytest.mark.parametrize(
    "content",
    [
        {"sets": []},
        {"protocol": "x", "sets": {}},
        {"protocol": "x", "sets": [1]},
        {"protocol": "x", "sets": [{"set": "a", "photos": 3, "psnr": {"mine": 30}}]},
        {"protocol": "x", "sets": [{"set": "a", "photos": 3, "psnr": {"identity": "30"}}]},
        {"protocol": "x", "sets": [{"photos": 3, "psnr": {"identity": 30}}]},
    ],
    ids=str,
)
def test_numbers_without_an_identity_row_or_a_protocol_are_refused(folder, content):
    (folder / "evaluation.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="evaluation.json' must hold"):
        describe(folder)


@pytest.mark.parametrize(
    "options, named",
    [
        ({"objective": {"type": "dann", "weight": 0.05}}, "by domain-adversarial features (DANN)"),
        ({"objective": "mean_teacher"}, "by mean teacher"),
        ({"objective": {"type": "noise_space", "variant": "hybrid"}}, "by noise-space adaptation ([Noise-DA]("),
        ({"variant": "hybrid"}, "by noise-space adaptation ([Noise-DA]("),
        ({"variant": "vanilla"}, None),
        ({"objective": {"type": "supervised"}}, None),
    ],
)
def test_a_card_names_the_objective_that_was_used(folder, options, named):
    (folder / "training.json").write_text(json.dumps({"options": {"real": ["photos"], **options}, "steps": 3}))
    card = render_card(describe(folder), "me/mine")
    assert (named in card) if named else ("adapted to real photos by" not in card)
