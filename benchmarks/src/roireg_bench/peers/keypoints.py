"""Peers for 2D: OpenCV's SIFT or ORB keypoints, and a homography by RANSAC."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.transforms import Transform
from roireg_bench.peers.base import Peer, field_from_points, gray_array
from roireg_bench.protocol import Modality

__all__ = ["KeypointPeer"]


@dataclass(frozen=True)
class KeypointPeer(Peer):
    """SIFT (Lowe, IJCV 60(2), 2004) or ORB (Rublee et al., ICCV 2011), as OpenCV's tutorials use them.

    Nearest neighbours that pass the ratio test, then a homography by RANSAC, written as a displacement field. Gray
    values that are not 8 bit are stretched between two percentiles.

    Attributes
    ----------
    detector : "sift" or "orb", each with the defaults of OpenCV.
    ratio : the nearest neighbour must be nearer than this share of the distance to the second one.
    least : matches without which the tutorials give up.
    reach : of an inlier, pixels of the moving image.
    percentiles : that become 0 and 255.
    """

    name: str = "sift"
    detector: Literal["sift", "orb"] = "sift"
    ratio: float = 0.7
    least: int = 10
    reach: float = 5.0
    percentiles: tuple[float, float] = (0.5, 99.5)
    seed: int = 1
    package: ClassVar[str] = "opencv-python-headless"
    modules: ClassVar[tuple[str, ...]] = ("cv2",)
    dimensions: ClassVar[tuple[int, ...]] = (2,)

    def register(self, fixed: Image, moving: Image, modality: Modality, folder: Path) -> Transform:
        """Return the field of the homography.

        Raises
        ------
        InputError
            When there are fewer than `least` matches, or RANSAC finds none.
        """
        import cv2
        import torch

        cv2.setNumThreads(torch.get_num_threads())
        cv2.setRNGSeed(self.seed)
        sift = self.detector == "sift"
        detector = cv2.SIFT.create() if sift else cv2.ORB.create()
        matcher = cv2.BFMatcher(cv2.NORM_L2 if sift else cv2.NORM_HAMMING)
        (points, descriptors), (others, candidates) = (
            detector.detectAndCompute(self._bytes(image), None) for image in (fixed, moving)
        )
        matches = []
        if descriptors is not None and candidates is not None:
            pairs = [pair for pair in matcher.knnMatch(descriptors, candidates, k=2) if len(pair) == 2]
            matches = [first for first, second in pairs if first.distance < self.ratio * second.distance]
        if len(matches) < self.least:
            raise InputError(f"found {len(matches)} keypoint matches, expected at least {self.least}")
        source = np.array([points[match.queryIdx].pt for match in matches], dtype=np.float64)
        target = np.array([others[match.trainIdx].pt for match in matches], dtype=np.float64)
        matrix, _ = cv2.findHomography(source, target, cv2.RANSAC, self.reach)
        if matrix is None:
            raise InputError(f"RANSAC found no homography among {len(matches)} keypoint matches")
        # Pixels of OpenCV are (column, row).
        pixels = np.indices(fixed.grid.shape).reshape(2, -1)[::-1].T.astype(np.float64)
        mapped = np.column_stack([pixels, np.ones(len(pixels))]) @ matrix.T
        index = mapped[:, 1::-1] / mapped[:, 2:]
        return field_from_points(fixed.grid, moving.grid.world_from_index(index))

    def _bytes(self, image: Image) -> NDArray[np.uint8]:
        values = gray_array(image)
        low, high = (0.0, 255.0) if image.dtype == "uint8" else np.percentile(values, self.percentiles)
        stretched = (values - low) / max(high - low, 1e-12) * 255
        return np.asarray(np.round(np.clip(stretched, 0, 255)), dtype=np.uint8)
