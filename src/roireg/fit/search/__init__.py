"""Global search and refinement: from no knowledge at all to a map that is right to a fraction of a voxel."""

from roireg.fit.search.evidence import ALIKE, Evidence, evidence_of
from roireg.fit.search.options import SearchOptions
from roireg.fit.search.refine import Refined, refine
from roireg.fit.search.search import GlobalSearch, SearchCandidate, global_search

__all__ = [
    "ALIKE",
    "Evidence",
    "GlobalSearch",
    "Refined",
    "SearchCandidate",
    "SearchOptions",
    "evidence_of",
    "global_search",
    "refine",
]
