"""Train a restorer on synthetic pairs, or adapt one to a folder of your own unlabeled photos.

    accelerate launch examples/train_daa.py --init_from daa-denoise --clean clean_photos/ --real my_photos/ \
        --output_dir outputs/mine --minutes 30

`--help` lists all options; `--dry-run` prints the resolved options and the required memory and time. The same command
resumes an interrupted run, bit for bit on a CPU (`--verify-resume 20` checks this on your machine).

Exit status: 0: success; 2: invalid options or photos; 3: no trained weights restore better than --init_from, whose
weights are saved unchanged; 128 plus the signal number: interrupted.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from daa_diffusers.cli import process
from daa_diffusers.cli.lean import lean_diffusers
from daa_diffusers.errors import CheckpointError, ConfigurationError

if TYPE_CHECKING:
    from daa_diffusers.training.config import TrainingConfig

WITHOUT_TRAINING = {"--dry_run", "--dry-run", "--help", "-h"}  # hence without torch.compile, see `lean_diffusers`


def main(arguments: list[str] | None = None) -> int:
    begun = process.begun() if arguments is None else None
    return process.run(lambda: _status(arguments, begun), is_last=arguments is None)


def _status(arguments: list[str] | None, begun: float | None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    process.let_waiting_threads_sleep()
    if arguments is None and WITHOUT_TRAINING & set(sys.argv):
        lean_diffusers()
    from daa_diffusers.training.config import parse_arguments

    try:
        return run(parse_arguments(arguments), begun)
    except (ConfigurationError, CheckpointError, FloatingPointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(config: TrainingConfig, begun: float | None = None) -> int:
    if config.dry_run:
        from daa_diffusers.training.planning import describe

        print(describe(config))
        return 0
    if config.verify_resume:
        from daa_diffusers.training.verification import verify_resume

        differences = verify_resume(config)
        print("\n".join(differences) or f"{config.verify_resume} steps give identical bits if interrupted half-way")
        return 1 if differences else 0
    from accelerate import PartialState

    from daa_diffusers.training.loop import train
    from daa_diffusers.training.pushing import check_push, push_result
    from daa_diffusers.training.result import START_KEPT
    from daa_diffusers.training.summary import print_summary

    repo_id = check_push(config)
    result = train(config, begun=begun)
    if PartialState().is_main_process:
        if result.signal is not None:
            print(f"interrupted after step {result.steps}, which is saved; run the same command to resume")
        else:
            print_summary(result)
            print(f'the pipeline: DAARestorationPipeline.from_pretrained("{result.pipeline}")')
            if result.start_kept:
                pushed = "; nothing is pushed" if repo_id is not None else ""
                print(f"no trained weights restore better than --init_from, whose weights are in the pipeline{pushed}")
            elif repo_id is not None:
                print(f"pushed: {push_result(config, repo_id)}")
    if result.start_kept:
        return START_KEPT
    return 0 if result.signal is None else 128 + result.signal


if __name__ == "__main__":
    sys.exit(main())
