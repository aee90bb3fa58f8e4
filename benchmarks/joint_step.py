"""Our joint step against the plain reading of the method: seconds, peak memory, images per second.

    python benchmarks/joint_step.py [--sizes tiny small paper] [--threads 2] [--report benchmarks/results/joint_step.md]
    python benchmarks/joint_step.py --devices cuda --report outputs/joint_step_cuda.md

On CUDA it is the official size, batch 24, patch 128, against the card's bf16 peak.

A step is forward, backward and optimizer. The plain reading restores synthetic and real photos and predicts positive
and negative in a pass each, in float32, through diffusers' and PyTorch's layers as they are, with Adam by default. Each
row of a table takes turns with it, step by step, in a process of its own, whose peak memory is the row's. Ours runs
as the trainer runs it; on CUDA in bfloat16, channels last, with a fused optimizer, compiled. There the rows follow one
another in one process, ours twice: not compiled first, since compiling takes most of the time.

Where other programs share the machine, read the processor seconds: they count this step's work alone.

Reference, measured once with the official implementation on 2 cores in float32, without the optimizer: about 15 s and
5.5 GB (paper, batch 2, patch 128).
"""

import argparse
import multiprocessing
import re
import resource
import statistics
import time
from collections.abc import Callable, Iterator

import common
import torch
from torch.utils.flop_counter import FlopCounterMode

from daa_diffusers import DAAUNet2DConditionModel, FastRestorationUNet, NoiseSpaceAdaptation, RestorationUNet
from daa_diffusers.files import write_text
from daa_diffusers.objectives.base import Batch
from daa_diffusers.objectives.schedules import NoiseDraws, NoiseSchedule
from daa_diffusers.training.allocator import keep_freed_memory
from daa_diffusers.training.config import TrainingConfig
from daa_diffusers.training.setup import build_optimizer, prepare_networks

REFERENCE_SECONDS, REFERENCE_GB = 15.0, 5.5
SIZES = {"tiny": (8, 64), "small": (8, 64), "paper": (2, 128)}  # preset: batch, patch
EFFICIENT = {"tiny": "fast-tiny", "small": "fast-small", "paper": "fast"}
CUDA_SIZE = ("paper", 24, 128)
CUDA_STEPS = 10  # of one measurement
PLAIN, OURS, UNCOMPILED = "plain reading", "ours", "ours, not compiled"
ROWS: dict[str, dict[str, bool]] = {
    OURS: {},
    "bfloat16": {"mixed": True},
    "efficient restorer": {"efficient": True},
    "efficient restorer, bfloat16": {"efficient": True, "mixed": True},
    "separate passes": {"separate_passes": True},
    "checkpointing": {"gradient_checkpointing": True},
    "both": {"separate_passes": True, "gradient_checkpointing": True},
}
# dense bfloat16 TFLOP/s by the makers' data sheets; the first name that the card's holds
PEAK_TFLOPS = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "RTX 4090": 165,
    "RTX 3090": 71,
}


class PlainNoisePredictor(DAAUNet2DConditionModel):
    """The same network without the savings."""

    def _speed_up(self) -> None:
        pass


def plain_loss(restorer, unet, synthetic, clean, real, draws: NoiseDraws, weight: float = 0.2) -> torch.Tensor:
    """docs/method.md, "One joint training step", literally; images (B, 3, H, W)."""
    s, q = restorer(synthetic), restorer(real)  # 1
    g = draws.noise_level.view(-1, 1, 1, 1)
    z = g.sqrt() * clean + (1 - g).sqrt() * draws.noise  # (1)
    swap, swap_negative = draws.swap.view(-1, 1, 1, 1), draws.swap_negative.view(-1, 1, 1, 1)
    conditions = [torch.where(swap, q, s), torch.where(swap, s, q)]
    positive = unet(torch.cat([z, *conditions], 1), draws.noise_level, swap=torch.zeros_like(draws.swap)).sample  # (2)
    s_negative, q_negative = synthetic + (q - real), real + (s - synthetic)
    conditions = [
        torch.where(swap_negative, q_negative, s_negative),
        torch.where(swap_negative, s_negative, q_negative),
    ]
    negative = unet(torch.cat([z, *conditions], 1), draws.noise_level, swap=torch.zeros_like(draws.swap)).sample  # (3)
    l_positive, l_negative = ((draws.noise - predicted).square().mean() for predicted in (positive, negative))
    l_noise = (l_positive + torch.relu(l_positive - l_negative + 0.1)) / 2  # (4)
    l_pair = ((s - clean).square() + 1e-6).sqrt().mean()  # (5)
    return l_pair + weight * l_noise  # (6)


def build_step(row: str, preset: str, batch: int, patch: int, device: torch.device) -> Callable[[], None]:
    """A whole step of the row, on random images."""
    torch.manual_seed(0)
    options = ROWS.get(row, {})
    restorer: torch.nn.Module = RestorationUNet.from_preset(preset)
    if options.get("efficient"):
        restorer = FastRestorationUNet.from_preset(EFFICIENT[preset])
    unet = (PlainNoisePredictor if row == PLAIN else DAAUNet2DConditionModel).from_preset(preset)
    model = NoiseSpaceAdaptation(restorer, unet).train().to(device)
    images = [torch.rand(batch, 3, patch, patch, device=device) for _ in range(3)]
    draws = NoiseSchedule().draw(images[0].shape).to(device)
    optimizer: torch.optim.Optimizer
    if row == PLAIN:
        for module in restorer.modules():
            if isinstance(module, torch.nn.LeakyReLU):
                module.inplace = False
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

        def loss() -> torch.Tensor:
            return plain_loss(restorer, unet, *images, draws)

    else:
        on_cuda = device.type == "cuda"
        mixed = on_cuda or options.get("mixed", False)
        model.separate_passes = options.get("separate_passes", False)
        checkpointing = options.get("gradient_checkpointing", False)
        config = TrainingConfig(gradient_checkpointing=checkpointing, compile=on_cuda and row != UNCOMPILED)
        if on_cuda:  # on CPUs, the noise predictor is slower this way
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            images = [image.contiguous(memory_format=torch.channels_last) for image in images]
        else:
            keep_freed_memory()
        model = prepare_networks(config, model)
        optimizer = build_optimizer(config, model, device)

        def loss() -> torch.Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                return model(Batch(*images), draws=draws).loss

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def work(pipe, row: str, preset: str, batch: int, patch: int, threads: int) -> None:
    """A process: as often as it is asked, it takes a step and answers its seconds and its peak memory."""
    torch.set_num_threads(threads)
    step = build_step(row, preset, batch, patch, torch.device("cpu"))
    step()  # allocators
    pipe.send(None)
    while pipe.recv():
        wall, processor = time.perf_counter(), time.process_time()
        step()
        answer = {"seconds": time.perf_counter() - wall, "processor": time.process_time() - processor}
        answer["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        pipe.send(answer)


def compare(row: str, size: tuple[str, int, int], threads: int, repeats: int) -> dict[str, list[dict]]:
    """`repeats` answers of the plain reading and of the row, by turns."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in (PLAIN, row):
        pipes[name], other = context.Pipe()
        processes.append(context.Process(target=work, args=(other, name, *size, threads), daemon=True))
        processes[-1].start()
        other.close()  # so that a worker that fails ends our waiting
        pipes[name].recv()  # one at a time
    answers: dict[str, list[dict]] = {name: [] for name in pipes}
    for _ in range(repeats):
        for name, pipe in pipes.items():
            pipe.send(True)
            answers[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    for process in processes:
        process.join()  # its memory is free for the next row
    return answers


def ratios(answers: dict[str, list[dict]], row: str, key: str) -> str:
    """How many times the row's speed is the plain reading's: median, and the range over the turns."""
    each = [plain[key] / ours[key] for plain, ours in zip(answers[PLAIN], answers[row], strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


def cpu_table(arguments: argparse.Namespace) -> list[str]:
    lines = [
        "| size | row | seconds, median (min) | processor s, median | times the plain reading's speed | "
        "by processor s | peak GB |",
        "|---|---|---|---|---|---|---|",
    ]
    references: list[str] = []
    for preset in arguments.sizes:
        batch, patch = arguments.batch or SIZES[preset][0], arguments.patch or SIZES[preset][1]
        for row in arguments.rows:
            answers = compare(row, (preset, batch, patch), arguments.threads, arguments.repeats)
            for name in (PLAIN, row) if row == arguments.rows[0] else (row,):
                seconds = [a["seconds"] for a in answers[name]]
                processor = statistics.median(a["processor"] for a in answers[name])
                gigabytes = answers[name][-1]["gigabytes"]
                speed = [ratios(answers, row, key) if name == row else "1" for key in ("seconds", "processor")]
                lines.append(
                    f"| {preset}, {batch} x {patch} px | {name} "
                    f"| {statistics.median(seconds):.2f} ({min(seconds):.2f}) | {processor:.2f} "
                    f"| {speed[0]} | {speed[1]} | {gigabytes:.2f} |"
                )
                print(lines[-1], flush=True)
                if name != PLAIN and (preset, batch, patch) == ("paper", 2, 128):
                    references.append(
                        f"- {name}: joint step at the official size {min(seconds):.1f} s "
                        f"({min(seconds) / REFERENCE_SECONDS:.2f} of the reference on 2 cores), {gigabytes:.1f} GB "
                        f"({gigabytes / REFERENCE_GB:.2f} of the reference)"
                    )
                    print(references[-1])
    return lines + ["", *references] if references else lines


def peak_tflops(card: str) -> float | None:
    """The bf16 peak of a card by its name; None where it is unknown."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if re.search(rf"\b{name}\b", card)), None)


def operations(step: Callable[[], None]) -> float:
    """Of a step, by its products; of one that is not compiled, which hides them."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def measured(step: Callable[[], None], repeats: int, device: torch.device) -> tuple[list[float], float, float]:
    """Seconds a step, `repeats` times; the seconds that the first three took, and the peak of gigabytes after them."""
    start = time.perf_counter()
    for _ in range(3):  # allocators, compilation
        step()
    synchronize(device)
    warm = time.perf_counter() - start
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(CUDA_STEPS):
            step()
        synchronize(device)
        seconds.append((time.perf_counter() - start) / CUDA_STEPS)
    return seconds, warm, torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def cuda_rows(size: tuple[str, int, int], device: torch.device, peak: float | None, repeats: int) -> Iterator[str]:
    """Each row's line of the table, when it is measured."""
    plain, flops = 0.0, 0.0
    for name in (PLAIN, UNCOMPILED, OURS):
        step = build_step(name, *size, device)
        if name == UNCOMPILED:
            flops = operations(step)
        seconds, warm, gigabytes = measured(step, repeats, device)
        del step  # its memory is free for the next row
        median = statistics.median(seconds)
        plain = plain or median
        share = "" if name == PLAIN or not peak else f"{flops / median / peak / 1e10:.1f}"
        spread = f"{size[1] / max(seconds):.1f} to {size[1] / min(seconds):.1f}"
        speed = f"{size[1] / median:.1f} ({spread}) | {plain / median:.2f}"
        yield f"| {name} | {speed} | {share} | {gigabytes:.1f} | {warm:.1f} |"


def cuda_table(arguments: argparse.Namespace) -> Iterator[list[str]]:
    """The lines of the table, after each row that is measured."""
    preset, batch, patch = CUDA_SIZE
    title = f"{preset}, batch {batch}, patch {patch}; bfloat16, channels last, fused Adam against float32"
    if not torch.cuda.is_available() or "cuda" not in arguments.devices:
        known = arguments.report.read_text() if arguments.report is not None and arguments.report.exists() else ""
        missing = f"{title}: not measured (`python benchmarks/joint_step.py --devices cuda`)."
        yield [known.partition("## CUDA\n\n")[2].strip() or missing]  # what another run measured stays
        return
    card = torch.cuda.get_device_name()
    peak = arguments.peak_tflops or peak_tflops(card)
    lines = [f"{title}; {card}, dense bf16 peak {peak or 'unknown'} TFLOP/s.", ""]
    lines += ["| row | images/s, median (range) | times the plain reading's speed | % of the bf16 peak | peak GB | "]
    lines[-1] += "first three steps, s |"
    lines += ["|---|---|---|---|---|---|"]
    for line in cuda_rows(CUDA_SIZE, torch.device("cuda"), peak, arguments.repeats):
        lines.append(line)
        print(line, flush=True)
        yield lines


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.parser(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--devices", nargs="+", choices=("cpu", "cuda"), default=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, help="instead of the sizes' own, on the CPU")
    parser.add_argument("--patch", type=int, help="instead of the sizes' own, on the CPU")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak_tflops", type=float, help="bf16 peak of a card that the table here lacks")
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse()
    cpu = cpu_table(arguments) if "cpu" in arguments.devices else ["Not measured."]
    for cuda in cuda_table(arguments):  # each row is written when it is measured
        if arguments.report is not None:
            write_report(arguments, cpu, cuda)
    print(cuda[0])


def write_report(arguments: argparse.Namespace, cpu: list[str], cuda: list[str]) -> None:
    text = [
        "# The joint step against the plain reading of the method",
        f"`{common.command(__file__)}`",
        common.machine(),
        f"{arguments.threads} thread(s), on the CPU float32 except where a row says bfloat16, {arguments.repeats} "
        "measurements of each row by turns after one to warm up. The efficient restorer is `FastRestorationUNet` "
        f"({', '.join(EFFICIENT.values())}) in place of `RestorationUNet`.",
        "Wall-clock seconds hold other programs' share of the machine; processor seconds do not.",
        "## CPU",
        "\n".join(cpu),
        "## CUDA",
        "\n".join(cuda),
    ]
    write_text(arguments.report, "\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
