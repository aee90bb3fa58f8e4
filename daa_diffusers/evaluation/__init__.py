"""Evaluation on folders of photos: scores with and without ground truth, confidence intervals, contact sheets."""

from .folders import evaluate_folder
from .metrics import psnr, ssim
from .report import write_report
from .result import Evaluation
from .sheets import contact_sheet
from .shifted import psnr_shift
from .statistics import PairedDifference, bootstrap_interval, gap_closed, markdown_table, paired_bootstrap

__all__ = [
    "Evaluation",
    "PairedDifference",
    "bootstrap_interval",
    "contact_sheet",
    "evaluate_folder",
    "gap_closed",
    "markdown_table",
    "paired_bootstrap",
    "psnr",
    "psnr_shift",
    "ssim",
    "write_report",
]
