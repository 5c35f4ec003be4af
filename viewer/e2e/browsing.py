"""A page in a headless browser, driven as a person would: pointer, keys, and what is on the screen."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from roireg.fit import RegionAffine, Velocity
from roireg.pipeline import Config
from roireg.serve import fitting, session

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
STATIC = Path(__file__).parents[2] / "src" / "roireg" / "serve" / "static" / "index.html"


def missing() -> str | None:
    """What the tests of the viewer need and is not here, in one line; None where all of it is."""
    if CHROMIUM is None:
        return "the viewer is tested in chromium, which is not installed"
    if not STATIC.is_file():
        return "the pages of the viewer are not built; run `make viewer`, which needs Node.js 20"
    try:
        import playwright  # noqa: F401
    except ModuleNotFoundError:
        return "the viewer is driven by playwright, which is not installed"
    return None


MOTION = {"max_displacement_mm": 8, "rotation_deg": 1, "translation_mm": 8, "scale": 0.01, "noise": 2}
"""Of pairs that need no search for far starts."""


@contextmanager
def without_search() -> Iterator[None]:
    """Register without a search for far starts, in this process: what is shown is the viewer."""
    settings = Config(stages=(RegionAffine(), Velocity(levels=2, max_voxels=20_000, checked=False)))
    with (
        mock.patch.object(session, "QUICK", settings),
        mock.patch.object(fitting, "with_settings", lambda _: settings),
    ):
        yield


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser with a profile of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Window:
    """A window of the browser.

    Attributes
    ----------
    page : of playwright. outside : addresses that were asked for elsewhere. errors : what the console complained of.
    """

    def __init__(self, browser: Any, address: str, *, size: tuple[int, int] = (1400, 850), **context: Any) -> None:
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **context)
        self.page = self.context.new_page()
        self.outside: list[str] = []
        self.errors: list[str] = []
        origin = address.split("/#")[0]
        self.page.on("request", lambda r: None if _own(r.url, origin) else self.outside.append(r.url))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.goto(address)

    def value(self, script: str, argument: Any = None) -> Any:
        """Return what a script returns."""
        return self.page.evaluate(f"(x) => {script}", argument)

    def until(self, script: str, *, seconds: float = 60, argument: Any = None) -> Any:
        """Wait until a script returns something true, also on the page that comes after this one; return it."""
        from playwright.sync_api import Error

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                value = self.value(script, argument)
            except Error as error:
                if "context was destroyed" not in str(error):
                    raise
                value = None
            if value:
                return value
            time.sleep(0.05)
        seen = self.page.inner_text("body")[-1500:]
        raise AssertionError(f"after {seconds} s still not: {script}\n{seen}")

    def ready(self, *, linked: bool = True, seconds: float = 240) -> None:
        """Wait until clicks are answered, and until the images are linked."""
        self.until("window.roireg && window.roireg.state().ready", seconds=seconds)
        if linked:
            self.until("window.roireg.state().linked", seconds=seconds)

    @property
    def state(self) -> dict[str, Any]:
        """What the page knows of the session."""
        return self.value("window.roireg.state()")

    def place(self, side: str, point: Any, view: int = 0) -> tuple[float, float]:
        """Where a world point is on the screen, in a view of a side; its slice is brought up first."""
        script = """((a) => {
            const v = window.roireg.views[a.side][a.view];
            const m = v.plane.world, d = m.length;
            v.show(a.point);
            const [c, r] = v.pixel(a.point);
            const box = v.canvas.getBoundingClientRect();
            return [box.left + v.view.x + c * v.plane.size[0] * v.view.zoom,
                    box.top + v.view.y + r * v.plane.size[1] * v.view.zoom];
        })(x)"""
        return tuple(self.value(script, {"side": side, "view": view, "point": np.asarray(point).tolist()}))

    def click(self, side: str, point: Any, view: int = 0, **more: Any) -> dict[str, Any]:
        """Click at a world point and return the answer."""
        before = self.value("window.roireg.times.click.length")
        x, y = self.place(side, point, view)
        self.page.mouse.click(x, y, **more)
        self.until("window.roireg.times.click.length > x", argument=before)
        return self.state["proposal"]

    def counterpart(self, side: str, point: Any, view: int = 0) -> np.ndarray:
        """Point at a place; return where the page shows its counterpart."""
        before = self.value("window.roireg.times.map.length")
        x, y = self.place(side, point, view)
        self.page.mouse.move(x + 3, y + 3)
        self.page.mouse.move(x, y)
        self.until("window.roireg.times.map.length > x", argument=before)
        time.sleep(0.3)
        return np.array(self.value("window.roireg.cursor().other"))

    def fitted(self, kind: str, *, seconds: float = 400) -> dict[str, Any]:
        """Wait until a fit of a kind is done; return what is known of it."""
        self.until(f"window.roireg && (window.roireg.state().fitting.fit || {{}}).kind === '{kind}'", seconds=seconds)
        return self.state["fitting"]["fit"]

    def close(self) -> None:
        """Close the window."""
        self.context.close()


def _own(url: str, origin: str) -> bool:
    return url.startswith((origin, "blob:", "data:"))
