"""nnInteractive (Isensee et al. 2025, arXiv 2503.08373) on a server that the user has started.

Its weights may not be used commercially and its package needs its own environment, so that it never runs in this
process: the torch-free client sends the image once and prompts after it. Nothing is sent before `encode`.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor

from roireg.core.errors import InputError, OptionalDependencyError
from roireg.models.base import Embedding, MaskLogits, ModelCard
from roireg.models.family import Family
from roireg.models.remote import is_this_computer, require_allowed
from roireg.models.volumes import VolumeInput

__all__ = ["DEFAULT_ADDRESS", "FAMILY", "NNInteractive"]

CARD = ModelCard(
    name="nninteractive",
    family="nninteractive",
    hub_id=None,
    source="https://github.com/MIC-DKFZ/nnInteractive",
    files=(),
    code_licence="Apache-2.0",
    weights_licence="CC-BY-NC-SA-4.0",
    ndim=3,
    input_size=192,
    parameters=102.0,
    memory_mb=0,
    prompts=frozenset({"point", "box", "mask"}),
    notes="on a server that you start (nninteractive-server), where the image is sent; weights not for commerce",
    preprocessing=VolumeInput(spacing=None, patch=None),
)

DEFAULT_ADDRESS = "http://127.0.0.1:1527"
"""Where `nninteractive-server` listens unless told otherwise."""

INSIDE = 8.0
"""Logit of a voxel of the mask that a server returns, minus this outside."""

log = logging.getLogger(__name__)

T = TypeVar("T")


class NNInteractive:
    """An nnInteractive server as a promptable model; see `PromptableModel`.

    The whole image is used at its own resolution; there is one mask per prompt, its quality 1 because the server does
    not rate it. A lease that the server has ended (it does so after ten idle minutes) is renewed and the image sent
    again. The embedding is the raster itself; there are no dense features.

    Parameters
    ----------
    address : of the server, such as "http://127.0.0.1:1527".
        Other computers than this one have to be allowed first, see `roireg.models.remote.allow_remote`.
    api_key : what the server was started with; None takes the environment variable NN_INTERACTIVE_API_KEY.
    timeout : seconds to wait for one answer.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, *, api_key: str | None = None, timeout: float = 60.0) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{address!r} is no address of an nnInteractive server; give one like {DEFAULT_ADDRESS}")
        self._host = require_allowed(parts.hostname)
        self.card = CARD
        self.address = address.rstrip("/")
        self.key = f"nninteractive-{self.address}"
        self.encoded = 0
        assert isinstance(self.card.preprocessing, VolumeInput)
        self.volume = self.card.preprocessing
        self._api_key = api_key
        self._timeout = timeout
        self._remote, self._httpx = _client()
        self._session: Any = None
        self._shown: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where answers arrive; the server has its own device."""
        return torch.device("cpu")

    def encode(self, raster: Tensor) -> Embedding:
        """Send a (1 or 3, z, y, x) raster to the server.

        Raises
        ------
        InputError
            When no server answers, it is full, or it refuses.
        """
        data = raster.detach().float().cpu().mean(0, keepdim=True)
        self.encoded += 1
        self._ask(partial(self._show, data))
        shape = tuple(raster.shape[1:])
        return Embedding({"raster": data}, shape, np.ones(3), np.zeros(3), shape)

    def decode(
        self,
        embedding: Embedding,
        *,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = True,
    ) -> MaskLogits:
        """Answer P prompts one after another, one mask each; see `PromptableModel.decode`.

        Of a box the server takes one slice: the middle one along the first axis. A mask is a first guess.

        Raises
        ------
        InputError
            When there is no prompt, shapes do not fit, no server answers, or it refuses.
        """
        counts = [len(t) for t in (points, boxes, masks) if t is not None]
        if not counts or len(set(counts)) > 1 or (points is None) != (labels is None):
            raise InputError(
                f"{self.card.name} needs points with labels, boxes or masks, as many of each; found "
                f"{counts or 'none'}"
            )
        rows = _rows(counts[0], points, labels, boxes, masks)
        inside = torch.stack([self._ask(partial(self._answer, embedding, *row)) for row in rows])
        logits = torch.where(inside, INSIDE, -INSIDE)[:, None]
        return MaskLogits(logits, torch.ones(logits.shape[:2]))

    def upscale(self, logits: Tensor, embedding: Embedding) -> Tensor:
        """Return the logits: they are at the resolution of the raster."""
        return logits

    def close(self) -> None:
        """Give the place on the server back; the next prompt takes a new one."""
        if self._session is not None:
            self._session.close()
        self._session = self._shown = None

    def _show(self, data: Tensor) -> Any:
        """Return the session, opened where needed, with an image on the server."""
        if self._session is None:
            self._session = self._open()
        if self._shown is not data:
            self._session.set_image(data.numpy())
            self._session.set_target_buffer(np.zeros(tuple(data.shape[1:]), dtype=np.uint8))
            self._shown = data
        return self._session

    def _open(self) -> Any:
        if not is_this_computer(self._host):
            log.warning("images are sent to %s", self._host)
        try:
            return self._remote.nnInteractiveRemoteInferenceSession(
                self.address, api_key=self._api_key, read_timeout=self._timeout
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"what answers at {self.address} is no nnInteractive server of version 2 ({error!r}); "
                "check the address"
            ) from error

    def _answer(
        self,
        embedding: Embedding,
        points: list[tuple[list[int], bool]],
        box: list[list[int]] | None,
        mask: np.ndarray[Any, np.dtype[np.uint8]] | None,
    ) -> Tensor:
        """(*shape) bool mask for one prompt."""
        session = self._show(embedding.tensors["raster"])
        session.reset_interactions()
        if mask is not None:
            session.add_initial_seg_interaction(mask, run_prediction=not points and box is None)
        if box is not None:
            session.add_bbox_interaction(_inside(box, embedding.shape), True, run_prediction=not points)
        for k, (place, positive) in enumerate(points):
            limits = [int(np.clip(v, 0, n - 1)) for v, n in zip(place, embedding.shape, strict=True)]
            session.add_point_interaction(limits, positive, run_prediction=k == len(points) - 1)
        return torch.from_numpy(session.target_buffer > 0)

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask the server, again after a lost lease, and turn what goes wrong into a sentence."""
        errors, remote = self._httpx, self._remote
        try:
            try:
                return question()
            except remote.SessionExpiredError:
                self.close()
                return question()
        except errors.HTTPStatusError as error:
            status = error.response.status_code
            if status in (401, 403):
                raise InputError(
                    f"the nnInteractive server at {self.address} wants another API key; set NN_INTERACTIVE_API_KEY "
                    "to the one it was started with"
                ) from error
            raise InputError(
                f"the nnInteractive server at {self.address} refused ({status}: "
                f"{error.response.text[:200].strip()}); see its log, or choose another model"
            ) from error
        except errors.TimeoutException as error:
            raise InputError(
                f"the nnInteractive server at {self.address} gave no answer in time; see whether it is busy, or use "
                "a smaller image"
            ) from error
        except errors.HTTPError as error:
            raise InputError(
                f"no nnInteractive server answers at {self.address} ({error}); start one with "
                "`nninteractive-server --model-dir FOLDER`, or give its address"
            ) from error
        except (remote.ServerAtCapacityError, remote.SessionExpiredError) as error:
            raise InputError(
                f"the nnInteractive server at {self.address} has no free place ({error}); close another program that "
                "uses it, or start it with a larger --max-sessions"
            ) from error


def _client() -> tuple[Any, Any]:
    """Return the two modules of the client that are used here: its session, and the HTTP library."""
    try:
        return importlib.import_module("nnInteractive.inference.remote"), importlib.import_module("httpx")
    except ModuleNotFoundError as error:
        raise OptionalDependencyError(
            "nninteractive needs its client; run pip install nninteractive-client"
        ) from error


def _rows(
    count: int, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, masks: Tensor | None
) -> list[tuple[list[tuple[list[int], bool]], list[list[int]] | None, Any]]:
    """Per prompt: its points as (voxel, inside), its box as [first, end] per axis, its mask."""
    rows = []
    for p in range(count):
        places: list[tuple[list[int], bool]] = []
        if points is not None and labels is not None:
            real = labels[p] >= 0
            voxels = points[p][real].round().long().tolist()
            places = list(zip(voxels, (labels[p][real] == 1).tolist(), strict=True))
        box = None
        if boxes is not None:
            low, high = boxes[p].detach().cpu().double().numpy()
            first, end = np.ceil(low), np.floor(high) + 1
            end = np.maximum(end, first + 1)
            middle = int((first[0] + end[0] - 1) // 2)
            box = [[middle, middle + 1], *([int(a), int(b)] for a, b in zip(first[1:], end[1:], strict=True))]
        mask = None if masks is None else (masks[p, 0] > 0).cpu().numpy().astype(np.uint8)
        if not places and box is None and mask is None:
            raise InputError("a prompt for nninteractive has no point with label 0 or 1; give at least one")
        rows.append((places, box, mask))
    return rows


def _inside(box: list[list[int]], shape: tuple[int, ...]) -> list[list[int]]:
    """Clip [first, end] per axis to the raster; at least one voxel stays."""
    clipped = []
    for (first, end), n in zip(box, shape, strict=True):
        low = min(max(first, 0), n - 1)
        clipped.append([low, max(min(end, n), low + 1)])
    return clipped


FAMILY = Family(name="nninteractive", title="nnInteractive", cards=(CARD,), connect=NNInteractive)
