"""Candidate regions of an image, regions that a prompt asks for, and label maps as regions."""

from roireg.segment.base import (
    PromptableSegmenter,
    Segmenter,
    available_segmenters,
    make_segmenter,
    register_segmenter,
)
from roireg.segment.everything import EverythingOptions
from roireg.segment.filters import PUBLISHED_FILTER, RegionFilter, filter_regions
from roireg.segment.hierarchy import Hierarchy, HierarchySegmenter
from roireg.segment.labels import LabelReport, LabelSegmenter, compare_classes
from roireg.segment.networks import model_segmenter
from roireg.segment.promptable import ModelSegmenter
from roireg.segment.volumes import SliceSegmenter
from roireg.segment.working import working_grid

__all__ = [
    "PUBLISHED_FILTER",
    "EverythingOptions",
    "Hierarchy",
    "HierarchySegmenter",
    "LabelReport",
    "LabelSegmenter",
    "ModelSegmenter",
    "PromptableSegmenter",
    "RegionFilter",
    "Segmenter",
    "SliceSegmenter",
    "available_segmenters",
    "compare_classes",
    "filter_regions",
    "make_segmenter",
    "model_segmenter",
    "register_segmenter",
    "working_grid",
]

register_segmenter("hierarchy", HierarchySegmenter)
register_segmenter("model", model_segmenter)
