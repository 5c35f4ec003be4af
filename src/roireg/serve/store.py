"""Unfinished work on disk: what a person decided is there again after the server was stopped or killed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roireg.core.errors import RoiregError
from roireg.core.files import atomic_path
from roireg.io import read_pairs, sha256_of, write_pairs
from roireg.serve.board import Board, Landmark, board_pairs, roi_pairs

if TYPE_CHECKING:
    from roireg.serve.session import PairSession

__all__ = ["Store", "default_folder"]

log = logging.getLogger(__name__)

DELAY = 1.0
"""Seconds after a decision before it is on disk."""


def default_folder() -> Path:
    """Return where unfinished work is kept: below the state folder of the user."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "roireg" / "viewer"


class Store:
    """The decisions of one session in a file of its own, known by the content of both images.

    Parameters
    ----------
    file : the .zip of pairs; a .json of the same name has numbers, landmarks and actions.
    session : whose decisions are kept.
    """

    def __init__(self, file: Path, session: PairSession) -> None:
        self.file, self.session = file, session
        self._timer: threading.Timer | None = None
        self._writing = threading.Lock()
        self._kept: Board | None = None

    @classmethod
    def of(cls, folder: Path, session: PairSession, result: str = "") -> Store:
        """Return the place for a pair of images, or for a stored result of them by its stamp."""
        text = "".join(sha256_of(path) for path in (session.job.fixed, session.job.moving)) + result
        return cls(folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.zip", session)

    def restore(self) -> bool:
        """Take decisions of an earlier run into the session; return whether there were any."""
        record = self.file.with_suffix(".json")
        if not record.is_file():
            return False
        session = self.session
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
            grids = session.grids["fixed"], session.grids["moving"]
            pairs = board_pairs(read_pairs(self.file), grids) if content["numbers"] else []
            numbered = [
                replace(p, number=int(number), edited=bool(edited))
                for p, number, edited in zip(pairs, content["numbers"], content["edited"], strict=True)
            ]
            marks = tuple(
                Landmark(int(m["number"]), str(m["name"]), _place(m["fixed"]), _place(m["moving"]))
                for m in content["landmarks"]
            )
            own = session.board
            there = {p.number for p in numbered}
            proposed = [p for p in own.chosen("proposed") if p.number not in there]
            pairs = sorted([*numbered, *proposed], key=lambda p: p.number)
            board = Board(tuple(pairs), marks, max(int(content["used"]), own.used))
        except (OSError, ValueError, LookupError, TypeError, RoiregError) as error:
            log.warning("%s: earlier work could not be read and is left there (%s)", record, error)
            return False
        if not (board.pairs or board.landmarks):
            return False
        decided = len(board.chosen("accepted", "rejected"))
        session.history.change(board, "restore", pairs=len(board.pairs), landmarks=len(marks))
        session.note = (
            f"Your earlier work on these images is here again: {decided} decided pairs, {len(marks)} landmarks. "
            "Undo takes it away."
        )
        self._kept = board
        return True

    def wanted(self) -> None:
        """Write the decisions a moment from now."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(DELAY, self.flush)
        self._timer.daemon = True
        self._timer.start()

    def flush(self) -> None:
        """Write the decisions now, if they changed."""
        if self._timer is not None:
            self._timer.cancel()
        with self._writing:
            session = self.session
            board = session.board
            if board is self._kept or (self._kept is None and not (board.pairs or board.landmarks)):
                return
            # Proposals are made again by a fit; what a person has said is not.
            pairs = [p for p in board.pairs if p.status != "proposed" or p.edited]
            content: dict[str, Any] = {
                "numbers": [p.number for p in pairs],
                "edited": [p.edited for p in pairs],
                "used": board.used,
                "landmarks": [
                    {"number": m.number, "name": m.name, "fixed": m.fixed, "moving": m.moving}
                    for m in board.landmarks
                ],
            }
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                if pairs:
                    write_pairs(self.file, roi_pairs(pairs, (session.grids["fixed"], session.grids["moving"])))
                with atomic_path(self.file.with_suffix(".json")) as temporary:
                    temporary.write_text(json.dumps(content), encoding="utf-8")
            except (OSError, RoiregError) as error:
                log.warning("%s: unfinished work could not be kept (%s)", self.file, error)
                return
            self._kept = board


def _place(value: Any) -> tuple[float, ...] | None:
    return None if value is None else tuple(float(v) for v in value)
