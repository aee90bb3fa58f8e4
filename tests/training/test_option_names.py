"""Names that users of diffusers' training scripts type: each is the same option here, or is answered with what is."""

import pytest

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.training.config import parse_arguments, resolve
from daa_diffusers.training.config.names import ALIASES, ANSWERS, NAMES, hint
from daa_diffusers.training.config.objective import OBJECTIVE_OPTIONS

ENOUGH = ["--clean", "c", "--real", "r"]

# of train_unconditional.py, train_text_to_image.py, train_dreambooth_lora.py and train_controlnet.py
ALIASED = {
    "train_batch_size": ("3", "batch_size", 3),
    "max_train_steps": ("3", "steps", 3),
    "lr_scheduler": ("cosine", "learning_rate_schedule", "cosine"),
    "lr_warmup_steps": ("3", "learning_rate_warmup_steps", 3),
    "checkpointing_steps": ("3", "checkpoint_every", 3),
    "checkpoints_total_limit": ("3", "keep", 3),
    "max_grad_norm": ("0.5", "gradient_clip", 0.5),
    "logger": ("wandb", "report_to", "wandb"),
    "pretrained_model_name_or_path": ("org/name", "init_from", "org/name"),
    "dataloader_num_workers": ("3", "workers", 3),
    "validation_steps": ("3", "validate_every", 3),
    "ema_max_decay": ("0.5", "ema_decay", 0.5),
    "hub_private_repo": ("true", "hub_private", True),
}
SAME = (
    "learning_rate", "seed", "output_dir", "gradient_accumulation_steps", "gradient_checkpointing", "mixed_precision",
    "report_to", "push_to_hub", "hub_model_id", "optimizer",
)  # fmt: skip
ANSWERED = {
    "resolution": "--patch",
    "resume_from_checkpoint": "the same command resumes",
    "train_data_dir": "--clean",
    "lr": "--learning_rate",
    "max_steps": "--steps",
    "epochs": "--steps",
    "resume": "the same command resumes",
    "dataset_name": "--clean hf:NAME",
    "dataset_config_name": "config=NAME",
    "image_column": "column=NAME",
    "num_train_epochs": "--steps",
    "num_epochs": "--steps",
    "validation_epochs": "--validate_every",
    "save_images_epochs": "--validate_every",
    "save_model_epochs": "--checkpoint_every",
    "validation_prompt": "--validation_degraded",
    "validation_image": "--validation_degraded",
    "use_ema": "--ema_decay",
    "ema_inv_gamma": "--ema_decay",
    "ema_power": "--ema_decay",
    "allow_tf32": "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "adam_beta1": "0.9",
    "adam_beta2": "0.999",
    "adam_epsilon": "1e-8",
    "adam_weight_decay": "no weight decay",
    "use_8bit_adam": "Adam",
    "scale_lr": "--learning_rate",
    "logging_dir": "--output_dir",
    "hub_token": "hf auth login",
    "cache_dir": "HF_HOME",
    "center_crop": "at random positions",
    "random_flip": "always flipped",
    "local_rank": "accelerate launch",
    "rank": "--adapter_rank",
    "lora_rank": "--adapter_rank",
    "device": "CUDA_VISIBLE_DEVICES",
    "lr_num_cycles": "--learning_rate_schedule",
    "snr_gamma": "--timestep_range",
    "enable_xformers_memory_efficient_attention": "--gradient_checkpointing",
}
# Options of the same scripts that nothing here is like: no hint is better than one that means something else.
UNLIKE = (
    "class_data_dir", "class_prompt", "with_prior_preservation", "prior_loss_weight", "train_text_encoder",
    "tokenizer_name", "noise_offset", "input_perturbation", "proportion_empty_prompts", "controlnet_model_name_or_path",
    "ddpm_num_steps", "ddpm_beta_schedule", "non_ema_revision", "caption_column", "interpolation_mode", "num_samples",
    "set_grads_to_none", "guidance_scale", "dream_training", "pre_compute_text_embeddings", "crops_coords_top_left_h",
)  # fmt: skip


@pytest.mark.parametrize("name", ALIASED)
def test_an_option_of_diffusers_with_the_same_meaning_is_an_alias(name):
    text, ours, value = ALIASED[name]
    typed = [*ENOUGH, "--push_to_hub"]
    assert getattr(parse_arguments([*typed, f"--{name}", text]), ours) == value
    assert getattr(parse_arguments([*typed, f"--{name.replace('_', '-')}={text}"]), ours) == value
    assert getattr(resolve({name: value}), ours) == value


@pytest.mark.parametrize("name", ANSWERED)
def test_an_option_of_diffusers_with_another_name_or_none_is_answered(name):
    for spelled in (name, name.replace("_", "-")):
        with pytest.raises(ConfigurationError, match="unknown option in the command line") as caught:
            parse_arguments([*ENOUGH, f"--{spelled}", "3"])
        assert ANSWERED[name] in str(caught.value)


def test_what_is_the_same_is_no_alias_and_what_is_answered_exists():
    assert set(SAME) <= set(NAMES) and not set(ALIASES) & set(NAMES)
    assert not set(ANSWERS) & ({*NAMES, *ALIASES})
    for answer in ANSWERS.values():
        named = {word.strip(".,;:()").removeprefix("--") for word in answer.split() if word.startswith("--")}
        assert named - {"revision", "local-dir"} <= {*NAMES, *OBJECTIVE_OPTIONS}, answer


@pytest.mark.parametrize("name", UNLIKE)
def test_no_hint_where_nothing_means_the_same(name):
    assert hint(name) == ""


def test_an_option_under_two_names_is_refused():
    with pytest.raises(ConfigurationError, match="`steps` is given twice, also as 'max_train_steps'"):
        resolve({"steps": 3, "max_train_steps": 4})
