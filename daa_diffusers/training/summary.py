"""Summary table at the end of a run."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..files import printable
from .log import duration_text
from .result import TrainingResult


def summary_table(result: TrainingResult) -> Table:
    """Returns a table of a run's result."""
    table = Table(title="the run", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")  # paths are one word, however long

    def row(name: str, values: dict[str, float], digits: int) -> None:
        if values:
            table.add_row(name, "  ".join(f"{k} {v:.{digits}f}" for k, v in values.items()))

    table.add_row("steps", f"{result.steps}" + (f", {result.skipped_steps} skipped" if result.skipped_steps else ""))
    table.add_row("time of this call", duration_text(result.seconds))
    row("last losses", result.losses, 4)
    row("validation", result.validation, 3)
    row("health", result.health, 3)
    if result.returns:
        table.add_row("reverted", f"{result.returns} times, with a lower learning rate", style="yellow")
    if result.kept_step is not None:
        table.add_row("weights kept", kept_text(result), style="red")
    for alarm in result.alarms:
        table.add_row("alarm", Text(alarm), style="red")
    if result.best:
        table.add_row("weights kept", f"of step {result.best['step']}, score {result.best['score']:.3f}")
    for role, skipped in result.skipped_photos.items():
        table.add_row(f"skipped photos of {role}", _some(skipped), style="yellow")
    if result.pipeline:
        table.add_row("pipeline", Text(f'DAARestorationPipeline.from_pretrained("{result.pipeline}")'))
    return table


def print_summary(result: TrainingResult, console: Console | None = None) -> None:
    """Prints `summary_table`; narrow terminals wrap the lines."""
    (console or Console(soft_wrap=True)).print(summary_table(result))


def kept_text(result: TrainingResult) -> str:
    """Describes the saved weights of a run whose last weights were worse than the initial ones."""
    worse = "far" if result.rise is None else f"{result.rise:.2f} dB"
    kept = f"of step {result.kept_step}" if result.kept_step else "the initial ones, unchanged"
    return f"{kept}: with the last weights, held-out synthetic photos are {worse} worse than with the initial ones"


def _some(skipped: dict[str, str], most: int = 5) -> Text:
    """Returns one line per photo, for the first `most` photos."""
    lines = [printable(f"{name}: {reason}") for name, reason in list(skipped.items())[:most]]
    if len(skipped) > most:
        lines.append(f"and {len(skipped) - most} more, see run.json")
    return Text("\n".join(lines))  # Text: names are not parsed as markup
