"""Pictures of the viewer on real pairs of eight kinds, to be looked at: ``python viewer/e2e/cases.py DATA FOLDER``.

DATA holds the case sets of the benchmark, which may be used for evaluation but shown nowhere else, so the pictures go
into FOLDER and not into the documentation. Every pair is opened, clicked once at a known place after the first
alignment, and registered with the answer kept; a row of a table each says how that went.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from browsing import Window, chromium

from roireg.evaluate import Truth, score
from roireg.segment.prompts import inner_point
from roireg.serve.exporting import ViewerJob
from roireg.serve.running import Server, running
from roireg_bench.cases import Case, CaseFolder, choose_cases, find_folders
from roireg_bench.scoring import read_truth

CASES = {
    "chest_xray_jsrt/JPCLN002*": 1,
    "brain_t1/*": 10,
    "retina_fire/A01": None,
    "histology_lesion3/CD31-3_Cc10-5": None,
    "samreg_abdomen/s70_s50": 1,
    "hippocampus/001_003": 1,
    "remote_sensing/optical_155": None,
    "acdc_intra/patient067_fixED": 3,
}
"""A pair, and the label that is clicked; None is a landmark."""


def place(truth: Truth, label: int | None) -> np.ndarray:
    """Return the world point of the fixed image to click at."""
    if label is None:
        assert truth.points is not None
        points = np.asarray(truth.points[0])
        return points[np.linalg.norm(points - points.mean(0), axis=1).argmin()]
    assert truth.labels is not None
    return inner_point(truth.labels[0].data[0].numpy() == label, truth.labels[0].grid)


def shown(case: str, folder: CaseFolder, pair: Case, server: Server, browser: Any, out: Path) -> str:
    """Open a pair, click, keep, register, with a picture of each; return a row of the table."""
    fixed, moving = folder.file(pair, "fixed"), folder.file(pair, "moving")
    session = server.hub.open(ViewerJob(fixed=fixed, moving=moving, out=out / "result"))
    window = Window(browser, server.address(session.name), size=(1280, 760))
    window.ready(seconds=600)
    truth = read_truth(folder, pair)
    answer = window.click("fixed", place(truth, CASES[case]))
    name = folder.content.name
    window.page.wait_for_timeout(1000)
    window.page.screenshot(path=out / f"{name}-click.png")
    said = answer["reason"] if answer["other"] is None else f"{100 * answer['confidence']:.0f} %"
    if answer["other"] is not None:
        window.page.keyboard.press("Enter")
    window.page.keyboard.press("f")
    fit = window.fitted("full", seconds=600)
    window.page.wait_for_timeout(4000)
    window.page.screenshot(path=out / f"{name}-full.png")
    wrong = window.errors + window.outside
    assert session.fitting.transform is not None
    metrics = score(session.fitting.transform, truth).metrics
    agreed = next(metrics[m] for m in ("landmark_error_mean", "dice_mean") if m in metrics)
    window.close()
    server.hub.close(session.name)
    row = f"{name}/{pair.id}", said, fit["verdict"], f"{agreed.before:.3g}", f"{agreed.value:.3g}", str(wrong or "-")
    return f"| {' | '.join(row)} |"


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    print("| pair | click | verdict | before | after | errors of the page |\n|---|---|---|---|---|---|")
    with running(out=out) as server, chromium() as browser:
        for case in sys.argv[3:] or CASES:
            (folder,) = choose_cases(find_folders(data, {case.split("/")[0]}), [case])
            print(shown(case, folder, folder.content.pairs[0], server, browser, out), flush=True)


if __name__ == "__main__":
    main()
