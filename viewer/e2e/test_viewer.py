"""The viewer in a browser, on pairs whose truth is known: from the first picture to a result that opens again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Window

import roireg
from roireg.segment.prompts import inner_point
from roireg.serve.exporting import ViewerJob
from roireg.serve.running import Server, running
from roireg.synth import SyntheticPair


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("server")
    with running(out=place, keep=place / "kept") as one:
        yield one


def opened(server: Server, folder: Path, kind: str) -> str:
    """Open the pair of a kind of file; return its address."""
    job = ViewerJob(
        fixed=folder / f"fixed{kind}", moving=folder / f"moving{kind}", out=server.hub.out / f"result{kind[:4]}"
    )
    return server.address(server.hub.open(job).name)


@pytest.fixture(scope="module")
def flat(server: Server, folder: Path, browser: Any) -> Iterator[Window]:
    window = Window(browser, opened(server, folder, ".png"))
    window.ready()
    yield window
    window.close()


def organ(pair: SyntheticPair, label: int) -> np.ndarray:
    return inner_point(pair.fixed_labels.data[0].numpy() == label, pair.fixed.grid)


def within(pair: SyntheticPair, point: np.ndarray, side: str) -> np.ndarray:
    """The true counterpart of a fixed point, or of a moving one."""
    way = pair.transform if side == "fixed" else pair.transform.inverse()
    return way.map_points(point[None])[0]


# -- a picture pair, the whole way ----------------------------------------------------------------


def test_a_click_shows_the_counterpart_at_its_true_place(flat: Window, photos: SyntheticPair) -> None:
    misses = []
    for label in photos.label_names:
        point = organ(photos, label)
        for side, given in (("fixed", point), ("moving", within(photos, point, "fixed"))):
            answer = flat.click(side, given)
            if answer["other"] is None:
                assert answer["reason"] in flat.page.inner_text(".part-answer")
                continue
            misses.append(np.linalg.norm(np.array(answer["found"]["points"][0]) - within(photos, given, side)))
    assert len(misses) >= len(photos.label_names), "most organs have a counterpart"
    assert np.median(misses) < 2, misses


def test_an_answer_is_kept_fitted_judged_exported_and_opens_again(
    flat: Window, photos: SyntheticPair, server: Server, browser: Any
) -> None:
    flat.click("fixed", organ(photos, 1))
    flat.page.keyboard.press("Enter")
    flat.until("window.roireg.state().pairs.some(p => p.status === 'accepted')")
    flat.until("document.querySelector('footer').textContent.includes('Kept as pair')")
    flat.page.keyboard.press("f")
    fit = flat.fitted("full")
    assert flat.page.inner_text(".verdict").lower().startswith(fit["verdict"])
    # The cursor goes through the transform of the fit, on both sides.
    inner = [p for p in photos.fixed_points if (p > 20).all() and (p < [170, 120]).all()][::4]
    misses = [np.linalg.norm(flat.counterpart("fixed", p) - within(photos, p, "fixed")) for p in inner]
    assert np.median(misses) < 2, misses
    # A landmark by keys: point, L, the other image, L.
    for side in ("fixed", "moving"):
        flat.counterpart(side, inner[0] if side == "fixed" else within(photos, inner[0], "fixed"))
        flat.page.keyboard.press("l")
        flat.until(f"window.roireg.state().landmarks.some(m => m.{side} !== null)")
    assert flat.until("window.roireg.state().landmarks[0].error") < 3
    flat.page.keyboard.press("e")
    done = "(t => t && t.kind === 'export' && t.state !== 'running' && t.state)(window.roireg.state().fitting.task)"
    assert flat.until(done, seconds=300) == "done"
    out = server.hub.out / "result.png"
    record = json.loads((out / "result.json").read_text())
    assert record["verdict"] == fit["verdict"]
    assert {"accept", "landmark"} <= {a["action"] for a in record["interaction"]["actions"]}
    assert (out / "report.html").is_file() and (out / "landmarks_fixed.csv").is_file()
    errors = np.linalg.norm(roireg.load(out).map_points(photos.fixed_points) - photos.moving_points, axis=1)
    assert np.median(errors) < 2
    again = Window(browser, server.address(server.hub.open_result(out, out.with_name("edited")).name))
    try:
        stored = again.fitted("stored")
        assert stored["verdict"] == fit["verdict"]
        assert len(again.state["pairs"]) == len(flat.state["pairs"])
        assert "stored result" in again.page.inner_text(".part-fit")
    finally:
        again.close()


def test_every_comparison_draws_something(flat: Window) -> None:
    seen = set()
    flat.until("window.roireg.state().linked")
    for mode in ("off", "curtain", "before-after", "fusion", "checker"):
        flat.page.select_option("[data-key=compare]", mode)
        flat.page.wait_for_timeout(600)
        seen.add(flat.page.locator(".pane").first.screenshot())
    for key in ("g", "d", "u"):
        flat.page.keyboard.press(key)
        flat.page.wait_for_timeout(900)
        seen.add(flat.page.locator(".pane").first.screenshot())
        flat.page.keyboard.press(key)
    assert len(seen) == 8, "no two of them look alike"
    flat.page.select_option("[data-key=compare]", "off")


def test_contrast_follows_keys_and_the_pointer(flat: Window) -> None:
    middle = """((canvas, k) => canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, k, k)
        .data.join())(window.roireg.views.fixed[0].canvas, 90)"""
    shown = "(window.roireg.ui.window.fixed || [NaN, NaN])"
    x, y = flat.place("fixed", [20, 20])
    flat.page.mouse.move(x, y)
    flat.until("window.roireg.cursor().side === 'fixed'")
    before, asked = flat.value(middle), flat.value("window.roireg.times.click.length")
    flat.page.keyboard.press("k")
    low, high = flat.until(f"!isNaN({shown}[0]) && {shown}")
    flat.page.keyboard.press("i")
    brighter = flat.value(shown)
    assert brighter[0] < low and np.isclose(brighter[1] - brighter[0], high - low)
    flat.page.keyboard.press("7")
    flat.page.mouse.down()
    flat.page.mouse.move(x + 60, y, steps=4)
    flat.page.mouse.up()
    narrow = flat.value(shown)
    assert narrow[1] - narrow[0] < high - low
    assert f"white {float(f'{narrow[1]:.4g}'):g}" in flat.page.inner_text("footer")
    flat.until(f"{middle} !== x", argument=before)
    assert flat.value("window.roireg.ui.window.moving") is None
    assert flat.value("window.roireg.times.click.length") == asked, "a drag for contrast asks nothing"
    flat.page.mouse.move(x, y)
    flat.page.keyboard.press("w")
    flat.until(f"{middle} === x", argument=before)
    flat.page.keyboard.press("1")


def test_the_brush_changes_the_chosen_pair_and_undo_takes_it_back(flat: Window, photos: SyntheticPair) -> None:
    size = "window.roireg.state().pairs.find(p => p.status === 'accepted').fixed.size"
    before = flat.value(size)
    number = flat.value("window.roireg.state().pairs.find(p => p.status === 'accepted').id")
    flat.value("window.roireg.select(x)", number)
    flat.page.keyboard.press("4")
    x, y = flat.place("fixed", [12, 12])
    flat.page.mouse.move(x, y)
    flat.page.mouse.down()
    flat.page.mouse.move(x + 40, y, steps=5)
    flat.page.mouse.up()
    flat.until(f"{size} > x", argument=before)
    flat.page.keyboard.press("Control+z")
    flat.until(f"{size} === x", argument=before)
    flat.page.keyboard.press("1")


def test_negative_points_boxes_and_scribbles_ask_too(flat: Window, photos: SyntheticPair) -> None:
    point = organ(photos, 1)
    flat.click("fixed", point)
    x, y = flat.place("fixed", point + [18, 0])
    before = flat.value("window.roireg.times.click.length")
    flat.page.keyboard.down("Shift")
    flat.page.mouse.click(x, y)
    flat.page.keyboard.up("Shift")
    flat.until("window.roireg.times.click.length > x", argument=before)
    assert flat.state["proposal"]["prompt"]["labels"] == [1, 0]
    for key, labels in (("2", 0), ("3", 2)):
        flat.page.keyboard.press("Escape")
        flat.until("window.roireg.state().proposal === null")
        flat.page.keyboard.press(key)
        x0, y0 = flat.place("moving", within(photos, point, "fixed") - [12, 12])
        x1, y1 = flat.place("moving", within(photos, point, "fixed") + [12, 12])
        flat.page.mouse.move(x0, y0)
        flat.page.mouse.down()
        flat.page.mouse.move(x1, y1, steps=8)
        flat.page.mouse.up()
        prompt = flat.until("(window.roireg.state().proposal || {}).prompt")
        assert (prompt["box"] is not None) == (key == "2") and len(prompt["points"]) >= labels
    flat.page.keyboard.press("1")


def test_everything_can_be_done_by_keys(flat: Window) -> None:
    flat.page.keyboard.press("Escape")
    flat.until("!window.roireg.state().proposal")
    flat.value("window.roireg.views.fixed[0].canvas.focus()")
    flat.page.keyboard.press("0")
    for _ in range(3):
        flat.page.keyboard.press("Shift+ArrowLeft")
    flat.page.keyboard.press("ArrowUp")
    flat.until("window.roireg.cursor() && window.roireg.cursor().side === 'fixed'")
    flat.page.keyboard.press("Space")
    first = flat.until("window.roireg.state().proposal")
    if first["scales"] > 1 and first["scale"] is not None:
        key = "]" if first["scale"] < first["scales"] - 1 else "["
        flat.page.keyboard.press(key)
        flat.until("(p => p && p.scale !== x)(window.roireg.state().proposal)", argument=first["scale"])
    flat.page.keyboard.press("o")
    flat.until("document.activeElement === window.roireg.views.moving[0].canvas")
    flat.page.keyboard.press("?")
    flat.until("document.querySelector('dialog[open]')")
    flat.page.keyboard.press("Escape")
    flat.until("!document.querySelector('dialog')")
    flat.page.keyboard.press("Escape")
    # Buttons are reached by Tab and show it.
    flat.page.keyboard.press("Tab")
    flat.page.keyboard.press("Tab")
    width = flat.value("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
    assert width >= 2
    unnamed = """[...document.querySelectorAll('button, select, input, canvas')].filter(e => e.offsetParent &&
        !(e.getAttribute('aria-label') || e.textContent || e.title || e.closest('label')))
        .map(e => e.outerHTML)"""
    assert flat.value(unnamed) == []


def test_nothing_came_from_elsewhere_and_nothing_went_wrong(flat: Window) -> None:
    assert flat.outside == []
    real = [e for e in flat.errors if "422" not in e]
    assert real == []


# -- a volume -------------------------------------------------------------------------------------


def test_a_volume_is_linked_in_three_planes_fitted_exported_and_opens_again(
    server: Server, folder: Path, browser: Any, volumes: SyntheticPair
) -> None:
    window = Window(browser, opened(server, folder, ".nii.gz"))
    try:
        window.ready()
        assert window.value("window.roireg.views.fixed.map(v => v.plane.name)") == ["Axial", "Coronal", "Sagittal"]
        # Names of planes and directions can be read on white fat as on black air.
        behind = "getComputedStyle(document.querySelector('.view-label')).backgroundColor"
        assert window.value(behind) == "rgba(0, 0, 0, 0.667)"
        spacing = float(volumes.fixed.grid.spacing.max())
        misses = []
        for label in (1, 2, 11):
            point = organ(volumes, label)
            for view in range(3):
                other = window.counterpart("fixed", point, view)
                misses.append(np.linalg.norm(other - within(volumes, point, "fixed")) / spacing)
                # The other image shows the slice of the counterpart.
                slices = window.value("window.roireg.views.moving.map(v => v.slice)")
                index = np.rint(volumes.moving.grid.index_from_world(other))
                assert np.abs(np.sort(slices) - np.sort(index)).max() <= 1
        assert np.median(misses) < 2, misses
        answer = window.click("fixed", organ(volumes, 1))
        assert answer["other"] is not None
        miss = np.linalg.norm(np.array(answer["found"]["points"][0]) - within(volumes, organ(volumes, 1), "fixed"))
        assert miss < 2 * spacing
        window.page.mouse.wheel(0, 120)
        window.page.keyboard.press("Enter")
        window.until("window.roireg.state().pairs.length === 1")
        window.page.keyboard.press("f")
        fit = window.fitted("full")
        window.page.keyboard.press("e")  # at once: the places worth a look may still be measured
        inner = [organ(volumes, label) for label in (1, 2, 11)]
        misses = [np.linalg.norm(window.counterpart("fixed", p) - within(volumes, p, "fixed")) for p in inner]
        assert np.median(misses) < 2 * spacing, misses
        done = (
            "(t => t && t.kind === 'export' && t.state !== 'running' && t.state)(window.roireg.state().fitting.task)"
        )
        assert window.until(done, seconds=300) == "done"
        out = server.hub.out / "result.nii"
        assert json.loads((out / "result.json").read_text())["verdict"] == fit["verdict"]
        result = roireg.load(out)
        errors = np.linalg.norm(result.map_points(volumes.fixed_points) - volumes.moving_points, axis=1)
        assert np.median(errors) < spacing
        again = Window(browser, server.address(server.hub.open_result(out, out.with_name("edited volume")).name))
        try:
            assert again.fitted("stored")["verdict"] == fit["verdict"]
            assert len(again.state["pairs"]) == len(window.state["pairs"])
        finally:
            again.close()
        assert window.outside == []
    finally:
        window.close()


# -- who may look, and what happens when the server goes -------------------------------------------


@pytest.mark.parametrize("part", ["#token=wrong&session=pair1", "", "#session=pair1"])
def test_a_wrong_token_shows_nothing_but_what_to_do(server: Server, browser: Any, part: str) -> None:
    window = Window(browser, f"{server.origin}/{part}")
    try:
        window.until("document.querySelector('[role=alert]')")
        assert "address" in window.page.inner_text("[role=alert]").lower()
        assert window.value("document.querySelectorAll('canvas').length") == 0
    finally:
        window.close()


def test_files_are_opened_by_hand_unless_they_are_too_large(folder: Path, browser: Any, tmp_path: Path) -> None:
    """On the page of a server without a pair, and paths that lead out of its folders."""
    large = tmp_path / "large.png"
    large.write_bytes(b"x" * 300_000)
    limit = max(200_000, *((folder / f"{side}.png").stat().st_size for side in ("fixed", "moving")))
    with running(roots=[folder], out=tmp_path, largest_upload=limit) as server:
        window = Window(browser, server.address())
        try:
            window.until("document.querySelectorAll('input[type=file]').length === 2")
            fixed, moving = window.page.locator("input[type=file]").all()
            fixed.set_input_files(folder / "fixed.png")
            moving.set_input_files(large)
            window.page.click("form button")
            window.until("document.querySelector('[role=status]').textContent.includes('at most')")
            whole = [p.name for p in server.hub.uploads.iterdir() if not p.name.startswith("tmp")]
            assert whole in ([], ["fixed-fixed.png"])
            asked = """fetch(x[0], {method: x[1], body: x[2], headers: {authorization:
                `Bearer ${new URLSearchParams(location.hash.slice(1)).get('token')}`,
                'content-type': 'application/json'}}).then(r => r.status)"""
            escape = json.dumps({"fixed": "../large.png", "moving": "moving.png"})
            assert window.value(asked, ["/api/sessions", "POST", escape]) == 403
            assert window.value(asked, ["/assets/..%2findex.html", "GET", None]) == 404
            moving.set_input_files(folder / "moving.png")
            window.page.click("form button")
            window.until("window.roireg && window.roireg.times.first.length", seconds=60)
            assert window.outside == []
        finally:
            window.close()


def test_two_windows_show_the_same_pairs(flat: Window, browser: Any, photos: SyntheticPair) -> None:
    other = Window(browser, flat.page.url)
    try:
        other.ready()
        before = len(other.state["pairs"])
        flat.click("fixed", organ(photos, 2))
        other.until("window.roireg.state().proposal")
        flat.page.keyboard.press("Enter")
        other.until("window.roireg.state().pairs.length > x", argument=before)
        colours = [
            {p["id"]: p["colour"] for p in window.state["pairs"] if p["status"] == "accepted"}
            for window in (flat, other)
        ]
        assert colours[0] == colours[1]
    finally:
        other.close()


def test_a_phone_is_wide_enough(flat: Window, browser: Any) -> None:
    phone = Window(browser, flat.page.url, size=(390, 844), has_touch=True, is_mobile=True)
    try:
        phone.ready()
        assert phone.value("document.documentElement.scrollWidth") <= 390
        box = phone.page.locator("canvas").first.bounding_box()
        assert box["width"] > 300 and box["height"] > 250
        phone.page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        phone.until("window.roireg.times.click.length > 0")
    finally:
        phone.close()


def test_a_killed_server_is_told_and_loses_nothing(
    folder: Path, browser: Any, photos: SyntheticPair, tmp_path: Path
) -> None:
    program = [sys.executable, "-m", "roireg", "view", str(folder / "fixed.png"), str(folder / "moving.png")]
    program += ["--no-browser", "-o", str(tmp_path / "out"), "--init", "identity"]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONUNBUFFERED": "1"}

    def start() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment)
        for line in process.stdout:
            if line.startswith("viewer: "):
                return process, line.split()[1]
        raise AssertionError("the server said no address")

    def end(process: subprocess.Popen[str]) -> None:
        process.kill()
        process.wait()
        process.stdout.close()

    process, address = start()
    try:
        window = Window(browser, address)
        window.ready(linked=False)
        window.click("fixed", organ(photos, 1))
        window.page.keyboard.press("Enter")
        window.until("window.roireg.state().pairs.length === 1")
        window.page.wait_for_timeout(4000)
        end(process)
        window.until("!document.querySelector('.banner').hidden")
        assert "what you decided is kept" in window.page.inner_text(".banner")
        window.close()
        process, second = start()
        assert second != address
        window = Window(browser, second)
        window.until("window.roireg && window.roireg.state().pairs.length === 1")
        assert "earlier work" in window.page.inner_text("footer")
        window.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (143, -signal.SIGTERM, 0)
    finally:
        end(process)
