"""What the parts of a step of renoised self-distillation cost: loading, noise, the teacher's two passes, its average.

    python benchmarks/renoised_step.py     # a minute; writes benchmarks/results/renoised_step.md

A step of `daa adapt` (preset `adapt`, from `daa-denoise`) trains on synthetic and on real photos; the teacher restores
the real ones twice, without gradients. Parts take turns; seconds are of the processor. Loading is of cached photos, in
the process that trains, as the trainer does it for folders that fit its cache.
"""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import common
import torch
from loader import samples_per_second  # beside this file

from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.objectives.losses import charbonnier
from daa_diffusers.objectives.renoised import Renoised
from daa_diffusers.sources.demo_photos import demo_photos
from daa_diffusers.training import setup
from daa_diffusers.training.allocator import keep_freed_memory
from daa_diffusers.training.config import TrainingConfig, resolve


def parts(config: TrainingConfig) -> dict[str, Callable[[], object]]:
    """The parts of a step on random images, by name, in the order in which they are computed."""
    step = Renoised(setup.build_restorer(config)).train()
    step.teacher.eval()
    optimizer = setup.build_optimizer(config, step)
    synthetic, clean, real = (torch.rand(config.batch_size, 3, config.patch, config.patch) for _ in range(3))
    generators = [torch.Generator().manual_seed(number) for number in range(config.batch_size)]

    def trains(photos: torch.Tensor) -> Callable[[], None]:
        return lambda: charbonnier(step.restorer(photos), clean).backward()

    @torch.no_grad()
    def teacher() -> None:
        step.teacher(step.teacher(real))

    return {
        "draws of the added noise": lambda: step.draw_noise(real, generators),
        "teacher: two passes over real photos": teacher,
        "restorer: synthetic photos, with gradients": trains(synthetic),
        "restorer: real photos, with gradients": trains(real),
        "optimizer": optimizer.step,
        "average of the teacher": lambda: step.after_step(400),
    }


def main() -> None:
    parser = common.parser(__doc__, "renoised_step.md")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--samples", type=int, default=120, help="that are loaded")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as the trainer does
    config = resolve({"preset": "adapt", "init_from": "daa-denoise"})
    with tempfile.TemporaryDirectory() as folder:
        photos = demo_photos(Path(folder))
        kind = "folder, cached"
        specs = {"clean": {kind: str(photos.clean)}, "real": {kind: str(photos.real_train_noisy)}}
        loading = config.batch_size / samples_per_second(kind, specs, config, arguments.samples, 0)
    made, spent = parts(config), {"loading and degrading": [loading]}
    for turn in range(arguments.repeats + 1):
        for name, part in made.items():
            seconds = common.timed(part)[1]
            if turn:  # the first warms up
                spent.setdefault(name, []).append(seconds)
    medians = {name: statistics.median(seconds) for name, seconds in spent.items()}
    whole = sum(medians.values())
    rows = [
        {"part": name, "ms": f"{1000 * median:.1f}", "% of the step": f"{100 * median / whole:.1f}"}
        for name, median in medians.items()
    ]
    common.publish(
        arguments.report,
        "# A step of renoised self-distillation by its parts",
        f"`{common.command(__file__)}`",
        common.machine(),
        f"`daa-denoise`, batch {config.batch_size}, patch {config.patch}, {arguments.threads} thread(s); medians of "
        f"{arguments.repeats} turns.",
        markdown_table(rows),
    )


if __name__ == "__main__":
    main()
