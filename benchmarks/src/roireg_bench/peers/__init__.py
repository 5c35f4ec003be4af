"""Methods of other packages that users would pick instead, each with its documented settings."""

from __future__ import annotations

from collections.abc import Callable

from roireg_bench.peers.ants import AntsPeer
from roireg_bench.peers.base import Peer
from roireg_bench.peers.bspline import BSplinePeer
from roireg_bench.peers.convexadam import ConvexAdamPeer
from roireg_bench.peers.deeds import DeedsPeer
from roireg_bench.peers.demons import DemonsPeer
from roireg_bench.peers.elastix import ElastixPeer
from roireg_bench.peers.fireants import FireAntsPeer
from roireg_bench.peers.flow import FlowPeer
from roireg_bench.peers.greedy import GreedyPeer
from roireg_bench.peers.keypoints import KeypointPeer
from roireg_bench.peers.niftyreg import NiftyRegPeer

__all__ = ["PEERS", "Peer"]

PEERS: dict[str, Callable[[], Peer]] = {
    "demons": DemonsPeer,
    "sitk-bspline": BSplinePeer,
    "ants-syn": lambda: AntsPeer("ants-syn"),
    "ants-syn-quick": lambda: AntsPeer("ants-syn-quick", quick=True),
    "elastix": ElastixPeer,
    "greedy": GreedyPeer,
    "convexadam": ConvexAdamPeer,
    "fireants": FireAntsPeer,
    "niftyreg": NiftyRegPeer,
    "deeds": DeedsPeer,
    "sift": lambda: KeypointPeer("sift", detector="sift"),
    "orb": lambda: KeypointPeer("orb", detector="orb"),
    "ilk": lambda: FlowPeer("ilk", algorithm="ilk"),
    "tvl1": lambda: FlowPeer("tvl1", algorithm="tvl1"),
}
"""Name -> how to make the peer."""
