"""Model cards (`README.md` of a repository), rendered from the files of a checkpoint."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..checkpoints.tasks import TASKS
from ..errors import ConfigurationError
from .description import Description, Network
from .licenses import License
from .record_files import IDENTITY, RENDERED, is_adapted, recorded_objective

PAPER = "https://arxiv.org/abs/2406.18516"
PREDICTOR = "DAAUNet2DConditionModel"
_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
# Training options that do not affect the weights and are not shown.
_HIDDEN = ("output_dir", "config", "dry_run")
# Entry of a training record, for weights that this package did not train -> sentence on the card.
_TAKEN_FROM = {
    "converted_from": "Converted from official weights, with unchanged values:",
    "wrapped_from": "Weights of another publisher, in their original architecture:",
}


def metadata_of(description: Description, name: str, license: License) -> ModelCardData:
    """Returns the metadata that the Hub reads: license, tags, and PSNR on each test set.

    Args:
        description: description of the checkpoint.
        name: model name on the Hub, and row of its scores in `evaluation.json`.
        license: license of the weights.
    """
    tags = ["image-restoration", "daa-diffusers"]
    if description.task:
        tags.insert(1, TASKS[description.task].doing)
    if is_adapted(description.training):
        tags.insert(-1, "domain-adaptation")
    row = main_row(description.evaluation, name)
    results = [
        EvalResult(
            task_type="image-to-image",
            # the Hub merges results with equal types
            dataset_type=re.sub(r"\W+", "-", scores["set"].lower()).strip("-"),
            dataset_name=scores["set"],
            metric_type="psnr",
            metric_name=f"PSNR (dB; {scores['psnr'][IDENTITY]:.2f} of the untouched input)",
            metric_value=round(float(scores["psnr"][row]), 2),
        )
        for scores in description.evaluation.get("sets", ())
        if row in scores["psnr"]
    ]
    return ModelCardData(
        license=license.identifier,
        license_name=license.name,
        license_link=license.link,
        library_name="diffusers",
        pipeline_tag="image-to-image",
        tags=tags,
        eval_results=results or None,
        model_name=name if results else None,
    )


def main_row(evaluation: Mapping[str, Any], name: str) -> str | None:
    """Returns the row of an `evaluation.json` for the checkpoint itself: the one with its name, else the last one."""
    rows = _rows(evaluation)
    short_name = name.rpartition("/")[2]
    return short_name if short_name in rows else next(reversed(rows), None)


def _rows(evaluation: Mapping[str, Any]) -> list[str]:
    """Returns the names of the rows of all test sets, each once, without that of the untouched input."""
    rows = dict.fromkeys(row for scores in evaluation.get("sets", ()) for row in scores["psnr"])
    return [row for row in rows if row != IDENTITY]


def render_card(description: Description, name: str, license: License | None = None, *, with_code: bool = False) -> str:
    """Renders the card as Markdown, with the Hub's metadata on top.

    Args:
        description: description of the checkpoint.
        name: argument of `from_pretrained` in the usage example.
        license: license of the weights. None: as recorded in the checkpoint.
        with_code: whether the repository contains code for users without this package.
    """
    license = license or description.license
    metadata = metadata_of(description, name, license).to_yaml()
    parts = [
        f"---\n{metadata}\n---\n{RENDERED}",
        f"# {name.rpartition('/')[2]}",
        _summary(description),
        _predictor_usage(name) if _is_predictor(description) else _usage(name, with_code),
        "## Data and licenses",
        *_data(description, license),
        "## How it was made",
        *_making(description),
        "## Numbers",
        *_numbers(description),
        "## Intended use and limits",
        _limits(description.task),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def given_card(text: str, description: Description, name: str, license: License) -> str:
    """Completes the metadata of a card that a user wrote; a restrictive license is always written.

    Raises:
        ConfigurationError: the metadata is not valid YAML, or states a license that the weights do not have.
    """
    try:
        card = ModelCard(text, ignore_metadata_errors=False)
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigurationError(f"`card` has metadata that cannot be read: {error}") from error
    rendered = metadata_of(description, name, license).to_dict()
    given = card.data.to_dict()
    claimed = (given.get("license"), given.get("license_name"))
    if license.non_commercial and claimed not in ((None, None), (license.identifier, license.name)):
        raise ConfigurationError(
            f"`card` states license: {claimed[0]}, license_name: {claimed[1]}, but the weights are under "
            f"{license.identifier}, {license.name}: {license.text}"
        )
    merged = {**rendered, **given, **license.metadata()}
    return f"---\n{yaml.safe_dump(merged, sort_keys=False, allow_unicode=True)}---\n{card.text}"


# --- the parts ---


def _summary(description: Description) -> str:
    """Returns a sentence on what the network does, and one with its facts."""
    restorer, low, high = description.restorer, *description.value_range
    if _is_predictor(description):
        return f"The noise predictor of a restorer's training, `{PREDICTOR}`; it is not a restorer."
    task = f"A {TASKS[description.task].doing} network" if description.task else "A restoration network"
    training = description.training
    adapted = f", adapted to real photos by {_adaptation(training)}" if is_adapted(training) else ""
    facts = [f"`{restorer.class_name}`"]
    if "width" in restorer.config:
        facts.append(f"width {restorer.config['width']}")
    elif "widths" in restorer.config:
        facts.append(f"widths {', '.join(map(str, restorer.config['widths']))}")
    if restorer.parameters:
        facts.append(f"{millions(restorer.parameters)} parameters")
    facts.append(f"value range [{low:g}, {high:g}]")
    if restorer.dtypes:
        facts.append(f"stored in {stored_as(restorer)}")
    channels = restorer.config.get("channels", 3)
    photos = "grayscale" if channels == 1 else "color"
    predictor = (
        " The noise predictor of its training is in `unet`; restoring does not need it." if description.unet else ""
    )
    return f"{task} for {photos} photos{adapted}. {', '.join(facts)}. Any size in, the same size out.{predictor}"


def _limits(task: str | None) -> str:
    """Returns the section on intended use and limits."""
    if task not in TASKS:
        return "Only for photos with the degradation that it was trained on."
    return f"{TASKS[task].description} {TASKS[task].caution}".strip()


def _is_predictor(description: Description) -> bool:
    return description.restorer.class_name == PREDICTOR


def _predictor_usage(name: str) -> str:
    return f'```python\nfrom daa_diffusers import {PREDICTOR}\n\nunet = {PREDICTOR}.from_pretrained("{name}")\n```'


def _usage(name: str, with_code: bool) -> str:
    """Returns the example of a pipeline's usage, and with code in the repository also that without this package."""
    with_package = (
        "```python\nfrom daa_diffusers import DAARestorationPipeline  # pip install daa-diffusers\n"
        "from PIL import Image\n\n"
        f'pipe = DAARestorationPipeline.from_pretrained("{name}")\n'
        'pipe(Image.open("photo.jpg")).images[0].save("restored.png")\n```'
    )
    if not with_code:
        return with_package
    return (
        f"{with_package}\n\nWithout that package, with the code in this repository (read it first):\n\n"
        "```python\nfrom diffusers import DiffusionPipeline\n\n"
        f'pipe = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)\n```'
    )


def _data(description: Description, license: License) -> list[str]:
    """Returns the section on the training photos, one line per source, and on the license."""
    lines = []
    photos, origins = description.training.get("photos"), description.training.get("sources")
    for role, sources in photos.items() if isinstance(photos, Mapping) else ():
        if role == "unpaired_clean":  # the same as the clean ones
            continue
        words = {"clean": "clean", "real": "real, without ground truth"}.get(role, role.replace("_", " "))
        paths = (description.training.get("options") or {}).get(role)
        for index, source in enumerate(sources if isinstance(sources, list) else ()):
            if not isinstance(source, Mapping):
                continue
            name = str(source.get("folder"))
            path = paths[index] if isinstance(paths, list) and index < len(paths) else ""
            shown = path if str(path).endswith(name) else name  # the path says more: renoir/train/noisy
            origin = origins.get(name, origins.get(shown)) if isinstance(origins, Mapping) else None
            line = f"- {_text(shown)}: {_text(source.get('photos'))} photos, {words}."
            lines.append(f"{line} {_text(origin)}" if origin else line)
    return ["\n".join(lines) or "The photos were not recorded.", license.text]


def _making(description: Description) -> list[str]:
    """Returns the section on how the weights were made: the files that they were taken from, or their training."""
    training = description.training
    for key, words in _TAKEN_FROM.items():
        if isinstance(files := training.get(key), list):
            lines = [
                f"- `{_text(file.get('file'))}`, SHA-256 `{_text(file.get('sha256'))}`"
                for file in files
                if isinstance(file, Mapping)
            ]
            return [words, "\n".join(lines)]
    options = training.get("options")
    if not isinstance(options, Mapping):
        return ["Not recorded."]
    facts = []
    if isinstance(training.get("steps"), int):
        facts.append(f"{training['steps']} steps")
    if isinstance(training.get("minutes"), int | float):
        facts.append(f"{training['minutes']:.0f} minutes")
    facts.append(f"batch {_text(options.get('batch_size'))}, patches of {_text(options.get('patch'))} px")
    start = options.get("init_from")
    facts.append(f"from `{_text(start)}`" if start else "from random weights")
    name, of_objective = recorded_objective(options)
    variant = f", variant {_text(of_objective['variant'])}" if "variant" in of_objective else ""
    facts.append(f"objective {_text(name)}{variant}")
    versions = training.get("versions")
    used = ", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, Mapping) else ""
    shown = {key: value for key, value in options.items() if key not in _HIDDEN}
    text = yaml.safe_dump(json.loads(json.dumps(shown)), sort_keys=False, allow_unicode=True)
    return [
        f"Trained by `examples/train_daa.py` of daa_diffusers: {'; '.join(facts)}.",
        _text(training.get("history", "")),
        f"<details><summary>All options</summary>\n\n```yaml\n{text}```\n\n</details>",
        f"Versions: {_text(used)}." if used else "",
    ]


def _numbers(description: Description) -> list[str]:
    """Returns the section on scores."""
    evaluation = description.evaluation
    if not evaluation.get("sets"):
        return ["No scores are recorded. Test it on your own photos before you rely on it."]
    protocol = f"PSNR in dB; *{IDENTITY}* is the untouched input. {_text(evaluation['protocol'])}"
    return [protocol, numbers_table(evaluation), _text(evaluation.get("note", "")), _label_free_table(evaluation)]


def numbers_table(evaluation: Mapping[str, Any]) -> str:
    """Returns a Markdown table of the PSNR in an `evaluation.json`: a line per test set, the untouched input first."""
    sets = evaluation["sets"]
    rows = [IDENTITY, *_rows(evaluation)]
    baselines = list(dict.fromkeys(row for scores in sets for row in scores.get("minus", {})))
    has_worst = any("worst" in scores for scores in sets)
    lines = [["set", "photos", *rows, *(f"minus {row} (95 %)" for row in baselines)]]
    lines[0] += ["worst photo against identity"] if has_worst else []
    for scores in sets:
        line = [scores["set"], str(scores["photos"])]
        line += [f"{scores['psnr'][row]:.2f}" if row in scores["psnr"] else "" for row in rows]
        for row in baselines:
            difference = scores.get("minus", {}).get(row)  # mean and limits of the interval, dB
            line.append("{:+.3f} [{:+.3f}, {:+.3f}]".format(*difference) if difference else "")
        if has_worst:
            line.append(f"{scores['worst']:+.2f}" if "worst" in scores else "")
        lines.append(line)
    return _table(lines)


def _label_free_table(evaluation: Mapping[str, Any]) -> str:
    """Returns a Markdown table of the mean label-free scores, a line per test set and row; "" if there are none."""
    lines: list[list[str]] = []
    for test_set in evaluation["sets"]:
        for row, scores in test_set.get("label_free", {}).items():
            lines = lines or [["set", "row", *scores]]
            numbers = [f"{scores[column]:.3f}" if column in scores else "" for column in lines[0][2:]]
            lines.append([test_set["set"], row, *numbers])
    return f"Without ground truth, mean per photo:\n\n{_table(lines, text=2)}" if lines else ""


def _table(lines: Sequence[Sequence[str]], text: int = 1) -> str:
    """Returns a Markdown table; the first line is the heading, columns from index `text` on are numbers."""
    heading, *rest = ("| " + " | ".join(_text(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)
    return "\n".join([heading, f"|{'---|' * text}{'---:|' * (len(lines[0]) - text)}", *rest])


def _objective(training: Mapping[str, Any]) -> str:
    """Returns the name of a record's objective for the card, with a link to the paper for the paper's objective."""
    from ..objectives.registry import OBJECTIVES

    name, _ = recorded_objective(training["options"])
    title = OBJECTIVES[name].title if name in OBJECTIVES else _text(name)
    return f"{title} ([Noise-DA]({PAPER}))" if name == "noise_space" else title


def _adaptation(training: Mapping[str, Any]) -> str:
    """Returns what adapted the weights of a record to real photos: the objective, or fitted pairs if supervised."""
    supervised = recorded_objective(training["options"])[0] == "supervised"
    return "synthetic pairs that were fitted to them" if supervised else _objective(training)


def millions(count: int) -> str:
    """Returns a parameter count in short form: "2.1 M"."""
    return f"{count / 1e6:.1f} M" if count >= 50_000 else str(count)


def stored_as(network: Network) -> str:
    """Returns the dtypes of a network's files, named as in torch."""
    return ", ".join(_DTYPES[dtype] for dtype in network.dtypes if dtype in _DTYPES) or "integers"


def _text(value: Any) -> str:
    """Returns a value from a file as one line of text, with HTML escaped."""
    return " ".join(str(value).split()).replace("<", "&lt;")
