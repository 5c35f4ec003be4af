"""A server's application on small phantoms, with registrations that take a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from cheaper import UNJUDGED, keep_prepared
from roireg.fit import RegionAffine, Velocity
from roireg.io import write_image, write_labels
from roireg.pipeline import Config, PromptSession, Registration, register
from roireg.serve import fitting, session
from roireg.serve.api import make_app
from roireg.serve.exporting import ViewerJob
from roireg.serve.hub import Hub
from roireg.synth import SyntheticPair, as_raster, make_pair

TOKEN = "secret"
PATIENCE = 300
"""Seconds after which a session that gets nowhere hangs; it needs one, on a busy machine a hundred."""
SMALL = Velocity(levels=1, iterations=(8,), max_voxels=4000, checked=False)
CHEAP = Config(stages=(RegionAffine(), SMALL), verdict=UNJUDGED)


class Client:
    """Calls of one session as a page makes them; a refusal is a (status, sentence)."""

    def __init__(self, http: TestClient, name: str) -> None:
        self.http, self.name = http, name

    def __call__(self, method: str, path: str = "", body: Any = None) -> Any:
        answer = self.http.request(method, f"/api/sessions/{self.name}{path}", json=body)
        if answer.status_code >= 400:
            return answer.status_code, answer.json()["detail"]
        kind = answer.headers.get("content-type", "")
        return answer.json() if kind == "application/json" and answer.content else answer.content

    def until(self, ready: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Wait for the state of the session to be as wanted; who asks all the time takes the cores from the work."""
        end, pause = time.monotonic() + PATIENCE, 0.02
        while time.monotonic() < end:
            state = self("GET")
            if ready(state):
                return state
            time.sleep(pause)
            pause = min(1.3 * pause, 0.25)
        raise AssertionError(f"the session did not get there: {state['fitting']} {state['preparing']}")

    def prepared(self) -> dict[str, Any]:
        """Wait until clicks are answered and the images are linked."""
        return self.until(lambda s: s["ready"] and s["linked"] and s["preparing"]["state"] == "done")

    def fitted(self, kind: str = "full") -> dict[str, Any]:
        """Wait until a fit of a kind is done."""

        def done(state: dict[str, Any]) -> bool:
            task = state["fitting"]["task"]
            return task is not None and task["kind"] == kind and task["state"] != "running"

        return self.until(done)


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits that are quick; how good they are is tested elsewhere."""
    monkeypatch.setattr(session, "QUICK", CHEAP)
    monkeypatch.setattr(fitting, "REFIT", Config(stages=(SMALL,), verdict=UNJUDGED))
    monkeypatch.setattr(fitting, "with_settings", lambda job: CHEAP)
    monkeypatch.setattr(fitting, "QUIET", 0.01)
    keep_prepared(monkeypatch)


@pytest.fixture(scope="session")
def photos() -> SyntheticPair:
    return as_raster(
        make_pair(2, shape=(72, 96), max_displacement_mm=6, rotation_deg=1, translation_mm=6, scale=0.01, noise=2)
    )


@pytest.fixture(scope="session")
def volumes() -> SyntheticPair:
    return make_pair(
        3, shape=(16, 36, 48), max_displacement_mm=6, rotation_deg=1, translation_mm=3, scale=0.01, noise=2
    )


@pytest.fixture
def folder(tmp_path: Path, photos: SyntheticPair, volumes: SyntheticPair) -> Path:
    """Images and label maps of both pairs."""
    place = tmp_path / "scans"
    place.mkdir()
    for pair, kind in ((photos, ".png"), (volumes, ".nii.gz")):
        for side in ("fixed", "moving"):
            write_image(place / f"{side}{kind}", getattr(pair, side))
            write_labels(place / f"{side}_labels{kind}", getattr(pair, f"{side}_labels"))
    (tmp_path / "secret.png").write_bytes((place / "fixed.png").read_bytes())
    (tmp_path / "results").mkdir()
    return place


@pytest.fixture
def hub(tmp_path: Path, folder: Path) -> Iterator[Hub]:
    one = Hub([folder], tmp_path / "results", tmp_path / "kept")
    yield one
    for each in one.sessions.values():
        if each.preparing is not None:
            each.preparing.stop(wait=20)
    one.end()


@pytest.fixture
def http(hub: Hub) -> TestClient:
    client = TestClient(make_app(hub, TOKEN, largest_upload=100_000), base_url="http://127.0.0.1:8000")
    client.headers["authorization"] = f"Bearer {TOKEN}"
    return client


def opened(http: TestClient, kind: str = ".png") -> Client:
    """Open the pair of a kind of file."""
    answer = http.post("/api/sessions", json={"fixed": f"fixed{kind}", "moving": f"moving{kind}"})
    assert answer.status_code == 201, answer.text
    return Client(http, answer.json()["name"])


@pytest.fixture(scope="session")
def known(photos: SyntheticPair) -> tuple[PromptSession, Registration]:
    """The 2D pair prepared, and its quick registration: the same for every test."""
    prompts = PromptSession.of(photos.fixed, photos.moving)
    return prompts, register(photos.fixed, photos.moving, config=CHEAP)


@pytest.fixture
def flat(http: TestClient, hub: Hub, folder: Path, known: tuple[PromptSession, Registration]) -> Client:
    """The 2D pair, ready."""
    files = {side: folder / f"{side}.png" for side in ("fixed", "moving")}
    one = hub.open(ViewerJob(**files, out=hub.out / "moving-onto-fixed"), begin=False)
    one.prompts = known[0]
    one.fitting.take_guide(known[1])
    return Client(http, one.name)
