"""Candidate regions of an image, regions that a prompt asks for, and label maps as regions."""

from roireg.segment.base import (
    Prepared,
    PreparedRegions,
    PromptableImage,
    Segmenter,
    as_promptable,
    available_segmenters,
    make_segmenter,
    register_segmenter,
)
from roireg.segment.classes import ClassSegmenter, CommandSegmenter
from roireg.segment.everything import EverythingOptions
from roireg.segment.filters import RegionFilter, filter_regions
from roireg.segment.hierarchy import Hierarchy, HierarchySegmenter
from roireg.segment.labels import LabelSegmenter
from roireg.segment.model3d import Model3DSegmenter
from roireg.segment.networks import model_segmenter
from roireg.segment.promptable import ModelSegmenter
from roireg.segment.volumes import SlicedVolume, SliceSegmenter
from roireg.segment.working import working_grid

__all__ = [
    "ClassSegmenter",
    "CommandSegmenter",
    "EverythingOptions",
    "Hierarchy",
    "HierarchySegmenter",
    "LabelSegmenter",
    "Model3DSegmenter",
    "ModelSegmenter",
    "Prepared",
    "PreparedRegions",
    "PromptableImage",
    "RegionFilter",
    "Segmenter",
    "SliceSegmenter",
    "SlicedVolume",
    "available_segmenters",
    "filter_regions",
    "make_segmenter",
    "model_segmenter",
    "as_promptable",
    "register_segmenter",
    "working_grid",
]

register_segmenter("hierarchy", HierarchySegmenter)
register_segmenter("model", model_segmenter)
