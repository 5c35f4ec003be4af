"""Every peer is run rightly: files in, files out, and what it returns is read in the right direction.

How well a peer registers is its own affair. Its result of a large motion, between grids that differ in everything,
must only fit the truth better than it would with a convention mistaken.
"""

from __future__ import annotations

import numpy as np
import pytest

from bench.peer_scenes import Several, misreadings, scene, write_scene
from roireg_bench.isolation import run_isolated
from roireg_bench.peers.ants import AntsPeer
from roireg_bench.peers.base import package_version
from roireg_bench.peers.bspline import BSplinePeer
from roireg_bench.peers.convexadam import ConvexAdamPeer
from roireg_bench.peers.demons import DemonsPeer
from roireg_bench.peers.elastix import ElastixPeer
from roireg_bench.peers.fireants import FireAntsPeer
from roireg_bench.peers.flow import FlowPeer
from roireg_bench.peers.greedy import GreedyPeer
from roireg_bench.peers.keypoints import KeypointPeer
from roireg_bench.scoring import load_transforms

QUICK = AntsPeer("quick", quick=True)
SPLINE = BSplinePeer(samples=2000, affine_steps=30, steps=3, mesh=2)
FIRE = FireAntsPeer(scales=(2,), affine_steps=(50,), affine_rate=0.1, greedy_steps=(20,))

# Fewer steps than in a benchmark where a peer would take long; the geometry is the same. The runs of a row share a
# process, since some libraries take long to load.
CASES = {
    "demons": [(DemonsPeer(), 2, "mono"), (DemonsPeer(), 3, "mono")],
    "sitk-bspline": [(SPLINE, 2, "mono"), (SPLINE, 3, "mono")],
    "ants": [(AntsPeer("syn"), 2, "mono"), (AntsPeer("syn"), 2, "multi"), (QUICK, 3, "mono")],
    "elastix": [(ElastixPeer(resolutions=2, steps=20), d, "mono") for d in (2, 3)],
    "greedy": [(GreedyPeer(), 2, "multi"), (GreedyPeer(), 3, "mono")],
    "convexadam": [(ConvexAdamPeer(selected_niter=20), 3, "mono")],
    "fireants": [(FIRE, 2, "multi"), (FIRE, 3, "mono")],
    "keypoints": [
        (KeypointPeer("sift", detector="sift", least=4), 2, "mono"),
        (KeypointPeer("orb", detector="orb", least=4), 2, "mono"),
    ],
    "flow": [
        (FlowPeer("ilk", algorithm="ilk"), 2, "mono"),
        (FlowPeer("tvl1", algorithm="tvl1"), 2, "mono"),
    ],
}


@pytest.mark.parametrize("package", CASES)
def test_a_result_is_read_in_the_right_direction(tmp_path, package):
    runs = CASES[package]
    peer = runs[0][0]
    if package_version(peer.package) is None:
        pytest.skip(f"{peer.package} is not installed: {peer.install}")
    inputs = [write_scene(tmp_path / f"in{i}", ndim, modality) for i, (_, ndim, modality) in enumerate(runs)]
    out = tmp_path / "out"
    out.mkdir()
    outcome = run_isolated(Several(tuple(run[0] for run in runs), tuple(inputs)), inputs[0], out, threads=1)
    assert outcome.reason == ""
    for (_, ndim, _), file in zip(runs, outcome.output.files, strict=True):
        points = scene(ndim).points
        truth = scene(ndim).truth.map_points(points) - points
        displacement = load_transforms([file]).map_points(points) - points
        errors = {name: far_from(wrong, truth) for name, wrong in misreadings(displacement).items()}
        assert far_from(displacement, truth) < min(errors.values()), errors
    assert outcome.output.seconds > 0 and outcome.output.cpu_seconds > 0 and outcome.output.verdict == ""


def far_from(displacement: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(displacement - truth, axis=1).mean())


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_motion_of_the_scene_tells_all_misreadings_apart(ndim):
    points = scene(ndim).points
    truth = scene(ndim).truth.map_points(points) - points
    size = np.linalg.norm(truth, axis=1).mean()
    # A result may miss four tenths of the motion and still be told from every misreading of it.
    assert min(far_from(wrong, truth) for wrong in misreadings(truth).values()) > 0.8 * size
