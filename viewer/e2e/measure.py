"""Times and memory of the viewer in a headless browser, on generated pairs: ``python viewer/e2e/measure.py FOLDER``.

Prints a table; FOLDER keeps the images. Name cases after it to measure some alone: flat, volume, large, clicks, deep.
With `loose` before them clicks are measured while the first alignment is being found, and nothing is registered.
`clicks` clicks 200 times into the small pair and `deep` into the volume, and prints times and memory on the way.
Every row says the load of the computer: what else runs there makes everything slower.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from browsing import Window, chromium

from roireg.core.grid import Grid
from roireg.io import write_image
from roireg.synth import SyntheticPair, as_raster, make_pair

CLICKS = 30
MANY = 200
MANY_IN = {"clicks": "flat", "deep": "volume"}


def enlarged(pair: SyntheticPair, factor: int) -> SyntheticPair:
    """Return a picture pair with every pixel repeated; only what is needed here is enlarged."""

    def larger(image: Any) -> Any:
        data = image.data.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        return replace(image, data=data, grid=Grid.pixels(tuple(data.shape[1:])))

    names = ("fixed", "moving", "fixed_labels")
    return replace(pair, **{name: larger(getattr(pair, name)) for name in names})


def colours(pair: SyntheticPair) -> SyntheticPair:
    """Return a picture pair stained: three tones of its gray values."""

    def stained(image: Any) -> Any:
        v = image.data[0].float() / 255
        tones = torch.stack([1 - 0.45 * v, 1 - 0.8 * v, 1 - 0.3 * v**2]) * 255
        return replace(image, data=tones.round().to(torch.uint8))

    return replace(pair, fixed=stained(pair.fixed), moving=stained(pair.moving))


CASES = {
    "flat": ("512 × 512", lambda: as_raster(make_pair(2, shape=(512, 512))), ".png"),
    "volume": ("160 × 192 × 224", lambda: make_pair(3, shape=(160, 192, 224)), ".nii.gz"),
    "large": ("4000 × 4000 RGB", lambda: enlarged(colours(as_raster(make_pair(2, shape=(1000, 1000)))), 4), ".png"),
}


@contextmanager
def served(folder: Path, kind: str) -> Iterator[tuple[int, str, float]]:
    """Run `roireg view` on a pair; yield its process, its address and the seconds until it said so."""
    program = [sys.executable, "-m", "roireg", "view", str(folder / f"fixed{kind}"), str(folder / f"moving{kind}")]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*program, "--no-browser", "--no-keep", "-o", str(folder / "out")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        address = next(line.split()[1] for line in process.stdout if line.startswith("viewer: "))
        yield process.pid, address, time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def memory(process: int) -> dict[str, float]:
    """Return the resident memory of the server and of the process that it computes in, MB."""

    def resident(number: int) -> float:
        return int(Path(f"/proc/{number}/status").read_text().split("VmRSS:")[1].split()[0]) / 1000

    children = Path(f"/proc/{process}/task").glob("*/children")
    started = [int(child) for file in children for child in file.read_text().split()]
    return {"server MB": resident(process), "computing MB": sum(map(resident, started))}


def heap(window: Window) -> float:
    """Return the memory of the scripts of a page after cleaning up, MB."""
    protocol = window.context.new_cdp_session(window.page)
    protocol.send("HeapProfiler.collectGarbage")
    protocol.send("Performance.enable")
    values = {m["name"]: m["value"] for m in protocol.send("Performance.getMetrics")["metrics"]}
    protocol.detach()
    return values["JSHeapUsedSize"] / 1e6


def places(pair: SyntheticPair, count: int) -> np.ndarray:
    """Return points of the fixed image inside the body."""
    rng = np.random.default_rng(1)
    inside = torch.nonzero(pair.fixed_labels.data[0] > 0).numpy()
    return pair.fixed.grid.world_from_index(inside[rng.integers(len(inside), size=count)])


def measure(name: str, folder: Path, browser: Any, *, loose: bool) -> dict[str, Any]:
    title, make, kind = CASES[name]
    pair = make()
    folder.mkdir(parents=True, exist_ok=True)
    for side in ("fixed", "moving"):
        write_image(folder / f"{side}{kind}", getattr(pair, side))
    with served(folder, kind) as (process, address, started):
        window = Window(browser, address)
        first = window.until("window.roireg && window.roireg.times.first[0]") / 1000
        began = time.perf_counter()
        window.ready(linked=False, seconds=600)
        ready = time.perf_counter() - began
        if not loose:
            window.ready(seconds=900)
        linked = time.perf_counter() - began
        answers = [window.click("fixed", point) for point in places(pair, CLICKS)]
        clicks = window.value("window.roireg.times.click")[-CLICKS:]
        known = {
            "pair": title,
            "load": os.getloadavg()[0],
            "start s": started,
            "first picture s": first,
            "clicks answered after s": ready,
            "click median ms": float(np.median(clicks)),
            "click 95 % ms": float(np.percentile(clicks, 95)),
            "cursor median ms": float(np.median(window.value("window.roireg.times.map"))),
            **memory(process),
            "page MB": heap(window),
        }
        if loose:
            window.close()
            return known
        good = next(p for p, a in zip(places(pair, CLICKS), answers, strict=True) if a["other"] is not None)
        window.click("fixed", good)
        window.page.keyboard.press("Enter")
        fit = window.fitted("refit", seconds=300)
        window.close()
    return {**known, "linked after s": linked, "refit s": fit["seconds"]}


def many_clicks(name: str, folder: Path, browser: Any, *, loose: bool) -> list[dict[str, Any]]:
    """Click 200 times into a pair; return the memory on the way, and how long the last 50 clicks took."""
    _, make, kind = CASES[name]
    pair = make()
    with served(folder, kind) as (process, address, _):
        window = Window(browser, address)
        window.ready(linked=not loose, seconds=600)
        rows = []
        for k, point in enumerate(places(pair, MANY + 10)):
            window.click("fixed" if k % 2 else "moving", point)
            if k % 50 == 9:
                clicks = window.value("window.roireg.times.click")[-50:]
                row = {
                    "clicks": k + 1,
                    "load": os.getloadavg()[0],
                    "median ms": np.median(clicks),
                    "95 % ms": np.percentile(clicks, 95),
                }
                rows.append({**row, **memory(process), "page MB": heap(window)})
                print(f"{k + 1} clicks", file=sys.stderr, flush=True)
        window.close()
    return rows


def main() -> None:
    folder, loose = Path(sys.argv[1]), "loose" in sys.argv[2:]
    names = [name for name in sys.argv[2:] if name != "loose"] or [*CASES, *MANY_IN]
    with chromium() as browser:
        for name in names:
            place = folder / MANY_IN.get(name, name)
            if name in MANY_IN:
                rows = many_clicks(MANY_IN[name], place, browser, loose=loose)
            else:
                rows = [measure(name, place, browser, loose=loose)]
            for row in rows:
                print(
                    "; ".join(f"{k}: {v if isinstance(v, str) else f'{v:.4g}'}" for k, v in row.items()), flush=True
                )


if __name__ == "__main__":
    main()
