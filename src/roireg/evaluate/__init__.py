"""Metrics in millimetres and the HTML report, on plain core values."""

from roireg.evaluate.deformation import (
    deformation_summary,
    displacement_errors,
    inverse_consistency,
    jacobian_slabs,
    overlap_mask,
    sd_log_jacobian,
)
from roireg.evaluate.metrics import (
    CATALOGUE,
    LabelScores,
    MetricValue,
    centroid_errors,
    dice,
    landmark_errors,
    metric,
    score_labels,
    score_moved_labels,
    summarise_errors,
    surface_distances,
)
from roireg.evaluate.report import render_report
from roireg.evaluate.report_input import ReportInput
from roireg.evaluate.score import Scores, Truth, score, worsened
from roireg.evaluate.similarity import similarity

__all__ = [
    "CATALOGUE",
    "LabelScores",
    "MetricValue",
    "ReportInput",
    "Scores",
    "Truth",
    "centroid_errors",
    "deformation_summary",
    "dice",
    "displacement_errors",
    "inverse_consistency",
    "jacobian_slabs",
    "landmark_errors",
    "metric",
    "overlap_mask",
    "render_report",
    "score",
    "score_labels",
    "score_moved_labels",
    "sd_log_jacobian",
    "similarity",
    "summarise_errors",
    "surface_distances",
    "worsened",
]
