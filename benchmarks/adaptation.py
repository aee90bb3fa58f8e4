"""Does adaptation help, by how much, and against what? Every method under one trainer, one restorer, one budget.

    python benchmarks/adaptation.py --seeds 3 --jobs 2                 # the three sets of real noise, all rows
    python benchmarks/adaptation.py --domains rain100l levin --rows control adapted
    python benchmarks/adaptation.py --domains renoir --rows ablation

Domains, rows and what they share stand in `adaptation_plan.py`. Adaptation reads the unlabeled photos of a domain's
training part; `val` is measured. A row that was trained and measured before with the same options is not done again,
an interrupted one resumes: the command may be stopped and repeated at any time. The scores of rows are kept with
the project (`--scores`), so a clone has what was measured; runs are not (`--output_dir`). All rows asked for that are
there go into the report: Markdown, CSV of every photo, and plots beside it. `--only-report` trains nothing.
"""

import argparse
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import common
import torch
from adaptation_plan import ABLATION, CAMERA, COMMON, DOMAINS, MAIN, NETWORKS, ONCE_BUNDLED, ROWS, STARTS, Domain, Row

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.evaluation import evaluate_folder
from daa_diffusers.files import write_text
from daa_diffusers.hub.resolving import resolve as locate
from daa_diffusers.models.restorer import RestorerContract
from daa_diffusers.objectives.registry import OBJECTIVES, objective_class, with_defaults
from daa_diffusers.training import setup
from daa_diffusers.training.choosing import METHODS, choice, choose
from daa_diffusers.training.config import TrainingConfig, resolve
from daa_diffusers.training.run_state import list_checkpoints, load_average

ALL_ROWS = {**ROWS, **ABLATION}
IDENTITY = "identity"


@dataclass(frozen=True)
class Task:
    """A row of a domain with one seed."""

    domain: str
    row: str
    seed: int
    folder: Path
    scores: Path
    """Per-photo scores and seconds, written when all is done."""
    options: dict[str, Any]


def start_of(domain: Domain) -> str:
    """The checkpoint to start from: a bundled name, or a folder or file seen from the project's root."""
    start = STARTS[domain.start]
    return str(common.ROOT / start) if "/" in start else start


def plan(arguments: argparse.Namespace, name: str, row_name: str, seed: int) -> Task:
    """The training of one row; its folder is named by a digest of the start and of all that decides what is learned."""
    domain, row, data = DOMAINS[name], ALL_ROWS[row_name], Path(arguments.data)
    options = {
        **COMMON,
        "steps": arguments.steps,
        **options_of(domain, row),
        **row.options,
        "init_from": start_of(domain),
        "seed": seed,
    }
    if row.options.get("predictor_warmup_steps"):
        options["predictor_warmup_steps"] = arguments.steps // 3
    if row.oracle and domain.oracle:
        options["paired_degraded"], options["paired_clean"] = ([str(data / folder)] for folder in domain.oracle)
        options["clean_scale"] = [1.0, 1.0]
    else:
        options["clean"] = [str(data / folder) for folder in domain.clean]
        options["degradation"] = domain.degradation
    if row.photos:
        options["real"] = [str(data / domain.real)]
    if domain.fits != "noise":  # and restored photos that still rain would teach to leave the rain
        options |= {"fit_noise": 0.0, "pseudo_clean": row.options.get("pseudo_clean", False)}
    if "transplant" in row.options:
        options["transplant_kind"] = domain.transplant
    if row_name == "adapted":
        options |= domain.adapted
    if row.chosen:
        options["degradation"] = CAMERA
        options |= METHODS[method_chosen(measured_choice(arguments, name, options))]
    if options.get("variant") == "extended":
        options["unpaired_clean"] = options["clean"]
    # a start that was bundled when its rows were measured, or that lies outside of the project, counts by its name
    by_name = domain.start in ONCE_BUNDLED or STARTS[domain.start].startswith(str(NETWORKS))
    named = {**options, "init_from": domain.start} if by_name else options
    learned = json.dumps(what_differs(named), sort_keys=True).replace(str(data), "").replace(str(common.ROOT), "")
    digest = _digest((learned + fingerprint_of_start(arguments, domain)).encode())
    run = f"{slug(row_name)}-{seed}-{digest}"
    folder = Path(arguments.output_dir) / name / run
    scores = arguments.scores / name / f"{run}.json"
    return Task(name, row_name, seed, folder, scores, {**options, "output_dir": str(folder)})


def options_of(domain: Domain, row: Row) -> dict[str, Any]:
    """Training options of a domain, without those of a noise predictor where the row's objective has none."""
    takes = objective_class(row.options.get("objective", "noise_space")).defaults()
    of_others = {option for objective in OBJECTIVES.values() for option in objective.defaults()} - set(takes)
    return {key: value for key, value in domain.options.items() if key not in of_others}


def measured_choice(arguments: argparse.Namespace, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """What `daa adapt` measures for its choice in a domain with a seed, and its "method"; kept with the scores."""
    cache = arguments.scores / "chosen.json"
    known = json.loads(cache.read_text()) if cache.exists() else {}
    key = f"{name} {fingerprint_of_start(arguments, DOMAINS[name])} {options['seed']}"
    if key not in known:
        config = resolve(options)
        restorer = setup.build_restorer(config)
        channels = RestorerContract.of(restorer).channels
        made = choose(config, setup.Inputs(restorer, setup.open_all_sources(config, channels)))
        known[key] = {"method": made.method, **made.measured}
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_text(cache, json.dumps(known, indent=1, sort_keys=True) + "\n")
    return known[key]


def method_chosen(found: dict[str, Any]) -> str:
    """The method that follows from a `measured_choice` by today's rule."""
    return choice(found).method if "neighbors" in found else found["method"]


def what_differs(options: dict[str, Any]) -> dict[str, Any]:
    """Resolved options that decide what is learned and are not the default, those of the objective beside the others.

    Only these count for a digest, so that a new option of training or of an objective changes none.
    """
    resolved, defaults = resolve(options).identity(), asdict(TrainingConfig())
    objective, usual = resolved.pop("objective"), defaults.pop("objective")
    differs = {key: value for key, value in resolved.items() if value != defaults[key]}
    if objective["type"] != usual["type"]:
        usual = with_defaults({"type": objective["type"]})
        differs["objective"] = objective["type"]
    return {**differs, **{key: value for key, value in objective.items() if value != usual[key]}}


def work(task: Task, arguments: argparse.Namespace) -> None:
    """Trains and measures one row in processes of their own; nothing where that is done."""
    if task.scores.exists():
        return
    try:
        seconds = common.train(task.folder, task.options)
    except RuntimeError as error:
        print(f"{task.domain} {task.row} {task.seed}: {error}", flush=True)
        return
    scores = measure(arguments, task.domain, str(task.folder / "pipeline"))
    main = scores[DOMAINS[task.domain].evaluation["metrics"][0]]
    steps = along(arguments, task) if task.seed == 0 else {}
    steps[task.options["steps"]] = round(sum(main) / len(main), 4)
    task.scores.parent.mkdir(parents=True, exist_ok=True)
    write_text(task.scores, json.dumps({**scores, "s": round(seconds), "steps": steps}) + "\n")
    print(f"{task.domain}, {task.row}, seed {task.seed}: {seconds:.0f} s", flush=True)


def slug(row: str) -> str:
    """A row's name for files."""
    return "".join(c if c.isalnum() else "-" for c in row).strip("-")


def along(arguments: argparse.Namespace, task: Task) -> dict[int, float]:
    """Mean of the main metric by step, but the last: of each checkpoint's average, blended as the final weights are."""
    blend = resolve(task.options).blend
    found = {}
    for checkpoint in list_checkpoints(task.folder / "checkpoints"):
        step = json.loads((checkpoint / "state.json").read_text())["step"]
        if step == task.options["steps"]:
            continue
        pipeline = DAARestorationPipeline.from_pretrained(task.options["init_from"])
        load_average(checkpoint, pipeline.restorer, blend)
        scores = measure(arguments, task.domain, pipeline)[DOMAINS[task.domain].evaluation["metrics"][0]]
        found[step] = round(sum(scores) / len(scores), 4)
    return found


def measure(arguments: argparse.Namespace, name: str, checkpoint: Any) -> dict[str, Any]:
    """{"photos": names, metric: scores} on `val` of a checkpoint or pipeline, or of the untouched input for None."""
    domain, data = DOMAINS[name], Path(arguments.data)
    torch.set_num_threads(1)
    pipeline = DAARestorationPipeline.from_pretrained(checkpoint) if isinstance(checkpoint, str) else checkpoint
    restorers = {} if pipeline is None else {"row": pipeline.to("cuda" if torch.cuda.is_available() else "cpu")}
    result = evaluate_folder(restorers, *(data / folder for folder in domain.val), **domain.evaluation)
    row = result.rows[-1]
    scores = {c.name: [round(value, 5) for value in result.scores[row][c.name]] for c in result.columns}
    return {"photos": list(result.photos), **scores}


def fixed_rows(arguments: argparse.Namespace, name: str) -> dict[str, dict[str, Any]]:
    """Scores of what is not trained here: the untouched input, the start, a weak start's mark, others asked for."""
    domain = DOMAINS[name]
    rows: dict[str, tuple[str | None, str]] = {
        IDENTITY: (None, ""),
        "plain": (start_of(domain), fingerprint_of_start(arguments, domain)),
    }
    if domain.strongest:
        rows["strongest plain"] = (domain.strongest, _fingerprint(domain.strongest))
    rows |= {Path(extra).name: (extra, _fingerprint(extra)) for extra in arguments.also}
    cache = arguments.scores / name / "fixed.json"
    known = json.loads(cache.read_text()) if cache.exists() else {}
    for row, (checkpoint, fingerprint) in rows.items():
        key = f"{row} {fingerprint}"
        if key not in known:
            known[key] = measure(arguments, name, checkpoint)
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_text(cache, json.dumps(known) + "\n")
    return {row: known[f"{row} {fingerprint}"] for row, (_, fingerprint) in rows.items()}


def fingerprint_of_start(arguments: argparse.Namespace, domain: Domain) -> str:
    """Of the start's weights; of a start that is not there, as last seen: its rows can still be reported."""
    start, cache = start_of(domain), arguments.scores / "starts.json"
    known = json.loads(cache.read_text()) if cache.exists() else {}
    if start != domain.start and not Path(start).exists():
        if domain.start not in known:
            config = f"examples/configs/{Path(STARTS[domain.start]).parent.name}.yaml"
            raise SystemExit(
                f"{STARTS[domain.start]} is not there; train it first: examples/train_daa.py --config {config}"
            )
        return known[domain.start]
    found = _fingerprint(start)
    if known.get(domain.start) != found:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_text(cache, json.dumps({**known, domain.start: found}, indent=1, sort_keys=True) + "\n")
    return found


def _fingerprint(checkpoint: str | None) -> str:
    if checkpoint is None:
        return ""
    location = Path(locate(checkpoint).location)
    weights = [location] if location.is_file() else sorted(location.rglob("*.safetensors"))
    return _digest(b"".join(path.read_bytes() for path in weights))


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=5).hexdigest()


def tasks_of(arguments: argparse.Namespace) -> list[Task]:
    """All tasks that were asked for, the main rows' further seeds last."""
    tasks = []
    for seed in range(arguments.seeds):
        for row in arguments.rows:
            for name in arguments.domains:
                domain = DOMAINS[name]
                fits = ALL_ROWS[row].fits in (None, domain.fits) and (not ALL_ROWS[row].oracle or domain.oracle)
                if fits and (seed == 0 or row in MAIN):
                    tasks.append(plan(arguments, name, row, seed))
    return tasks


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.parser(__doc__, "adaptation.md", data=True)
    parser.add_argument("--domains", nargs="+", default=["renoir", "sidd_small", "polyu"], choices=list(DOMAINS))
    parser.add_argument(
        "--rows", nargs="+", default=list(ROWS), choices=[*ALL_ROWS, "ablation"], help="names; `ablation`: its rows"
    )
    parser.add_argument("--seeds", type=int, default=1, help=f"of {', '.join(MAIN)}; all others take one")
    parser.add_argument("--steps", type=int, default=COMMON["steps"])
    parser.add_argument("--jobs", type=int, default=1, help="rows trained at a time, one thread each")
    parser.add_argument("--also", nargs="*", default=[], help="further checkpoints to measure, such as daa-denoise")
    parser.add_argument("--output_dir", default="outputs/adaptation")
    parser.add_argument("--scores", type=Path, default=common.RESULTS / "adaptation")
    parser.add_argument("--only-report", action="store_true", help="train nothing, report the rows that are there")
    arguments = parser.parse_args(argv)
    arguments.rows = [r for row in arguments.rows for r in (ABLATION if row == "ablation" else [row])]
    if len({json.dumps(DOMAINS[name].options, sort_keys=True) for name in arguments.domains}) > 1:
        parser.error(
            "--domains of one report must have one budget: those named *_official are for a report of their own"
        )
    arguments.command = common.command(__file__, argv)
    return arguments


def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    from camera_photos import KINDS, make_photos

    for kind in {name.split("_")[0] for name in arguments.domains} & set(KINDS):
        make_photos(kind, Path(arguments.data))
    tasks = tasks_of(arguments)
    if not arguments.only_report:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(lambda task: work(task, arguments), tasks))
    from adaptation_report import write_report

    write_report(arguments, [task for task in tasks if task.scores.exists()], fixed_rows)


if __name__ == "__main__":
    main()
