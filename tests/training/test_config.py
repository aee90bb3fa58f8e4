"""Options: layers, unknown and contradictory ones, and files that can be passed back."""

import pytest
import yaml

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.training.config import PRESETS, TrainingConfig, parse_arguments, read_yaml, resolve

ENOUGH = ["--clean", "c", "--real", "r"]


def test_command_line_over_file_over_preset(tmp_path):
    file = tmp_path / "options with spaces.yaml"
    file.write_text(yaml.safe_dump({"preset": "tiny", "steps": 7, "batch_size": 3, "clean": ["a", "b"]}))
    config = parse_arguments(["--config", str(file), "--batch_size", "5", "--real", "my photos"])
    assert (config.patch, config.steps, config.batch_size) == (PRESETS["tiny"]["patch"], 7, 5)
    assert config.clean == ["a", "b"] and config.real == ["my photos"]


def test_resolved_options_can_be_passed_back(tmp_path):
    config = parse_arguments([*ENOUGH, "--preset", "paper-denoise", "--timestep_range", "1", "100", "--weight", "0.5"])
    file = tmp_path / "options.yaml"
    file.write_text(config.to_yaml())
    assert parse_arguments(["--config", str(file)]).identity() == config.identity()


def test_types_on_the_command_line():
    config = parse_arguments(
        [*ENOUGH, "--no_channel_shuffle", "--minutes", "2.5", "--degradation", '{"type": "gaussian"}']
    )
    assert config.objective["channel_shuffle"] is False
    assert config.minutes == 2.5 and config.degradation == {"type": "gaussian"}
    assert parse_arguments([*ENOUGH, "--degradation", "camera"]).degradation == {"type": "camera"}


def test_paths_are_expanded(monkeypatch):
    monkeypatch.setenv("MY_PHOTOS", "/some where")
    config = parse_arguments(["--clean", "$MY_PHOTOS/clean", "--real", "~/real", "--output_dir", "$MY_PHOTOS/out"])
    assert config.clean == ["/some where/clean"] and config.output_dir == "/some where/out"
    assert not config.real[0].startswith("~")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--chanel_shuffle"], "did you mean 'channel_shuffle'"),
        (["--ramp_steps", "5"], "an option of earlier versions: the weight rises over all steps"),
        (["--learning-rte", "1"], "did you mean 'learning_rate'"),
        (["stray"], "stray"),
        (["--preset", "large"], "`preset` must be one of tiny, small"),
        (["--patch", "0"], "`patch` must be at least 1"),
        (["--variant", "pared"], "`variant` must be one of paired"),
        (["--weight_schedule", "cosine"], "`weight_schedule` must be one of"),
        (["--paired_clean", "x"], "not both"),
        (["--variant", "extended"], "`unpaired_clean`"),
        (["--validation_clean", "x"], "`validation_degraded`"),
        (["--minutes", "-1"], "`minutes` must be above 0"),
        (["--ema_decay", "1.0"], "`ema_decay`"),
    ],
)
def test_wrong_options_are_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_arguments([*arguments, *ENOUGH])


@pytest.mark.parametrize(
    "values, message",
    [
        ({"patch": "64"}, "`patch` must be an integer, got '64'"),
        ({"patch": True}, "`patch` must be an integer, got True"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be finite"),
        ({"learning_rate": "fast"}, "`learning_rate` must be a number"),
        ({"real": "photos"}, "`real` must be a list, got 'photos'"),
        ({"health": "no"}, "`health` must be true or false"),
        ({"steps": None}, "`steps` must be an integer, got None"),
    ],
)
def test_values_of_a_wrong_type_are_named(values, message):
    with pytest.raises(ConfigurationError, match=message):
        resolve({"clean": ["c"], "real": ["r"], **values}).check()


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("learning_rate: 1e-5\nclean: [c]\nreal: [r]\nminutes: 3\n")
    assert resolve(read_yaml(file)).check().learning_rate == 1e-5
    assert resolve(read_yaml(file)).minutes == 3.0


def test_a_list_option_may_be_repeated():
    assert parse_arguments(["--clean", "a", "b", "--clean", "c", "--real", "r"]).clean == ["a", "b", "c"]


def test_files_of_earlier_versions_are_read(tmp_path, caplog):
    file = tmp_path / "options.yaml"
    file.write_text(yaml.safe_dump({"steps": 7, "ramp_steps": None, "cache_gib": 1.0}))
    assert read_yaml(file) == {"steps": 7} and not caplog.text
    file.write_text(yaml.safe_dump({"steps": 7, "ramp_steps": 3}))
    assert read_yaml(file) == {"steps": 7}
    assert "`ramp_steps` 3 is ignored, an option of earlier versions: the weight rises over all steps" in caplog.text


def test_every_problem_is_told_at_once():
    with pytest.raises(ConfigurationError) as caught:
        resolve({"patch": 0, "batch_size": 0}).check()
    for text in ("`patch`", "`batch_size`", "no clean photos", "give `real` (or"):
        assert text in str(caught.value)


def test_files_that_are_no_options(tmp_path):
    for text, message in (("[1, 2]", "mapping"), ("a: [", "readable YAML"), ("stps: 3", "did you mean 'steps'")):
        file = tmp_path / "bad.yaml"
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=message):
            read_yaml(file)
    with pytest.raises(ConfigurationError, match="readable YAML"):
        read_yaml(tmp_path / "missing.yaml")


def test_lists_where_names_belong_are_errors_of_the_options():
    with pytest.raises(ConfigurationError, match="`preset` must be one of"):
        resolve({"preset": ["adapt"]})
    with pytest.raises(ConfigurationError, match="`adapter`"):
        resolve({"adapter": ["lora"]}).check()


def test_presets_hold_known_options_and_the_official_recipes():
    for name in PRESETS:
        resolve({"preset": name})
    deblur = resolve({"preset": "paper-deblur"})
    assert (deblur.learning_rate, deblur.patch, deblur.value_range) == (5e-5, 128, [-1.0, 1.0])
    denoise = resolve({"preset": "paper-denoise"})
    assert (denoise.learning_rate, denoise.objective["weight"], denoise.degradation["sigma_max"]) == (1e-4, 0.2, 75.0)


def test_presets_of_a_task_hold_what_differs_from_adapt():
    adapt, derain, deblur = (resolve({"preset": name}) for name in ("adapt", "adapt-derain", "adapt-deblur"))
    assert [config.init_from for config in (adapt, derain, deblur)] == ["daa-denoise", "daa-derain", "daa-deblur"]
    assert (adapt.fit_noise, derain.fit_noise, deblur.fit_noise) == (0.75, 0.0, 0.0)
    assert (derain.fit_rain, deblur.fit_shake) == (0.43, 0.5) and not derain.quarter_turns
    assert derain.transplant_kind == "streaks" and deblur.degradation["type"] == "motion_blur"
    assert derain.objective["type"] == deblur.objective["type"] == "supervised"
    assert adapt.learning_rate == derain.learning_rate == 2e-4 and derain.blend == deblur.blend == 1.0


def test_what_only_reports_is_no_part_of_a_runs_identity():
    assert "log_every" not in TrainingConfig().identity() and "objective" in TrainingConfig().identity()
    assert "validate_every" not in TrainingConfig().identity()
    assert {"validate_every", "validation_clean"} <= set(TrainingConfig(select_by="psnr").identity())


def test_help_shows_the_defaults_that_hold(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "5000")
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "MISSING" not in said and "object at 0x" not in said
    assert "(default: 8; tiny, adapt-derain: 4; adapt: 6; paper-denoise" in said
    assert "paper-derain, paper-deblur: 5e-05; --adapter bias, --adapter lora: 0.003" in said
    own, of_objectives = said.split("options of the objective")
    assert own.count("(default: ") == len(TrainingConfig.__dataclass_fields__)
    assert "Of noise_space (default: paired)" in of_objectives and "renoised (default: 1.0)" in of_objectives
