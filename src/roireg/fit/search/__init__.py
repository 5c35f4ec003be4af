"""Global search and refinement: from nothing known to a map that holds to a part of a voxel."""

from roireg.fit.search.evidence import Evidence, evidence_of
from roireg.fit.search.options import SearchOptions
from roireg.fit.search.refine import Refined, refine
from roireg.fit.search.search import GlobalSearch, SearchCandidate, global_search

__all__ = [
    "Evidence",
    "GlobalSearch",
    "Refined",
    "SearchCandidate",
    "SearchOptions",
    "evidence_of",
    "global_search",
    "refine",
]
