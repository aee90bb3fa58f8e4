"""Measuring: scores against ground truth, intervals and differences of scores, contact sheets to look at."""

from .metrics import psnr, ssim
from .sheets import contact_sheet
from .statistics import PairedDifference, bootstrap_interval, gap_closed, markdown_table, paired_bootstrap

__all__ = [
    "PairedDifference",
    "bootstrap_interval",
    "contact_sheet",
    "gap_closed",
    "markdown_table",
    "paired_bootstrap",
    "psnr",
    "ssim",
]
