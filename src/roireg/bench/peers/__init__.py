"""Methods of other packages that users would pick instead, each with its documented settings."""

from __future__ import annotations

from collections.abc import Callable

from roireg.bench.peers.ants import AntsPeer
from roireg.bench.peers.base import Peer
from roireg.bench.peers.bspline import BSplinePeer
from roireg.bench.peers.convexadam import ConvexAdamPeer
from roireg.bench.peers.deeds import DeedsPeer
from roireg.bench.peers.demons import DemonsPeer
from roireg.bench.peers.elastix import ElastixPeer
from roireg.bench.peers.fireants import FireAntsPeer
from roireg.bench.peers.flow import FlowPeer
from roireg.bench.peers.greedy import GreedyPeer
from roireg.bench.peers.keypoints import KeypointPeer
from roireg.bench.peers.niftyreg import NiftyRegPeer

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
