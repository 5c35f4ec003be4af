"""A pair over HTTP: look, ask, decide, fit, export, open again."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from starlette.testclient import TestClient

import roireg
from roireg.core.progress import Progress, ProgressEvent
from roireg.io import read_labels, read_pairs, read_points, write_image
from roireg.serve import apart as processes
from roireg.serve import fitting
from roireg.serve.exporting import ViewerJob
from roireg.serve.hub import Hub, take_labels
from roireg.synth import SyntheticPair
from serve.conftest import Client, opened
from serve.test_apart import idle


def picture(content: bytes) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(content)))


def organ(pair: SyntheticPair, label: int) -> list[float]:
    """A point inside an organ of the fixed image."""
    from roireg.segment.prompts import inner_point

    return inner_point(pair.fixed_labels.data[0].numpy() == label, pair.fixed.grid).tolist()


# -- looking --------------------------------------------------------------------------------------


def test_a_tile_shows_the_pixels_of_the_file(http: TestClient, folder: Path) -> None:
    flat = opened(http)
    shown = picture(flat("GET", "/tiles/fixed/Image/0/0/0/0?low=0&high=255"))
    assert np.array_equal(shown, picture((folder / "fixed.png").read_bytes()))


def test_slices_lie_where_the_planes_say(http: TestClient, volumes: SyntheticPair) -> None:
    deep = opened(http, ".nii.gz")
    side = deep("GET")["sides"]["fixed"]
    assert [p["name"] for p in side["planes"]] == ["Axial", "Coronal", "Sagittal"]
    low, high = side["window"]
    for plane in side["planes"]:
        k = plane["count"] // 2
        shown = picture(deep("GET", f"/tiles/fixed/{plane['name']}/{k}/0/0/0"))
        assert shown.shape == (plane["rows"], plane["columns"])
        row, column = plane["rows"] // 3, plane["columns"] // 2
        world = np.array(plane["world"]) @ [column, row, k, 1]
        index = np.rint(volumes.fixed.grid.index_from_world(world)).astype(int)
        value = float(volumes.fixed.data[(0, *index)])
        assert shown[row, column] == pytest.approx(np.clip((value - low) / (high - low), 0, 1) * 255, abs=1)


def test_opening_prepares_the_images_step_by_step(http: TestClient) -> None:
    flat = opened(http)
    first = flat("GET")
    assert first["sides"]["fixed"]["planes"][0]["columns"] == 96, "there is something to see at once"
    assert not first["linked"]
    state = flat.prepared()
    assert state["fitting"]["fit"]["kind"] == "guide"
    assert flat("POST", "/prompt", {"side": "fixed", "points": [[40, 40]]})["scales"] > 0


def test_large_pictures_have_coarser_levels(http: TestClient, folder: Path) -> None:
    rng = np.random.default_rng(0)
    for side in ("fixed", "moving"):
        pixels = rng.integers(0, 255, (700, 1100, 3), dtype=np.uint8)
        PIL.Image.fromarray(np.repeat(np.repeat(pixels[::50, ::50], 50, 0), 50, 1)).save(folder / f"{side}_rgb.png")
    answer = http.post("/api/sessions", json={"fixed": "fixed_rgb.png", "moving": "moving_rgb.png"})
    client = Client(http, answer.json()["name"])
    assert answer.json()["sides"]["fixed"]["levels"] == 3
    whole = picture(client("GET", "/tiles/fixed/Image/0/2/0/0"))
    assert whole.shape == (175, 275, 3)
    exact = picture((folder / "fixed_rgb.png").read_bytes())
    assert np.array_equal(whole[5::25, 5::25], exact[22::100, 22::100][: len(whole[5::25]), :])
    last = picture(client("GET", "/tiles/fixed/Image/0/0/2/1"))
    assert np.array_equal(last, exact[512:, 1024:])
    assert client("GET", "/tiles/fixed/Image/0/0/3/0")[0] == 422


def test_the_cursor_goes_through_the_transform(flat: Client, photos: SyntheticPair) -> None:
    points = photos.fixed_points[::3]
    mapped = flat("POST", "/map", {"side": "fixed", "points": points.tolist()})
    assert mapped["linked"] and all(mapped["inside"])
    session_error = np.linalg.norm(np.array(mapped["points"]) - photos.moving_points[::3], axis=1)
    still = np.linalg.norm(points - photos.moving_points[::3], axis=1)
    assert session_error.mean() < 0.7 * still.mean()
    back = flat("POST", "/map", {"side": "moving", "points": mapped["points"]})
    assert np.abs(np.array(back["points"]) - points).max() < 0.3
    assert min(mapped["radius"]) > 0


# -- asking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_a_click_finds_the_counterpart(flat: Client, photos: SyntheticPair, side: str) -> None:
    label = max(photos.label_names, key=lambda v: int((photos.fixed_labels.data == v).sum()))
    point = np.array(organ(photos, label))
    other = photos.transform.map_points(point[None])[0]
    given, expected = (point, other) if side == "fixed" else (other, point)
    answer = flat("POST", "/prompt", {"side": side, "points": [given.tolist()]})
    assert answer["reason"] == "" and answer["confidence"] > 0.4
    assert np.linalg.norm(np.array(answer["found"]["points"][0]) - expected) < 4


def test_other_sizes_of_the_region_are_ordered(flat: Client, photos: SyntheticPair) -> None:
    answer = flat("POST", "/prompt", {"side": "fixed", "points": [organ(photos, 1)]})
    assert answer["scales"] > 1
    sizes = {}
    while answer["scale"] != 0:
        answer = flat("POST", "/prompt/scale", {"step": -1})
    for k in range(answer["scales"]):
        sizes[k] = answer["own"]["size"]
        answer = flat("POST", "/prompt/scale", {"step": 1})
    assert list(sizes.values()) == sorted(sizes.values())
    assert answer == (422, "this is the largest region at this place")


def test_a_prompt_outside_says_why(flat: Client) -> None:
    status, why = flat("POST", "/prompt", {"side": "fixed", "points": [[-50, 5]]})
    assert status == 422 and "outside the image" in why
    assert flat("GET")["proposal"] is None


def test_a_refusal_says_why_and_cannot_be_accepted(flat: Client, hub: Hub, photos: SyntheticPair) -> None:
    one = hub.sessions[flat.name]
    assert one.prompts is not None
    strict = one.prompts.settings.transfer.model_copy(update={"least_confidence": 1.0})
    one.prompts = replace(one.prompts, settings=one.prompts.settings.model_copy(update={"transfer": strict}))
    answer = flat("POST", "/prompt", {"side": "fixed", "points": [organ(photos, 1)]})
    assert answer["other"] is None and "well enough" in answer["reason"]
    status, why = flat("POST", "/prompt/accept")
    assert status == 422 and "no counterpart" in why


# -- deciding -------------------------------------------------------------------------------------


def accepted(flat: Client, photos: SyntheticPair, label: int = 1) -> int:
    flat("POST", "/prompt", {"side": "fixed", "points": [organ(photos, label)]})
    return flat("POST", "/prompt/accept")["id"]


def test_decisions_are_undone_and_done_again(flat: Client, photos: SyntheticPair) -> None:
    number = accepted(flat, photos)
    flat("PATCH", f"/pairs/{number}", {"status": "rejected"})
    assert [p["status"] for p in flat("GET")["pairs"]] == ["rejected"]
    assert flat("POST", "/undo") == {"undone": "rejected"}
    assert [p["status"] for p in flat("GET")["pairs"]] == ["accepted"]
    assert flat("POST", "/undo") == {"undone": "accept"}
    assert flat("GET")["pairs"] == []
    assert flat("POST", "/redo") == {"done": "accept"}
    assert [p["id"] for p in flat("GET")["pairs"]] == [number]
    flat("DELETE", f"/pairs/{number}")
    assert flat("PATCH", f"/pairs/{number}", {"status": "accepted"})[0] == 422
    assert accepted(flat, photos) == number + 1, "numbers are not used twice"


def test_the_brush_adds_and_takes_away(flat: Client, photos: SyntheticPair) -> None:
    number = accepted(flat, photos)
    before = flat("GET")["pairs"][0]["fixed"]["size"]
    corner = [[3, 3], [9, 3]]
    stroke = {"side": "fixed", "points": corner, "radius": 2.0}
    after = flat("POST", f"/pairs/{number}/brush", stroke)["pairs"][0]
    # A capsule of length 6 and radius 2: 7 columns of 5 pixels, and 4 more at either end.
    assert after["fixed"]["size"] - before == 7 * 5 + 2 * 4
    assert after["edited"]
    lines = flat("GET", "/outlines/fixed/Image/0")["pairs"][0]["lines"]
    assert any(min(x for x, _ in line) < 3 for line in lines)
    again = flat("POST", f"/pairs/{number}/brush", {**stroke, "erase": True})["pairs"][0]
    assert again["fixed"]["size"] == before
    everything = {"side": "fixed", "points": [[48, 36]], "radius": 500, "erase": True}
    assert flat("POST", f"/pairs/{number}/brush", everything)[0] == 422


def test_label_maps_become_pairs(flat: Client, photos: SyntheticPair) -> None:
    count = flat("POST", "/labels", {"fixed": "fixed_labels.png", "moving": "moving_labels.png"})["count"]
    pairs = flat("GET")["pairs"]
    assert count == len(pairs) > 5
    assert {p["status"] for p in pairs} == {"accepted"} and {p["source"] for p in pairs} == {"labels"}


def test_landmarks_pair_up_and_tell_their_error(flat: Client, photos: SyntheticPair) -> None:
    for fixed, moving in zip(photos.fixed_points[:3], photos.moving_points[:3], strict=True):
        first = flat("POST", "/landmarks", {"side": "fixed", "point": fixed.tolist()})
        assert flat("POST", "/landmarks", {"side": "moving", "point": moving.tolist()}) == first
    marks = flat("GET")["landmarks"]
    mapped = flat("POST", "/map", {"side": "fixed", "points": photos.fixed_points[:3].tolist()})["points"]
    errors = np.linalg.norm(np.array(mapped) - photos.moving_points[:3], axis=1)
    assert [m["error"] for m in marks] == pytest.approx(errors, abs=1e-3)
    assert flat("GET", "/landmarks/fixed.csv").decode().splitlines()[0] == "x,y,name"
    flat("DELETE", "/landmarks/2")
    assert [m["id"] for m in flat("GET")["landmarks"]] == [1, 3]
    assert flat("POST", "/landmarks", {"side": "fixed", "point": [999, 0]})[0] == 422


# -- fitting and export ---------------------------------------------------------------------------


def test_an_edit_is_followed_by_a_refit(
    flat: Client, hub: Hub, photos: SyntheticPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "REFIT_VOXELS", {2: 2000})
    version = flat("GET")["fitting"]["version"]
    accepted(flat, photos)
    state = flat.fitted("refit")
    # It works on small versions of the images; what it returns is of the images as they are.
    session = hub.get(flat.name)
    assert session.fitting.fit.registration.fixed is session.images[0]
    assert session.fitting.fit.transform.transforms[0].grid.size < 2000
    assert state["fitting"]["version"] > version and state["fitting"]["fit"]["kind"] == "refit"
    # A search for other positions takes five times as long as all else: it is left to full fits.
    assert "probability_right" not in state["fitting"]["fit"]["metrics"]
    flat("PUT", "/live", {"live": False})
    version = state["fitting"]["version"]
    accepted(flat, photos, 2)
    assert flat("GET")["fitting"]["version"] == version


def test_a_fit_is_exported_as_register_writes_it(flat: Client, photos: SyntheticPair, tmp_path: Path) -> None:
    flat("PUT", "/live", {"live": False})
    number = accepted(flat, photos)
    flat("POST", "/fit", {})
    state = flat.fitted()
    assert state["fitting"]["task"]["state"] == "done"
    fit = state["fitting"]["fit"]
    assert fit["kind"] == "full" and fit["current"] and fit["verdict"] in ("ok", "uncertain", "failed")
    assert all(
        photos.fixed.grid.contains(p["point"])
        for p in flat.until(lambda s: s["fitting"]["fit"]["places"])["fitting"]["fit"]["places"]
    )
    assert state["pairs"][0]["id"] == number and any(p["source"] == "regions" for p in state["pairs"])
    for layer in ("warped", "before", "jacobian", "doubt"):
        assert picture(flat("GET", f"/tiles/{layer}/Image/0/0/0/0")).shape[:2] == (72, 96)
    assert flat("GET", "/grid/Image/0")["lines"]
    for side, point in (("fixed", photos.fixed_points[0]), ("moving", photos.moving_points[0])):
        flat("POST", "/landmarks", {"side": side, "point": point.tolist()})
    flat("POST", "/export", {})
    task = flat.fitted("export")["fitting"]["task"]
    assert task["state"] == "done", task
    out = tmp_path / "results" / "moving-onto-fixed"
    names = {p.name for p in out.iterdir()}
    assert {"transform.h5", "inverse.h5", "warped.png", "pairs", "result.json", "report.html"} <= names
    assert {"landmarks_fixed.csv", "landmarks_moving.csv", "decisions.zip"} <= names
    record = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert [a["action"] for a in record["interaction"]["actions"]] == ["accept", "landmark", "landmark"]
    assert record["metrics"]["landmark_error_mean"]["value"] is not None
    assert record["provenance"]["inputs"]["fixed"]["sha256"]
    points = read_points(out / "landmarks_fixed.csv")
    assert np.allclose(points.points, photos.fixed_points[:1], atol=1e-4)
    assert [p.status for p in read_pairs(out / "decisions.zip").pairs] == ["accepted"]
    # What was seen is what was written.
    mapped = flat("POST", "/map", {"side": "fixed", "points": photos.fixed_points.tolist()})["points"]
    assert np.abs(roireg.load(out).map_points(photos.fixed_points) - mapped).max() < 0.05


def decided(flat: Client, photos: SyntheticPair) -> int:
    """Keep a pair without a refit after it; return the version of the transform."""
    flat("PUT", "/live", {"live": False})
    accepted(flat, photos)
    version: int = flat("GET")["fitting"]["version"]
    return version


def test_an_export_waits_for_the_fit_that_is_running(
    flat: Client, photos: SyntheticPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = decided(flat, photos)
    apart, go = fitting.apart, threading.Event()

    def slow(*given: Any) -> Any:
        assert go.wait(60)
        return apart(*given)

    monkeypatch.setattr(fitting, "apart", slow)
    assert flat("POST", "/fit", {})["kind"] == "full"
    assert flat("POST", "/export", {})["kind"] == "export"
    status, sentence = flat("POST", "/fit", {})
    assert status == 422 and "export is still running" in sentence
    assert not list((tmp_path / "results").iterdir())
    go.set()
    state = flat.fitted("export")
    assert state["fitting"]["task"]["state"] == "done", state["fitting"]["task"]
    assert state["fitting"]["version"] == version + 1, "it was fitted once"
    assert (tmp_path / "results" / "moving-onto-fixed" / "result.json").is_file()


def test_to_stop_an_export_that_waits_stops_the_fit_too(
    flat: Client, photos: SyntheticPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = decided(flat, photos)

    def endless(function: Any, progress: Progress, *given: Any) -> None:
        while True:
            progress(ProgressEvent("finding the start", 0.5))
            time.sleep(0.01)

    monkeypatch.setattr(fitting, "apart", endless)
    flat("POST", "/fit", {})
    flat("POST", "/export", {})
    flat.until(lambda s: s["fitting"]["task"]["stage"] == "finding the start")
    flat("DELETE", "/fit")
    assert flat.fitted("export")["fitting"]["task"]["state"] == "stopped"
    assert "roireg full" not in {thread.name for thread in threading.enumerate()}
    assert flat("GET")["fitting"]["version"] == version and not list((tmp_path / "results").iterdir())


def test_a_stored_result_opens_again(flat: Client, hub, http: TestClient, tmp_path: Path, photos) -> None:
    accepted(flat, photos)
    flat("POST", "/export", {"folder": "kept"})
    flat.fitted("export")
    hub.roots = [tmp_path]
    answer = http.post("/api/sessions", json={"result": "results/kept"}).json()
    assert answer["linked"] and answer["fitting"]["fit"]["kind"] == "stored"
    assert len(answer["pairs"]) == len(flat("GET")["pairs"])
    (tmp_path / "scans" / "fixed.png").write_bytes(b"other")
    status = http.post("/api/sessions", json={"result": "results/kept"})
    assert status.status_code == 422 and "not the fixed image" in status.json()["detail"]


def test_a_fit_is_stopped(flat: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    apart, entered = fitting.apart, threading.Event()
    processes._end()  # one that waits could not import what is here
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))

    def endless(function: Any, progress: Progress, *given: Any) -> None:
        entered.set()
        apart(idle, progress)

    monkeypatch.setattr(fitting, "apart", endless)
    before = flat("GET")["fitting"]["version"]
    flat("POST", "/fit", {})
    assert entered.wait(5)
    assert flat("POST", "/fit", {})[0] == 422, "one fit at a time"
    flat("DELETE", "/fit")
    state = flat.fitted()
    assert state["fitting"]["task"]["state"] == "stopped" and state["fitting"]["version"] == before


# -- several windows, and the end -----------------------------------------------------------------


def test_two_windows_see_the_same(flat: Client, http: TestClient, photos: SyntheticPair) -> None:
    other = Client(http, flat.name)
    seen = other("GET")["version"]
    number = accepted(flat, photos)
    news = other("GET", f"/news?since={seen}")
    assert news["version"] > seen and [p["id"] for p in news["pairs"]] == [number]
    assert news["pairs"][0]["colour"] == flat("GET")["pairs"][0]["colour"]


def test_decisions_are_there_again_after_the_server_was_killed(flat: Client, hub, http, photos) -> None:
    number = accepted(flat, photos)
    flat("POST", "/landmarks", {"side": "fixed", "point": photos.fixed_points[0].tolist()})
    hub.sessions[flat.name].store.flush()  # a second later it would have been written by itself
    hub.sessions.clear()
    again = opened(http)
    state = again("GET")
    assert [(p["id"], p["status"]) for p in state["pairs"]] == [(number, "accepted")]
    assert [m["name"] for m in state["landmarks"]] == ["L1"]
    assert "earlier work" in state["note"]
    again("POST", "/undo")
    assert again("GET")["pairs"] == []


def test_a_closed_session_is_told(flat: Client) -> None:
    flat("DELETE")
    status, why = flat("GET")
    assert status == 404 and "closed" in why


def test_a_refit_of_a_volume_follows_the_kept_pairs_on_small_grids(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "REFIT_VOXELS", {3: 5000})
    files = {side: folder / f"{side}.nii.gz" for side in ("fixed", "moving")}
    deep = hub.open(ViewerJob(**files, out=hub.out / "deep"), begin=False)
    count = take_labels(deep, *(folder / f"{side}_labels.nii.gz" for side in ("fixed", "moving")))
    board = deep.board.with_new([replace(deep.board.pairs[0], status="proposed")])
    followed = deep.fitting._steering(board)
    assert len(followed) == count == len(board.pairs) - 1
    assert max(followed.fixed.grid.size, followed.moving.grid.size) <= 5000 < deep.images[0].grid.size


def test_missing_voxels_do_not_spread_into_what_is_quick(hub: Hub, folder: Path, volumes: SyntheticPair) -> None:
    holed = volumes.fixed.data.clone()
    holed[:, :3] = float("nan")
    write_image(folder / "holed.nii.gz", volumes.fixed.with_data(holed))
    job = ViewerJob(fixed=folder / "holed.nii.gz", moving=folder / "moving.nii.gz", out=hub.out / "holed")
    session = hub.open(job, begin=False)
    with pytest.warns(UserWarning, match="NaN"):
        assert bool(session.coarse[0].data.isfinite().all())


def test_regions_of_a_volume_are_outlined_where_they_are(http: TestClient, volumes: SyntheticPair, folder) -> None:
    deep = opened(http, ".nii.gz")
    deep("POST", "/labels", {"fixed": "fixed_labels.nii.gz", "moving": "moving_labels.nii.gz"})
    pairs = deep("GET")["pairs"]
    labels = read_labels(folder / "fixed_labels.nii.gz").data[0]
    plane = deep("GET")["sides"]["fixed"]["planes"][0]
    for k in (2, 8, 13):
        shown = {p["id"] for p in deep("GET", f"/outlines/fixed/Axial/{k}")["pairs"]}
        world = np.array(plane["world"]) @ [0, 0, k, 1]
        z = round(float(volumes.fixed.grid.index_from_world(world)[0]))
        present = {int(v) for v in labels[z].unique()} - {0}
        by_label = {p["id"] for p in pairs if int(p["name"]) in present}
        assert shown == by_label
