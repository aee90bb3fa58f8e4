"""`daa fit-noise`: a degradation file fitted to the noise of a folder of photos."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigurationError
from ..files import replacing
from .common import check_once, print_skipped, without_warnings

if TYPE_CHECKING:
    from ..degradations.fitting.noise import NoiseProfile

SHOWN = 10  # maximum number of skipped photos to print

app = typer.Typer(add_completion=False)


@app.command()
def fit_noise(
    photos: Annotated[list[str], typer.Argument(help="Folders of at least 3 noisy photos with similar noise.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The degradation file, .yaml or .json.")] = Path(
        "noise.yaml"
    ),
    plot: Annotated[Path | None, typer.Option(help="Plot of the fit, .png; needs matplotlib.")] = None,
    spread: Annotated[
        float,
        typer.Option(help="Factor that widens the range of noise levels at both ends."),
    ] = 1.25,
    mixed: Annotated[
        bool,
        typer.Option(
            help="Use camera or Gaussian noise in a third of the samples, to also restore photos with other noise."
        ),
    ] = False,
) -> None:
    """Estimate the noise of photos without ground truth, and write it as a degradation for training.

    Use the file as `degradation: noise.yaml` in a training config, or `--degradation noise.yaml`.
    """
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise ConfigurationError("`--plot` needs matplotlib: pip install 'daa-diffusers[train]'")
    from ..degradations.checks import check_number
    from ..degradations.config_files import check_degradation_path
    from ..degradations.fitted import SPREAD_BOUNDS
    from ..degradations.fitting.noise import fit_noise as fit

    check_once(photos, "photos")
    check_number("spread", spread, *SPREAD_BOUNDS)
    check_degradation_path(output)  # checked before the fit
    if plot is not None and (plot.suffix.lower() != ".png" or not plot.parent.is_dir()):
        raise ConfigurationError(f"`--plot` must be a .png file in an existing folder, got {str(plot)!r}")
    with without_warnings():  # skipped photos are printed below
        profile = fit(photos)
    typer.echo(profile.describe())
    print_skipped(profile.skipped, SHOWN, err=False)
    path = profile.save(output, spread=spread, mixed=mixed)
    typer.echo(f"written: {path}")
    if plot is not None:
        plot_profile(profile, plot)
        typer.echo(f"written: {plot}")


def plot_profile(profile: NoiseProfile, path: Path) -> None:
    """Writes a PNG plot of a profile: noise curves, noise levels of the photos, and correlation."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    noise = profile.degradation
    if noise is None:
        raise ConfigurationError("no noise to plot")
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    curves, levels, correlation = figure.subplots(1, 3)
    for color, values, counts in zip(("red", "green", "blue"), noise.deviation, profile.observed, strict=True):
        curves.plot(noise.brightness, values, color=color, alpha=0.5, linewidth=1)
        known = [k for k, count in enumerate(counts) if count]
        curves.plot([noise.brightness[k] for k in known], [values[k] for k in known], "o", color=color, markersize=4)
    curves.set(xlabel="brightness", ylabel="standard deviation (1/255)", ylim=(0, None), title="noise level")
    percent = [100 * k / (len(noise.level) - 1) for k in range(len(noise.level))]  # of the photos with a lower level
    levels.plot(percent, noise.level, "k")
    levels.set(xlabel="photos (%)", ylabel="level relative to the median photo", ylim=(0, None), title="photo levels")
    assert noise.correlation is not None
    green = noise.correlation[1]
    edge = len(green) / 2  # pixels from the center to the edge of the square
    image = correlation.imshow(green, cmap="RdBu_r", vmin=-1, vmax=1, extent=(-edge, edge, edge, -edge))
    correlation.set(xlabel="pixels to the right", ylabel="pixels down", title="correlation (green)")
    figure.colorbar(image, ax=correlation)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
