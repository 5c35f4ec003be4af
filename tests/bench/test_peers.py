"""Every peer finds a known motion between grids that differ in everything: no sign or axis order is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from bench.peer_scenes import Several, scene, write_scene
from roireg.bench.isolation import run_isolated
from roireg.bench.peers.ants import AntsPeer
from roireg.bench.peers.base import package_version
from roireg.bench.peers.bspline import BSplinePeer
from roireg.bench.peers.convexadam import ConvexAdamPeer
from roireg.bench.peers.demons import DemonsPeer
from roireg.bench.peers.elastix import ElastixPeer
from roireg.bench.peers.fireants import FireAntsPeer
from roireg.bench.peers.flow import FlowPeer
from roireg.bench.peers.greedy import GreedyPeer
from roireg.bench.peers.keypoints import KeypointPeer
from roireg.bench.scoring import load_transforms

QUICK = AntsPeer("quick", quick=True)
SPLINE = BSplinePeer(samples=2000, steps=10, mesh=2)
FIRE = FireAntsPeer(scales=(2,), affine_steps=(50,), affine_rate=0.1, greedy_steps=(20,))

# Fewer steps than in a benchmark where a peer would take long; the geometry is the same. The runs of a row share a
# process, since some libraries take long to load.
CASES = {
    "demons": [(DemonsPeer(), 2, "mono", 0.1), (DemonsPeer(), 3, "mono", 0.1)],
    "sitk-bspline": [(SPLINE, 2, "mono", 0.2), (SPLINE, 3, "mono", 0.3)],
    "ants": [(AntsPeer("syn"), 2, "mono", 0.1), (AntsPeer("syn"), 2, "multi", 0.1), (QUICK, 3, "mono", 0.15)],
    "elastix": [(ElastixPeer(resolutions=2, steps=40), d, "mono", 0.4) for d in (2, 3)],
    "greedy": [(GreedyPeer(), 2, "multi", 0.2), (GreedyPeer(), 3, "mono", 0.1)],
    "convexadam": [(ConvexAdamPeer(selected_niter=20), 3, "mono", 0.3)],
    "fireants": [(FIRE, 2, "multi", 0.4), (FIRE, 3, "mono", 0.4)],
    "keypoints": [
        (KeypointPeer("sift", detector="sift", least=4), 2, "mono", 0.3),
        (KeypointPeer("orb", detector="orb", least=4), 2, "mono", 0.6),
    ],
    "flow": [
        (FlowPeer("ilk", algorithm="ilk"), 2, "mono", 0.1),
        (FlowPeer("tvl1", algorithm="tvl1"), 2, "mono", 0.1),
    ],
}


def error(transform, ndim: int) -> tuple[float, float]:
    """Mean distance from the truth before and after, mm, inside the fixed image."""
    points = scene(ndim).points
    truth = scene(ndim).truth.map_points(points)
    return tuple(np.linalg.norm(p - truth, axis=1).mean() for p in (points, transform.map_points(points)))


@pytest.mark.parametrize("package", CASES)
def test_a_known_motion_is_found(tmp_path, package):
    runs = CASES[package]
    peer = runs[0][0]
    if package_version(peer.package) is None:
        pytest.skip(f"{peer.package} is not installed: {peer.install}")
    inputs = [write_scene(tmp_path / f"in{i}", ndim, modality) for i, (_, ndim, modality, _) in enumerate(runs)]
    out = tmp_path / "out"
    out.mkdir()
    outcome = run_isolated(Several(tuple(run[0] for run in runs), tuple(inputs)), inputs[0], out, threads=1)
    assert outcome.reason == ""
    for (_, ndim, _, left), file in zip(runs, outcome.output.files, strict=True):
        before, after = error(load_transforms([file]), ndim)
        assert after < left * before
    assert outcome.output.seconds > 0 and outcome.output.cpu_seconds > 0 and outcome.output.verdict == ""
