"""Turns a finished run into a bundled checkpoint: the pipeline in half precision, and how it was made beside it.

python examples/bundle_checkpoint.py outputs/daa-denoise-plain-2 daa-denoise-plain
"""

import argparse
import json
from pathlib import Path

import torch

from daa_diffusers import DAARestorationPipeline

CHECKPOINTS = Path(__file__).resolve().parents[1] / "daa_diffusers" / "checkpoints"
NOTE = (
    "Weights trained on research-only photos: for non-commercial research use only. The code that made them is under "
    "Apache-2.0."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of a finished run of train_daa.py")
    parser.add_argument("name", help="name of the bundled checkpoint")
    parser.add_argument("--folder", type=Path, default=CHECKPOINTS, help="where bundled checkpoints lie")
    arguments = parser.parse_args()
    record = json.loads((arguments.run / "run.json").read_text())
    pipeline = DAARestorationPipeline.from_pretrained(arguments.run / "pipeline")
    pipeline.to(torch.float16).save_pretrained(arguments.folder / arguments.name)
    # folders by their last three parts: what they are, not where they lay on the machine that trained
    options = {
        name: ["/".join(Path(folder).parts[-3:]) for folder in value] if name in ("clean", "real") else value
        for name, value in record["options"].items()
    }
    start = Path(str(options.get("init_from")))
    if start.name == "pipeline":  # a run: by its own name
        options["init_from"] = start.parent.name
    made = {"licence": NOTE, "steps": record["steps"], "options": options, "photos": record["photos"]}
    made["versions"] = record["versions"]
    (arguments.folder / arguments.name / "training.json").write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
