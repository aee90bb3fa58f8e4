"""The table of tasks: one entry is all that a task needs."""

from dataclasses import replace

import pytest

from daa_diffusers.checkpoints import bundled_names
from daa_diffusers.checkpoints.tasks import TASKS, Task, judged_by_noise, known_tasks, task_of_degradation
from daa_diffusers.degradations.base import DEGRADATIONS
from daa_diffusers.hub.card import _limits
from daa_diffusers.hub.record_files import task_of
from daa_diffusers.training.config import resolve
from daa_diffusers.training.config.presets import PRESETS, adaptation_preset


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_an_entry_names_degradations_checkpoints_and_a_preset_that_exist(task):
    assert set(task.degradations) <= set(DEGRADATIONS)
    assert {task.start, task.checkpoint or task.start} <= set(bundled_names())
    config = resolve({"preset": task.preset})
    assert config.init_from == task.start and (config.fit_noise > 0) == config.pseudo_clean == task.removes_noise
    assert task_of({"options": {"degradation": config.degradation}}) == task.name


def test_no_degradation_belongs_to_two_tasks():
    kinds = [kind for task in TASKS.values() for kind in task.degradations]
    assert len(kinds) == len(set(kinds)) and task_of_degradation("mixture") is None


def test_the_guard_judges_restorers_of_noise_and_those_of_no_known_task():
    assert [judged_by_noise(task) for task in ("denoise", None, "derain", "deblur")] == [True, True, False, False]


def test_one_entry_gives_a_task_its_preset_words_and_guard(monkeypatch):
    night = Task("low_light", "low-light enhancement", "Brightens dark photos.", "It removes no rain.", ("rain",))
    monkeypatch.setitem(TASKS, "low_light", night)
    monkeypatch.setitem(TASKS, "derain", replace(TASKS["derain"], degradations=()))
    assert task_of({"options": {"degradation": {"type": "rain"}}}) == "low_light" and not judged_by_noise("low_light")
    assert known_tasks() == f"{', '.join(list(TASKS)[:-1])} or low_light"
    assert _limits("low_light") == "Brightens dark photos. It removes no rain."
    monkeypatch.setitem(PRESETS, night.preset, adaptation_preset(night))
    config = resolve({"preset": "adapt-low-light"})
    assert config.degradation == {"type": "rain"} and config.init_from == "daa-denoise" and not config.fit_noise
