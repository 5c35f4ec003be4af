"""Regions and features of two images in, region pairs and the geometry they agree on out."""

from roireg.match.assign import assign_greedy, assign_many, assign_mutual, assign_optimal, confidences
from roireg.match.candidates import RegionCandidates
from roireg.match.carry import Guide, Side
from roireg.match.evidence import Evidence
from roireg.match.geometry import GeometryOptions, Hypothesis, affine_hypotheses, pair_agreement
from roireg.match.keypoints import KeypointMap, keypoint_maps, network_points
from roireg.match.matcher import PUBLISHED, MatchOptions, match, match_classes, match_labels, region_similarity
from roireg.match.prototypes import prototypes, resize_masks
from roireg.match.similarity import (
    DescriptorWeights,
    RegionDescriptors,
    cosine_similarity,
    describe,
    descriptor_similarity,
)
from roireg.match.slices import SLICES, match_slices
from roireg.match.transfer import Transfer, transfer_prompt
from roireg.match.transfer_options import PROMPTREG, TransferOptions

__all__ = [
    "PROMPTREG",
    "PUBLISHED",
    "SLICES",
    "DescriptorWeights",
    "Evidence",
    "GeometryOptions",
    "Guide",
    "Hypothesis",
    "KeypointMap",
    "MatchOptions",
    "RegionCandidates",
    "RegionDescriptors",
    "Side",
    "Transfer",
    "TransferOptions",
    "affine_hypotheses",
    "assign_greedy",
    "assign_many",
    "assign_mutual",
    "assign_optimal",
    "confidences",
    "cosine_similarity",
    "describe",
    "descriptor_similarity",
    "keypoint_maps",
    "network_points",
    "match",
    "match_classes",
    "match_labels",
    "match_slices",
    "pair_agreement",
    "prototypes",
    "region_similarity",
    "resize_masks",
    "transfer_prompt",
]
