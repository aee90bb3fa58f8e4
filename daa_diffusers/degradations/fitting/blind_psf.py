"""Estimation of the point spread function (PSF) of one shaken photo, without ground truth."""

import math

import torch
import torch.nn.functional as F

LEAST_SIDE = 5  # pixels; the PSF of the coarsest scale has this side or two pixels more
SCALE = 2**0.5  # ratio of the sides of the photo at neighboring scales
ROUNDS = 5  # alternations between photo and PSF at each scale
# Penalty for each pixel with nonzero derivatives: its first value, divisor per round, and least value
EDGE_PENALTY, PENALTY_DECAY, LEAST_PENALTY = 4e-3, 1.1, 1e-4
COUPLING_GROWTH = 2.0  # factor per step of the coupling of the edges to the photo's derivatives
MOST_COUPLING = 1e5
PSF_WEIGHT = 2.0  # weight of the squared norm of the PSF
FAINT = 0.05  # share of the PSF's maximum below which pixels are set to zero
LEAST_LIGHT = 1e-2  # least sum of the clipped PSF, about 1 for photos with edges; below it, the PSF is a point
ISOLATED = 0.1  # share of the light; connected pixels that hold less are set to zero

Spectra = tuple[torch.Tensor, torch.Tensor]  # of the filters of the derivatives to the right and downward, (H, W/2 + 1)


def estimate_psf(photo: torch.Tensor, side: int) -> torch.Tensor:
    """Estimates the blur of a photo that is blurred equally everywhere.

    From coarse to fine, two problems are solved in turn: the sharp photo, given the PSF, with as few nonzero
    derivatives as possible, and the PSF, given the derivatives of that photo, by least squares. The method is that of
    Xu, Zheng and Jia, "Unnatural L0 sparse representation for natural image deblurring" (2013), with the splitting and
    the constants of Pan et al., "Deblurring text images via L0-regularized intensity and gradient prior" (2014).

    Args:
        photo: gray photo (H, W) in [0, 1].
        side: odd side of the PSF in pixels; must hold the whole blur.

    Returns:
        The PSF (side, side), non-negative, with sum 1 and its center of mass within half a pixel of the center unless
        light is lost at the border.
    """
    scales = max(1, math.floor(math.log(side / LEAST_SIDE) / math.log(SCALE)))
    psf, weight = None, EDGE_PENALTY
    for scale in range(scales, -1, -1):
        factor = SCALE**-scale
        size = [round(factor * length) for length in photo.shape]
        smaller = F.interpolate(photo[None, None], size, mode="bilinear", antialias=True)[0, 0] if scale else photo
        width = math.ceil(factor * side) // 2 * 2 + 1
        if psf is None:  # a short horizontal line
            psf = photo.new_zeros(width, width)
            psf[width // 2, width // 2 : width // 2 + 2] = 0.5
        else:
            psf = F.interpolate(psf[None, None], (width, width), mode="bicubic")[0, 0].clamp(min=0)
            psf = _centered(psf / psf.sum())
        periodic = _periodic(smaller, width)
        derivatives = _derivatives(periodic)
        for _ in range(ROUNDS):
            psf = _fit_psf(periodic, _sharpened(periodic, psf, weight, derivatives), width, derivatives)
            weight = max(weight / PENALTY_DECAY, LEAST_PENALTY)
    assert psf is not None
    return psf


def _sharpened(photo: torch.Tensor, psf: torch.Tensor, weight: float, derivatives: Spectra) -> torch.Tensor:
    """Finds S (H, W) that minimizes `|S * psf - photo|^2 + weight * (number of pixels with nonzero derivatives)`.

    By half-quadratic splitting: the derivatives are coupled to a copy, the edges, from which small values are removed.
    """
    transfer, (right, down) = _transfer(psf, photo.shape), derivatives
    spectrum, coupling = torch.fft.rfft2(photo), 2 * weight
    target, power = transfer.conj() * spectrum, transfer.abs() ** 2
    roughness = right.abs() ** 2 + down.abs() ** 2
    while coupling < MOST_COUPLING:
        edges = torch.stack([_photo_of(right * spectrum, photo), _photo_of(down * spectrum, photo)])
        edges = torch.fft.rfft2(edges * ((edges**2).sum(0) >= weight / coupling))
        pulled = right.conj() * edges[0] + down.conj() * edges[1]
        spectrum = (target + coupling * pulled) / (power + coupling * roughness)
        coupling *= COUPLING_GROWTH
    return _photo_of(spectrum, photo)


def _fit_psf(photo: torch.Tensor, sharp: torch.Tensor, side: int, derivatives: Spectra) -> torch.Tensor:
    """Finds the PSF (side, side) by which the derivatives of `sharp` (H, W) become those of `photo`."""
    blurred, clear = torch.fft.rfft2(photo), torch.fft.rfft2(sharp)
    roughness = sum(step.abs() ** 2 for step in derivatives)
    psf = _photo_of(roughness * clear.conj() * blurred / (roughness * clear.abs() ** 2 + PSF_WEIGHT), photo)
    psf = psf.roll((side // 2, side // 2), (0, 1))[:side, :side].clamp(min=0)
    psf = torch.where(psf < FAINT * psf.max(), 0.0, psf)
    if psf.sum() < LEAST_LIGHT:
        psf[side // 2, side // 2] = 1
    return _centered(_without_isolated(psf / psf.sum()))


def _without_isolated(psf: torch.Tensor) -> torch.Tensor:
    """Zeroes groups of (also diagonally) connected pixels with less than `ISOLATED` of a PSF's light.

    The brightest group stays. The PSF has sum 1.
    """
    lit = psf > 0
    # each group gets the largest index of its pixels, plus one; 0: dark
    group, before = torch.arange(1, psf.numel() + 1, dtype=psf.dtype).view_as(psf) * lit, None
    while before is None or not torch.equal(group, before):
        group, before = F.max_pool2d(group[None, None], 3, 1, 1)[0, 0] * lit, group
    light = psf.new_zeros(psf.numel() + 1).index_add_(0, group.flatten().long(), psf.flatten())[group.long()]
    kept = light >= min(ISOLATED, light.max().item())
    return torch.where(kept, psf, 0.0)


def _derivatives(photo: torch.Tensor) -> Spectra:
    """Returns the Fourier transforms of the filters of a photo's derivatives to the right and downward."""
    right = photo.new_tensor([[1.0, -1.0, 0.0]])
    return _transfer(right, photo.shape), _transfer(right.T, photo.shape)


def _transfer(kernel: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Returns the Fourier transform, for photos of `size` (H, W), of a kernel of odd sides around its center."""
    padded = F.pad(kernel, (0, size[1] - kernel.shape[1], 0, size[0] - kernel.shape[0]))
    return torch.fft.rfft2(padded.roll((-(kernel.shape[0] // 2), -(kernel.shape[1] // 2)), (0, 1)))


def _photo_of(spectrum: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return torch.fft.irfft2(spectrum, s=like.shape)


def _periodic(photo: torch.Tensor, margin: int) -> torch.Tensor:
    """Appends `margin` rows and columns to a photo (H, W) that lead smoothly from its end back to its start."""
    share = torch.linspace(0, 1, margin + 2, dtype=photo.dtype)[1:-1]
    share = share**2 * (3 - 2 * share)
    for _ in range(2):
        after, before = photo[-margin:].flip(0), photo[:margin].flip(0)
        photo = torch.cat([photo, after + share[:, None] * (before - after)]).T
    return photo


def _centered(psf: torch.Tensor) -> torch.Tensor:
    """Moves the center of mass of a PSF of sum 1 to the center, by whole pixels; light beyond the border is lost."""
    at = torch.arange(len(psf), dtype=psf.dtype) - len(psf) // 2
    y, x = round(float((psf.sum(1) * at).sum())), round(float((psf.sum(0) * at).sum()))
    margin = max(abs(y), abs(x))
    padded = F.pad(psf, (margin,) * 4)
    psf = padded[margin + y : margin + y + len(psf), margin + x : margin + x + len(psf)]
    return psf / psf.sum()
