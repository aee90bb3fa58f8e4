"""Our joint step against the plain reading of the method: seconds, peak memory, images per second.

    python benchmarks/joint_step.py [--sizes tiny small paper] [--threads 2] [--report benchmarks/results/joint_step.md]
    python benchmarks/joint_step.py --devices cuda      # batch 24 at the official size, against the card's bf16 peak

A step is forward, backward and optimizer. The plain reading restores synthetic and real photos and predicts positive
and negative in a pass each, in float32, through diffusers' and PyTorch's layers as they are, with Adam by default. Each
row of a table takes turns with it, step by step, in a process of its own, whose peak memory is the row's. Ours runs
as the trainer runs it; on CUDA in bfloat16, channels last, compiled, with a fused optimizer.

Where other programs share the machine, read the processor seconds: they count this step's work alone.

Reference, measured once with the official implementation on 2 cores in float32, without the optimizer: about 15 s and
5.5 GB (paper, batch 2, patch 128).
"""

import argparse
import multiprocessing
import os
import re
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from daa_diffusers import DAAUNet2DConditionModel, NoiseSpaceAdaptation, RestorationUNet
from daa_diffusers.files import write_text
from daa_diffusers.objectives.base import Batch
from daa_diffusers.objectives.schedules import NoiseDraws, NoiseSchedule
from daa_diffusers.training.allocator import keep_freed_memory
from daa_diffusers.training.config import TrainingConfig
from daa_diffusers.training.setup import build_optimizer, prepare_networks

REFERENCE_SECONDS, REFERENCE_GB = 15.0, 5.5
SIZES = {"tiny": (8, 64), "small": (8, 64), "paper": (2, 128)}  # preset: batch, patch
CUDA_SIZE = ("paper", 24, 128)
PLAIN, OURS = "plain reading", "ours"
ROWS: dict[str, dict[str, bool]] = {
    OURS: {},
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
    restorer = RestorationUNet.from_preset(preset)
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
        model.separate_passes = ROWS[row].get("separate_passes", False)
        checkpointing = ROWS[row].get("gradient_checkpointing", False)
        config = TrainingConfig(gradient_checkpointing=checkpointing, compile=on_cuda)
        if on_cuda:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            images = [image.contiguous(memory_format=torch.channels_last) for image in images]
        else:
            keep_freed_memory()
        model = prepare_networks(config, model)
        optimizer = build_optimizer(config, model, device)

        def loss() -> torch.Tensor:
            with torch.autocast("cuda", torch.bfloat16, enabled=on_cuda):
                return model(Batch(*images), draws=draws).loss

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def work(pipe, row: str, preset: str, batch: int, patch: int, device_name: str, threads: int) -> None:
    """A process: as often as it is asked, it takes steps and answers seconds a step and its peak memory."""
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    on_cuda = device.type == "cuda"
    step = build_step(row, preset, batch, patch, device)
    answer: dict[str, float] = {}
    if on_cuda and row != PLAIN:  # compiled graphs hide their products from the counter
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
            step()
        answer["flops"] = counter.get_total_flops()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3 if on_cuda else 1):  # allocators, compilation
        step()
    pipe.send(answer)
    steps = 10 if on_cuda else 1
    while pipe.recv():
        if on_cuda:
            step()
            torch.cuda.synchronize()
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(steps):
            step()
        if on_cuda:
            torch.cuda.synchronize()
        answer["seconds"] = (time.perf_counter() - wall) / steps
        answer["processor"] = (time.process_time() - processor) / steps
        if on_cuda:
            answer["gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
            torch.cuda.empty_cache()  # for the other process
        else:
            answer["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        pipe.send(answer)


def compare(row: str, size: tuple[str, int, int], device: str, threads: int, repeats: int) -> dict[str, list[dict]]:
    """`repeats` answers of the plain reading and of the row, by turns."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in (PLAIN, row):
        pipes[name], other = context.Pipe()
        processes.append(context.Process(target=work, args=(other, name, *size, device, threads), daemon=True))
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
    reference = ""
    for preset in arguments.sizes:
        batch, patch = arguments.batch or SIZES[preset][0], arguments.patch or SIZES[preset][1]
        for row in arguments.rows:
            answers = compare(row, (preset, batch, patch), "cpu", arguments.threads, arguments.repeats)
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
                if (name, preset, batch, patch) == (OURS, "paper", 2, 128):
                    reference = (
                        f"joint step at the official size: {min(seconds):.1f} s "
                        f"({min(seconds) / REFERENCE_SECONDS:.2f} of the reference on 2 cores), {gigabytes:.1f} GB "
                        f"({gigabytes / REFERENCE_GB:.2f} of the reference)"
                    )
                    print(reference)
    return lines + ["", reference] if reference else lines


def peak_tflops(card: str) -> float | None:
    """The bf16 peak of a card by its name; None where it is unknown."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if re.search(rf"\b{name}\b", card)), None)


def cuda_table(arguments: argparse.Namespace) -> list[str]:
    preset, batch, patch = CUDA_SIZE
    title = f"{preset}, batch {batch}, patch {patch}; bfloat16, channels last, compiled, fused Adam against float32"
    if not torch.cuda.is_available() or "cuda" not in arguments.devices:
        return [f"{title}: not measured (`python benchmarks/joint_step.py --devices cuda`)."]
    card = torch.cuda.get_device_name()
    peak = arguments.peak_tflops or peak_tflops(card)
    answers = compare(OURS, CUDA_SIZE, "cuda", arguments.threads, arguments.repeats)
    lines = [f"{title}; {card}, bf16 peak {peak or 'unknown'} TFLOP/s.", ""]
    lines += ["| row | images/s, median | times the plain reading's speed | % of the bf16 peak | peak GB |"]
    lines += ["|---|---|---|---|---|"]
    for name, given in answers.items():
        seconds = statistics.median(a["seconds"] for a in given)
        share = "" if name == PLAIN or not peak else f"{given[-1]['flops'] / seconds / peak / 1e10:.0f}"
        speed = "1" if name == PLAIN else ratios(answers, name, "seconds")
        lines.append(f"| {name} | {batch / seconds:.1f} | {speed} | {share} | {given[-1]['gigabytes']:.1f} |")
        print(lines[-1], flush=True)
    return lines


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--devices", nargs="+", choices=("cpu", "cuda"), default=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, help="instead of the sizes' own, on the CPU")
    parser.add_argument("--patch", type=int, help="instead of the sizes' own, on the CPU")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak_tflops", type=float, help="bf16 peak of a card that the table here lacks")
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse()
    started = time.perf_counter()
    cpu = cpu_table(arguments) if "cpu" in arguments.devices else ["Not measured."]
    cuda = cuda_table(arguments)
    print(cuda[0])
    if arguments.report is None:
        return
    command = shlex.join(["python", "benchmarks/joint_step.py", *sys.argv[1:]])
    minutes = (time.perf_counter() - started) / 60
    text = [
        "# The joint step against the plain reading of the method",
        f"`{command}`: {arguments.threads} thread(s) of {os.cpu_count()} cores, float32 on the CPU, "
        f"{arguments.repeats} steps of each row by turns after one to warm up; torch {torch.__version__}; "
        f"{minutes:.0f} minutes.",
        "Wall-clock seconds hold other programs' share of the machine; processor seconds do not.",
        "## CPU",
        "\n".join(cpu),
        "## CUDA",
        "\n".join(cuda),
    ]
    write_text(arguments.report, "\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
