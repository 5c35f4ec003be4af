"""Pictures of the viewer for the documentation, of generated pairs: ``python viewer/e2e/pictures.py``."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
from browsing import MOTION, Window, chromium, without_search

from roireg.io import write_image
from roireg.segment.prompts import inner_point
from roireg.serve.exporting import ViewerJob
from roireg.serve.running import running
from roireg.synth import SyntheticPair, as_raster, make_pair

IMAGES = Path(__file__).parents[2] / "docs" / "images"


def organ(pair: SyntheticPair, label: int) -> np.ndarray:
    return inner_point(pair.fixed_labels.data[0].numpy() == label, pair.fixed.grid)


def shoot(window: Window, name: str) -> None:
    """Write what a window shows as a small picture."""
    window.page.wait_for_timeout(1500)
    picture = PIL.Image.open(io.BytesIO(window.page.screenshot())).convert("RGB")
    picture.quantize(128, dither=PIL.Image.Dither.NONE).save(IMAGES / f"viewer-{name}.png", optimize=True)


def main() -> None:
    pairs = {
        ".png": as_raster(make_pair(2, shape=(192, 256), **MOTION)),
        ".nii.gz": make_pair(3, shape=(40, 60, 80), **MOTION),
    }
    with tempfile.TemporaryDirectory() as text, without_search(), running(out=text) as server, chromium() as browser:
        folder = Path(text)
        addresses = {}
        for kind, pair in pairs.items():
            for side in ("fixed", "moving"):
                write_image(folder / f"{side}{kind}", getattr(pair, side))
            job = ViewerJob(fixed=folder / f"fixed{kind}", moving=folder / f"moving{kind}", out=folder / "out")
            addresses[kind] = server.address(server.hub.open(job).name)
        size = (1280, 760)
        flat = Window(browser, addresses[".png"], size=size, color_scheme="light")
        flat.ready()
        flat.click("fixed", organ(pairs[".png"], 5))
        shoot(flat, "click")
        flat.page.keyboard.press("Enter")
        flat.click("moving", pairs[".png"].transform.map_points(organ(pairs[".png"], 2)[None])[0])
        flat.page.keyboard.press("Enter")
        flat.fitted("refit")
        flat.page.keyboard.press("f")
        flat.fitted("full")
        flat.counterpart("fixed", organ(pairs[".png"], 12))
        shoot(flat, "pairs")
        flat.page.keyboard.press("h")
        flat.page.keyboard.press("h")
        flat.page.select_option("[data-key=compare]", "before-after")
        flat.page.keyboard.press("g")
        shoot(flat, "compare")
        deep = Window(browser, addresses[".nii.gz"], size=size, color_scheme="dark")
        deep.ready(seconds=600)
        deep.click("fixed", organ(pairs[".nii.gz"], 3))
        shoot(deep, "volume")


if __name__ == "__main__":
    main()
