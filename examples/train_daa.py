"""Train a restorer on synthetic pairs, or adapt one to a folder of your own unlabelled photos.

    accelerate launch examples/train_daa.py --init_from daa-denoise-plain --clean clean_photos/ --real my_photos/ \
        --output_dir outputs/mine --minutes 30

`--help` lists every option, `--dry_run` prints the resolved ones. The same command resumes an interrupted run.
"""

import logging
import sys

from daa_diffusers.errors import CheckpointError, ConfigurationError
from daa_diffusers.training.config import parse_arguments


def main(arguments: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        config = parse_arguments(arguments)
        if config.dry_run:
            from daa_diffusers.training.planning import describe

            print(describe(config))
            return 0
        from daa_diffusers.training.loop import train

        result = train(config)
    except (ConfigurationError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{result.steps} steps; last losses " + ", ".join(f"{k} {v:.4f}" for k, v in result.losses.items()))
    if result.validation:
        print("validation " + ", ".join(f"{k} {v:.3f}" for k, v in result.validation.items()))
    print(f'the pipeline: DAARestorationPipeline.from_pretrained("{result.pipeline}")')
    return 0


if __name__ == "__main__":
    sys.exit(main())
