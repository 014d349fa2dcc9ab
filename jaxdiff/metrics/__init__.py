"""Figures of merit: of sets of samples, of restored pictures, and of samples of one answer. All in float64, NumPy.

features    frechet_distance and Moments for streams, kernel_distance, precision_recall, density_coverage,
            nearest_distance, vendi
pictures    psnr, ssim
ensembles   crps
"""

from jaxdiff.metrics.ensembles import crps
from jaxdiff.metrics.features import density_coverage, nearest_distance, precision_recall
from jaxdiff.metrics.frechet import Moments, frechet_distance
from jaxdiff.metrics.kernels import kernel_distance, vendi
from jaxdiff.metrics.pictures import psnr, ssim

__all__ = [
    "Moments",
    "crps",
    "density_coverage",
    "frechet_distance",
    "kernel_distance",
    "nearest_distance",
    "precision_recall",
    "psnr",
    "ssim",
    "vendi",
]
