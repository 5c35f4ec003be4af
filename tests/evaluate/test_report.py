"""The report: complete, self-contained, and robust against odd input."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from roireg.core.errors import GeometryError, InputError
from roireg.core.filters import gaussian_smooth
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROIPair, ROIPairs, ROISet
from roireg.core.transforms import Affine, Chain, DisplacementField, VelocityField
from roireg.core.warp import warp
from roireg.evaluate import MetricValue, ReportInput, metric, render_report
from roireg.evaluate.plots import intensity_window, to_picture

VOID = {"meta", "img", "input", "br", "hr", "link"}
LIMIT = 5_000_000


class Page(HTMLParser):
    """Collect the tags of a page and check that they nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.tags if name in (a.get("class") or "").split()]

    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def decoded(image: dict[str, str | None]) -> np.ndarray:
    """Return the pixels of an embedded picture."""
    return np.asarray(PillowImage.open(BytesIO(base64.b64decode(str(image["src"]).partition(",")[2]))), dtype=float)


def phantom(grid: Grid, channels: int = 1, dtype: str = "float32", unit: str = "mm") -> Image:
    distance = np.linalg.norm((grid.points() - grid.center) / (grid.extent[::-1] / 2), axis=1).reshape(grid.shape)
    values = 200 * (distance < 0.7) + 50 * (distance < 0.3)
    data = torch.from_numpy(np.stack([values * (c + 1) / channels for c in range(channels)])).float()
    return Image(data, grid, "case/<b>phantom</b>.nii.gz", unit, dtype)


def two_pairs(grid: Grid) -> ROIPairs:
    distance = np.linalg.norm((grid.points() - grid.center) / (grid.extent[::-1] / 2), axis=1).reshape(grid.shape)
    masks = torch.from_numpy(np.stack([distance < 0.7, distance < 0.3]))
    rois = ROISet(masks, grid, ("body", None))
    pairs = (ROIPair(0, 0, 0.97, 0.9, "labels"), ROIPair(1, 1, 0.8, 0.4, status="rejected"))
    return ROIPairs(rois, rois, pairs)


GRIDS = {
    "2D": Grid.pixels((60, 90)),
    "2D tiny": Grid.pixels((3, 5)),
    "3D anisotropic": Grid.from_itk((24, 20, 6), (1.4, 1.4, 9), (3, 4, 5), np.diag([-1, -1, 1])),
    "3D one slice": Grid.from_itk((24, 20, 1), (1, 1, 5), (0, 0, 0), np.eye(3)),
    "3D line": Grid.from_itk((1, 1, 9), (1, 1, 1), (0, 0, 0), np.eye(3)),
}


def check(html: str) -> Page:
    page = Page(html)
    assert page.open == []
    assert not re.search(r"https?:|//[a-z]|url\((?!#)|@import", re.sub(r"base64,[^\"]+", "", html))
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "iframe", "object", "embed"})
    for image in page.images():
        assert image["alt"]
        head, _, body = str(image["src"]).partition(",")
        assert head == "data:image/jpeg;base64"
        assert min(PillowImage.open(BytesIO(base64.b64decode(body))).size) >= 1
    assert len(html) < LIMIT
    return page


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("with_pairs", [True, False])
def test_every_kind_of_image_gives_a_complete_page(name: str, with_pairs: bool) -> None:
    grid = GRIDS[name]
    image = phantom(grid)
    transform = Affine.translation(np.full(grid.ndim, 1.5))
    pairs = two_pairs(grid) if with_pairs and grid.size > 100 else None
    page = check(render_report(ReportInput("A case", image, image, transform, pairs=pairs)))
    shown = 3 if name == "3D anisotropic" else 1
    assert len(page.images()) == shown * (4 + 2 + 2 * (pairs is not None))
    assert "No doubt found" in page.text
    assert ("Axial" in page.text) == (name in ("3D anisotropic", "3D one slice"))


def test_everything_given_is_shown_once_escaped() -> None:
    grid = GRIDS["3D anisotropic"]
    image = phantom(grid)
    html = render_report(
        ReportInput(
            "Title <script>alert(1)</script>",
            image,
            image,
            Affine.identity(3),
            pairs=two_pairs(grid),
            verdict="uncertain",
            reasons=["Similarity is no better than before."],
            metrics={
                "dice_mean": metric("dice_mean", 0.812, 0.5),
                "folding_percent": 0.25,
                "odd": MetricValue(float("nan"), unit="mm"),
            },
            provenance={"seed": 7, "arguments": {"preset": "default"}, "list": [1, 2]},
        )
    )
    page = check(html)
    assert "<script>alert" not in html
    assert "<b>phantom" not in html
    for text in (
        "Title <script>alert(1)</script>",
        "Uncertain",
        "Similarity is no better than before.",
        "Dice, mean over labels",
        "0.812",
        "▲ better",
        "Folded voxels (det J ≤ 0)",
        "not measurable",
        "arguments.preset",
        "[1, 2]",
        "1 pair in use, 1 rejected",
        "1 of 2 fixed and 1 of 2 moving regions have no counterpart",
        "body",
    ):
        assert text in page.text, text


def test_same_input_gives_the_same_page() -> None:
    grid = GRIDS["2D"]
    given = ReportInput("A", phantom(grid), phantom(grid), Affine.translation([1, 2]), pairs=two_pairs(grid))
    assert render_report(given) == render_report(given)


def test_given_warped_image_is_what_is_shown() -> None:
    grid = GRIDS["2D"]
    image = phantom(grid)
    transform = Affine.translation([4, 2])
    alone = render_report(ReportInput("A", image, image, transform))
    given = ReportInput("A", image, image, transform, warped=warp(image, transform, grid, fill=0))
    changed = replace(given, warped=image)
    after, same, other = (
        decoded(Page(html).images()[3]) for html in (alone, render_report(given), render_report(changed))
    )
    # Interpolated once or twice: edges differ by a little.
    assert np.abs(after - same).mean() < 2
    assert np.abs(after - other).mean() > 8


def test_state_before_follows_the_initial_transform() -> None:
    image = phantom(GRIDS["2D"])
    transform = Affine.translation([9, 0])
    page = Page(render_report(ReportInput("A", image, image, transform, start=transform)))
    assert page.images()[1]["src"] == page.images()[3]["src"]
    page = Page(render_report(ReportInput("A", image, image, transform)))
    assert page.images()[1]["src"] == page.images()[0]["src"]
    assert page.images()[3]["src"] != page.images()[0]["src"]


def test_raster_images_are_measured_in_pixels() -> None:
    image = phantom(GRIDS["2D"], 3, "uint8", "px")
    metrics = {"landmark_error_mean": 2.0}
    page = check(render_report(ReportInput("A", image, image, Affine.identity(2), metrics=metrics)))
    assert "px" in page.text
    assert " mm" not in page.text
    assert "colour" in page.text


def test_moving_image_may_have_another_grid_and_channel_count() -> None:
    fixed, moving = (
        phantom(GRIDS["3D anisotropic"]),
        phantom(Grid.from_itk((9, 8, 7), (3,) * 3, (0,) * 3, np.eye(3)), 2),
    )
    pairs = ROIPairs(two_pairs(moving.grid).moving, two_pairs(fixed.grid).fixed, (ROIPair(0, 0, 1, 1),))
    far = Affine.translation([1000, 0, 0])
    check(render_report(ReportInput("A", fixed, moving, far, pairs=pairs)))


def test_pairs_that_are_too_many_are_counted_not_hidden() -> None:
    grid = Grid.pixels((40, 60))
    masks = torch.zeros((24, *grid.shape), dtype=torch.bool)
    for i in range(24):
        masks[i, 10 * (i // 6) : 10 * (i // 6) + 8, 10 * (i % 6) : 10 * (i % 6) + 8] = True
    rois = ROISet(masks, grid)
    pairs = ROIPairs(rois, rois, tuple(ROIPair(i, i, 1, 0.5) for i in range(24)))
    even = Image(torch.rand(1, *grid.shape, generator=torch.Generator().manual_seed(0)), grid)
    page = check(render_report(ReportInput("A", even, even, Affine.identity(2), pairs=pairs)))
    assert "Drawn: 20 confident ones" in page.text
    assert sum("none" in str(a["class"]) for a in page.of_class("swatch")) == 4
    assert len(page.of_class("region")) == len(page.of_class("shape-number")) == 40


def test_folding_is_stated_and_drawn() -> None:
    grid = GRIDS["2D"]
    u = torch.zeros((2, *grid.shape))
    u[0] = -2 * (torch.arange(90) - 45).clamp_min(0)
    html = render_report(ReportInput("A", phantom(grid), phantom(grid), DisplacementField(grid, u), verdict="failed"))
    assert "50 % of the plane shown" in check(html).text
    flow = VelocityField(grid, gaussian_smooth(torch.randn(u.shape, generator=torch.Generator().manual_seed(0)), 9))
    assert (
        "Folded (det J ≤ 0): 0 %" in check(render_report(ReportInput("A", phantom(grid), phantom(grid), flow))).text
    )


def test_bad_input_is_refused() -> None:
    flat, solid = phantom(GRIDS["2D"]), phantom(GRIDS["3D anisotropic"])
    with pytest.raises(InputError, match="a verdict is one of"):
        ReportInput("A", flat, flat, Affine.identity(2), verdict="fine")
    with pytest.raises(GeometryError, match="one dimension"):
        ReportInput("A", flat, solid, Affine.identity(3))
    with pytest.raises(GeometryError, match="fixed grid"):
        ReportInput("A", flat, flat, Affine.identity(2), warped=phantom(GRIDS["2D tiny"]))


def test_window_and_picture() -> None:
    gray = Image(torch.arange(1000.0).reshape(1, 10, 100), Grid.pixels((10, 100)))
    low, high = intensity_window(gray)
    assert (low, high) == pytest.approx((4.995, 994.005), abs=0.1)
    picture = to_picture(gray.data.numpy(), (low, high))
    assert (picture.min(), picture.max(), picture.shape) == (0, 255, (10, 100, 3))
    flat = gray.with_data(torch.full((1, 10, 100), 5.0))
    assert intensity_window(flat) == (5.0, 6.0)
    assert intensity_window(phantom(GRIDS["2D"], 3, "uint8")) == (0, 255)


def slices(html: str) -> list[list[dict[str, object] | None]]:
    return json.loads(str(re.search(r'id="slices">(.*?)</script>', html, re.DOTALL)[1]))  # type: ignore[index]


def test_slices_of_the_body_can_be_scrolled() -> None:
    grid = Grid.from_itk((40, 50, 60), (1, 1, 1), (0, 0, 0), np.eye(3))
    data = torch.zeros(1, *grid.shape)
    data[0, 20:50, 10:40, 12:30] = torch.rand(30, 30, 18, generator=torch.Generator().manual_seed(0)) + 1
    image = Image(data, grid)
    html = render_report(ReportInput("A", image, image, Affine.translation([2, 0, 0])))
    page = check(html)
    axial, coronal, sagittal = slices(html)
    assert [len(frames) for frames in (axial, coronal, sagittal)] == [20, 20, 18]
    for frames, (first, last) in ((axial, (20, 49)), (sagittal, (12, 29))):
        places = [int(str(f["position"]).split("slice ")[1].split("/")[0]) - 1 for f in frames if f]
        assert first <= places[0] <= first + 3
        assert last - 3 <= places[-1] <= last
        assert places == sorted(set(places))
    sliders = page.of_class("slice")
    assert [frames[int(str(s["value"]))] for frames, s in zip((axial, coronal, sagittal), sliders, strict=True)] == [
        None
    ] * 3
    assert all(set(f) == {"position", "fixed", "before", "after", "marks"} for f in axial if f)


def test_noise_stays_below_the_size_of_a_page() -> None:
    grid = Grid.from_itk((320, 320, 10), (1, 1, 8), (0, 0, 0), np.eye(3))
    random = torch.Generator().manual_seed(0)
    image = Image(torch.randint(0, 256, (3, *grid.shape), generator=random).float(), grid, dtype="uint8")
    labels = Image(torch.randint(0, 4, (1, *grid.shape), generator=random).int(), grid)
    check(render_report(ReportInput("A", image, image, Affine.identity(3), labels=(labels, labels))))


def test_labels_and_landmarks_are_drawn_where_they_lie_before_and_after() -> None:
    grid = Grid.pixels((100, 200))
    image = phantom(grid)
    fixed, moving = torch.zeros(1, 100, 200), torch.zeros(1, 100, 200)
    fixed[0, 20:60, 100:140] = 7
    moving[0, 30:70, 120:160] = 7
    labels = tuple(Image(data, grid) for data in (fixed, moving))
    points = np.array([[100.0, 50.0]]), np.array([[120.0, 60.0]])
    shift = Affine.translation([20, 10])
    page = check(render_report(ReportInput("A", image, image, shift, labels=labels, points=points)))
    marks = {a["data-mark"]: numbers(str(a["d"])) for _, a in page.tags if "data-mark" in a}
    # 1000 units are 200 pixels; a path begins with the absolute position of its first point.
    assert marks["outline_fixed"] == marks["outline_after"] != marks["outline_before"]
    assert marks["outline_fixed"][0] == pytest.approx(500, abs=205)
    assert marks["dots_fixed"][:2] == marks["dots_after"][:2] == [502, 252]
    assert marks["dots_before"][:2] == [602, 302]
    assert marks["arrows_before"][:4] == [602, 302, 502, 252]
    assert marks["arrows_after"] == [502, 252, 502, 252]


@pytest.mark.parametrize("side", [0, 1])
def test_labels_and_landmarks_of_one_side_are_drawn_alone(side: int) -> None:
    grid = GRIDS["3D anisotropic"]
    image = phantom(grid)
    labels, points = [None, None], [None, None]
    labels[side], points[side] = image.with_data((image.data > 20).int()), grid.center[None]
    html = render_report(
        ReportInput("A", image, image, Affine.identity(3), labels=tuple(labels), points=tuple(points))
    )
    marks = [a["data-mark"] for _, a in check(html).tags if a.get("d") and "data-mark" in a]
    assert ("outline_fixed" in marks, "dots_fixed" in marks) == (side == 0, side == 0)
    assert ("outline_after" in marks, "dots_before" in marks) == (side == 1, side == 1)
    assert not {"arrows_before", "arrows_after"} & set(marks)


def numbers(path: str) -> list[int]:
    return [int(n) for n in re.findall(r"-?\d+", path)]


def test_what_got_worse_is_said_beside_the_verdict() -> None:
    image = phantom(GRIDS["2D"])
    html = render_report(ReportInput("A", image, image, Affine.identity(2), worse=["Label 3 <overlaps> less."]))
    head = html[html.index("<header") : html.index("</header")]
    assert "Label 3 &lt;overlaps&gt; less." in head[: head.index("<dl")]


@pytest.mark.parametrize("spacing", [1e-6, 1e6])
def test_any_spacing_can_be_laid_out(spacing: float) -> None:
    grid = Grid.from_itk((24, 20, 16), (spacing,) * 3, (0, 0, 0), np.eye(3))
    image = phantom(grid)
    html = render_report(ReportInput("A", image, image, Affine.translation([spacing, 0, 0]), pairs=two_pairs(grid)))
    ratios = {a["style"] for a in check(html).of_class("frame")}
    assert ratios == {f"aspect-ratio:{w}/{h}" for w, h in ((1.0, 0.8333), (1.0, 0.6667), (0.8333, 0.6667))}


def test_landmarks_without_partners_are_refused() -> None:
    image = phantom(GRIDS["2D"])
    with pytest.raises(InputError, match="row by row"):
        ReportInput("A", image, image, Affine.identity(2), points=(np.zeros((2, 2)), np.zeros((3, 2))))


def test_a_field_that_moves_nothing_is_not_named_as_the_motion() -> None:
    grid = GRIDS["2D"]
    image, affine = phantom(grid), Affine(np.array([[1.1, 0, 3.0], [0, 1, 4.0], [0, 0, 1]]))
    still = DisplacementField(grid, torch.zeros(2, *grid.shape))
    moving = DisplacementField(grid, torch.ones(2, *grid.shape))
    page = render_report(ReportInput("A case", image, image, Chain((still, affine))))
    assert "affine" in page and "displacement field" not in page
    assert "displacement field, then affine" in render_report(
        ReportInput("A case", image, image, Chain((moving, affine)))
    )
    rigid = render_report(ReportInput("A case", image, image, Chain((still, Affine.translation([3.0, 4.0])))))
    assert "<dd>translation<" in rigid
