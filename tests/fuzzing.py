"""Damaged files for every reader, and the child process that reads them.

`KINDS` names what is read: how a small valid file is made and what reads it. As a script it reads ``COUNT`` damaged
copies of every kind and prints a line of JSON per copy; it gives up memory beyond `MEMORY` and ends itself when a
copy takes longer than `SECONDS`, so that the caller learns which one it was.
"""

from __future__ import annotations

import faulthandler
import gzip
import json
import re
import shutil
import sys
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 20
MEMORY = 2 << 30

Draw = np.random.Generator


@dataclass(frozen=True)
class Kind:
    """A file name (or folder), how it is made, what reads it, and how it is damaged besides flipped bytes."""

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    damage: tuple[str, ...] = ("bytes",)


# -- valid files ----------------------------------------------------------------------------------


def _volume(labels: bool = False) -> Any:
    import torch

    from roireg.core.image import Image
    from support import make_grid

    grid = make_grid((5, 7, 6), (2.0, 1.5, 1.2), origin=(-10, 20, 5))
    index = torch.arange(5 * 7 * 6).reshape(1, 5, 7, 6)
    if labels:
        return Image((index // 40).to(torch.int32), grid, name="labels")
    return Image((index % 97).float(), grid, name="volume", dtype="int16")


def _image(path: Path) -> None:
    from roireg.io import write_image

    write_image(path, _volume())


def _itk_image(path: Path) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(_volume().data[0].numpy().astype(np.int16))
    sitk.WriteImage(image, str(path), useCompression=True)


def _series(path: Path) -> None:
    import nibabel

    values = np.arange(5 * 6 * 4 * 3, dtype=np.float32).reshape(5, 6, 4, 3)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2, 3, 1])), path)


def _labels(path: Path) -> None:
    from roireg.io import write_labels

    write_labels(path, _volume(labels=True))


def _picture(path: Path) -> None:
    import PIL.Image

    values = np.random.default_rng(1).integers(0, 255, (14, 17, 3), dtype=np.uint8)
    PIL.Image.fromarray(values).save(path)


def _palette(path: Path) -> None:
    import PIL.Image

    PIL.Image.fromarray(np.arange(14 * 17, dtype=np.uint8).reshape(14, 17) // 60).convert("P").save(path)


def _tiff(path: Path) -> None:
    import tifffile

    values = np.random.default_rng(2).integers(0, 4000, (3, 32, 48), dtype=np.uint16)
    tifffile.imwrite(
        path, values, tile=(16, 16), compression="zlib", metadata={"axes": "CYX"}, ome=".ome." in path.name
    )


def _dicom(folder: Path) -> None:
    import dicom_files

    positions = [dicom_files.CORNER + (0, 0, 3.0 * k) for k in range(3)]
    dicom_files.write_series(folder, positions, np.eye(3)[:2], shape=(8, 9), uid="1.2.3.4")


def _enhanced(path: Path) -> None:
    import dicom_files

    frames = [(np.full((8, 9), 10 * k, dtype="<i2"), 3.0 * k, 0) for k in range(3)]
    dicom_files.write_enhanced(path, frames, slopes=(1.0, 2.0, 3.0))


def _chain() -> Any:
    import torch

    from roireg.core.transforms import Affine, Chain, DisplacementField

    grid = _volume().grid
    bend = 0.5 * torch.sin(torch.arange(3 * 5 * 7 * 6).reshape(3, 5, 7, 6).float())
    return Chain((DisplacementField(grid, bend), Affine.translation([1.0, 2, 3])))


def _composite(path: Path) -> None:
    from roireg.io import write_transform

    write_transform(path, _chain())


def _affine(path: Path) -> None:
    from roireg.core.transforms import Affine
    from roireg.io import write_transform

    write_transform(path, Affine.translation([1.0, 2, 3]))


def _field(path: Path) -> None:
    from roireg.io import write_transform

    write_transform(path, _chain().transforms[0])


def _bspline(path: Path) -> None:
    import SimpleITK as sitk

    spline = sitk.BSplineTransformInitializer(sitk.Image(20, 20, sitk.sitkFloat32), [3, 3])
    sitk.WriteTransform(spline, str(path))


def _text(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text, encoding="utf-8") and None


def _points(path: Path) -> None:
    from roireg.io import PointSet, write_points

    write_points(path, PointSet(np.arange(12.0).reshape(4, 3), ("a", "b", "c", "d")))


def _pairs(path: Path) -> None:
    from roireg.core.rois import Prompt, ROIPair, ROIPairs, ROISet
    from roireg.io import write_pairs

    labels = _volume(labels=True)
    rois = ROISet.from_labels(labels.data[0], labels.grid)
    prompt = Prompt(np.array([[1.0, 2.0, 3.0]]), np.array([1]))
    pairs = (ROIPair(0, 0, 0.9, 0.8, name="liver", prompts=(prompt,)), ROIPair(1, 2, 0.5, 0.4, status="accepted"))
    write_pairs(path, ROIPairs(rois, rois, pairs))


def _result(path: Path) -> None:
    document = {
        "verdict": "ok",
        "reasons": ["none"],
        "metrics": {"ncc": {"value": 0.9, "before": 0.5, "label": "NCC", "unit": "", "better": ""}},
        "provenance": {
            "inputs": {"fixed": {"path": "fixed.nii.gz"}, "moving": {"path": "moving.nii.gz"}},
            "arguments": {"frame": None, "level": None, "page": None, "channel": None},
        },
        "files": {"transform.h5": "0" * 64},
    }
    path.mkdir()
    (path / "result.json").write_text(json.dumps(document), encoding="utf-8")
    _affine(path / "transform.h5")
    for side in ("fixed", "moving"):
        _image(path / f"{side}.nii.gz")


_ELASTIX = """(Transform "EulerTransform")
(NumberOfParameters 6)
(TransformParameters 0.1 0.02 -0.03 1.5 -2.5 3.5)
(InitialTransformParametersFileName "NoInitialTransform")
(UseBinaryFormatForTransformationParameters "false")
(HowToCombineTransforms "Compose")
(FixedImageDimension 3)
(MovingImageDimension 3)
(CenterOfRotationPoint 1.0 2.0 3.0)
(ComputeZYX "false")
"""
_VOLUME_OF_LTA = """valid = 1  # volume info valid
filename = a.mgz
volume = 12 14 16
voxelsize = 1.0 1.0 1.0
xras   = -1.0 0.0 0.0
yras   = 0.0 0.0 -1.0
zras   = 0.0 1.0 0.0
cras   = 1.0 2.0 3.0
"""
_LTA = f"""type      = 1
nxforms   = 1
mean      = 0.0 0.0 0.0
sigma     = 10000.0
1 4 4
1.0 0.0 0.0 2.0
0.0 1.0 0.0 3.0
0.0 0.0 1.0 4.0
0.0 0.0 0.0 1.0
src volume info
{_VOLUME_OF_LTA}dst volume info
{_VOLUME_OF_LTA}"""
_SETTINGS = """segment: {max_count: 24, min_fraction: 0.001}
match: {threshold: 0.5, weights: {inside: 1.0}}
stages:
- {stage: search}
- {stage: velocity, step: 0.5, iterations: [10, 5]}
"""


# -- readers --------------------------------------------------------------------------------------


def _read_image(path: Path) -> None:
    from roireg.io import read_image

    read_image(path)


def _read_frame(path: Path) -> None:
    from roireg.io import read_image

    read_image(path, frame=1, finite=False)


def _read_labels(path: Path) -> None:
    from roireg.io import read_labels

    read_labels(path)


def _read_transform(path: Path) -> None:
    from roireg.io import read_transform

    transform = read_transform(path)
    transform.map_points(np.zeros((1, transform.ndim)))


def _read_matrix(path: Path) -> None:
    from roireg.io import read_transform

    read_transform(path, convention="ras")


def _read_points(path: Path) -> None:
    from roireg.io import read_points

    read_points(path)


def _read_pairs(path: Path) -> None:
    from roireg.app.info import describe

    describe(path)


def _read_settings(path: Path) -> None:
    from roireg.pipeline import Config

    Config.load(path)


def _read_result(path: Path) -> None:
    from roireg.app.report import ReportOptions, _page
    from roireg.app.stored import stored_result

    options = ReportOptions(
        folder=path, fixed=path / "fixed.nii.gz", moving=path / "moving.nii.gz", out=path / "p.html"
    )
    options.check()
    _page(options, stored_result(path))


TEXT, JSON, PACKED = ("bytes", "words"), ("bytes", "words", "json"), ("bytes", "packed")

KINDS = {
    "nifti": Kind("a.nii", _image, _read_image),
    "nifti gz": Kind("a.nii.gz", _image, _read_image, PACKED),
    "nifti series": Kind("a.nii.gz", _series, _read_frame, PACKED),
    "nifti labels": Kind("a.nii.gz", _labels, _read_labels, PACKED),
    "mha": Kind("a.mha", _image, _read_image, TEXT),
    "mha compressed": Kind("a.mha", _itk_image, _read_image, TEXT),
    "mhd": Kind("a.mhd", _itk_image, _read_image, TEXT),
    "nrrd": Kind("a.nrrd", _image, _read_image, TEXT),
    "nrrd compressed": Kind("a.nrrd", _itk_image, _read_image, TEXT),
    "nrrd labels": Kind("a.seg.nrrd", _labels, _read_labels, TEXT),
    "vtk": Kind("a.vtk", _itk_image, _read_image, TEXT),
    "gipl": Kind("a.gipl", _itk_image, _read_image),
    "tiff": Kind("a.tif", _tiff, _read_image),
    "ome tiff": Kind("a.ome.tif", _tiff, _read_image, TEXT),
    "png": Kind("a.png", _picture, _read_image),
    "png labels": Kind("a.png", _palette, _read_labels),
    "jpeg": Kind("a.jpg", _picture, _read_image),
    "bmp": Kind("a.bmp", _picture, _read_image),
    "dicom": Kind("series", _dicom, _read_image),
    "dicom enhanced": Kind("a.dcm", _enhanced, _read_image),
    "h5": Kind("a.h5", _composite, _read_transform),
    "tfm": Kind("a.tfm", _composite, _read_transform, TEXT),
    "mat": Kind("a.mat", _affine, _read_transform),
    "bspline": Kind("a.tfm", _bspline, _read_transform, TEXT),
    "field": Kind("a.nii.gz", _field, _read_transform, PACKED),
    "field mha": Kind("a.mha", _field, _read_transform, TEXT),
    "field nrrd": Kind("a.nrrd", _field, _read_transform, TEXT),
    "elastix": Kind("TransformParameters.0.txt", _text(_ELASTIX), _read_transform, TEXT),
    "lta": Kind("a.lta", _text(_LTA), _read_transform, TEXT),
    "matrix": Kind("a.txt", _text("1 0 0 2\n0 1 0 3\n0 0 1 4\n0 0 0 1\n"), _read_matrix, TEXT),
    "points csv": Kind("a.csv", _points, _read_points, TEXT),
    "points markups": Kind("a.mrk.json", _points, _read_points, JSON),
    "points fcsv": Kind("a.fcsv", _points, _read_points, TEXT),
    "pairs": Kind("pairs", _pairs, _read_pairs, JSON),
    "pairs zip": Kind("pairs.zip", _pairs, _read_pairs, PACKED),
    "settings": Kind("a.yaml", _text(_SETTINGS), _read_settings, TEXT),
    "result": Kind("out", _result, _read_result, JSON),
}


# -- damage ---------------------------------------------------------------------------------------

_NUMBERS = [0, 1, -1, 2, 127, 255, 32767, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 30000]
_FLOATS = [np.nan, np.inf, -np.inf, 0.0, 1e-30, 1e30, -1.0]
_WORDS = ["nan", "inf", "-1", "0", "1e308", "1e-320", "99999999999999999999", "\u00b2", "", "null", "true", "30000"]
_WORDS += ["9" * 5000, "[" * 2000, "&a [*a]", "\\ud800", "../../x", "2020-99-99", "!!int abc", "1 1", "x"]
_VALUES: list[Any] = [None, True, -1, 0, 2**70, 1e308, float("nan"), "", "x", "\ud800", [], {}, [1], {"a": 1}, [[[]]]]


def damaged(data: bytes, draw: Draw, ways: tuple[str, ...], place: Path) -> bytes:
    """Return content with one to three faults."""
    for _ in range(int(draw.integers(1, 4))):
        way = str(draw.choice(ways))
        if way == "json" and place.suffix == ".json":
            data = _changed_json(data, draw)
        elif way == "words":
            data = _changed_words(data, draw)
        elif way == "packed" and data[:2] == b"\x1f\x8b":
            try:
                inner = gzip.decompress(data)
            except (OSError, EOFError, zlib.error):
                inner = data
            data = gzip.compress(_changed_bytes(inner, draw), mtime=0)
        else:
            data = _changed_bytes(data, draw)
    return data


def _changed_bytes(data: bytes, draw: Draw) -> bytes:
    if not data:
        return bytes(draw.integers(0, 256, 8, dtype=np.uint8))
    out = bytearray(data)
    # Half of the faults lie where headers are.
    at = int(draw.integers(0, min(len(out), 400) if draw.random() < 0.5 else len(out)))
    way = int(draw.integers(0, 8))
    if way == 0:
        return bytes(out[:at])
    if way == 1:
        out[at : at + int(draw.integers(1, 512))] = b""
    elif way == 2:
        out[at:at] = out[at : at + 64]
    elif way == 3:
        size = min(len(out) - at, 512)
        out[at : at + size] = bytes(size)
    elif way == 4:
        code = ">" if draw.random() < 0.2 else "<"
        kind = str(draw.choice(["i2", "i4", "i8"]))
        value = np.array(int(draw.choice(_NUMBERS)), dtype="i8").astype(code + kind)
        out[at : at + value.itemsize] = value.tobytes()
    elif way == 5:
        value = np.array(float(draw.choice(_FLOATS)), dtype="<f4" if draw.random() < 0.7 else "<f8")
        out[at : at + value.itemsize] = value.tobytes()
    else:
        for _ in range(int(draw.integers(1, 6))):
            out[int(draw.integers(0, len(out)))] ^= 1 << int(draw.integers(0, 8))
    return bytes(out)


def _changed_words(data: bytes, draw: Draw) -> bytes:
    places = list(re.finditer(rb"[\w.+-]+", data[:4096]))
    if not places:
        return data
    chosen = places[int(draw.integers(0, len(places)))]
    word = str(draw.choice(_WORDS)).encode("utf-8", "surrogatepass")
    return data[: chosen.start()] + word + data[chosen.end() :]


def _changed_json(data: bytes, draw: Draw) -> bytes:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return data
    nodes: list[tuple[Any, Any]] = []
    waiting = [content]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict | list):
            keys = list(node) if isinstance(node, dict) else range(len(node))
            nodes += [(node, key) for key in keys]
            waiting += [node[key] for key in keys]
    if not nodes:
        return data
    node, key = nodes[int(draw.integers(0, len(nodes)))]
    if draw.random() < 0.2:
        del node[key]
    else:
        node[key] = _VALUES[int(draw.integers(0, len(_VALUES)))]
    return json.dumps(content).encode()


def make_damaged(valid: Path, target: Path, draw: Draw, ways: tuple[str, ...]) -> None:
    """Copy a file, folder or archive with faults in one of its files."""
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    if valid.is_dir():
        shutil.copytree(valid, target)
        names = sorted(p for p in target.iterdir() if p.is_file())
        documents = [p for p in names if p.suffix == ".json"]
        chosen = documents if documents and draw.random() < 0.8 else names
        file = chosen[int(draw.integers(0, len(chosen)))]
        file.write_bytes(damaged(file.read_bytes(), draw, ways, file))
    elif valid.suffix == ".zip" and draw.random() < 0.6:
        with zipfile.ZipFile(valid) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
            entries = old.infolist()
            hit = int(draw.integers(0, len(entries)))
            for k, entry in enumerate(entries):
                data = old.read(entry)
                new.writestr(entry.filename, damaged(data, draw, JSON, Path(entry.filename)) if k == hit else data)
    else:
        for file in valid.parent.iterdir():  # the data beside an .mhd
            if file != valid and file.is_file():
                shutil.copy(file, target.parent / file.name)
        target.write_bytes(damaged(valid.read_bytes(), draw, ways, target))


# -- the child process ----------------------------------------------------------------------------


def try_one(kind: Kind, target: Path, *, valid: bool = False) -> str:
    """Read a file; return "" when it is read or (unless valid) refused with one sentence, else what is wrong."""
    from roireg.core.errors import HeaderWarning, RoiregError

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", HeaderWarning)
        try:
            kind.read(target)
        except RoiregError as error:
            text = str(error)
            if valid or "\n" in text or len(text) > 1000 or str(target.name) not in text:
                return f"unclear message: {text[:1500]}"
        except BaseException:
            return traceback.format_exc()[-3000:]
    return ""


def _limit_memory() -> None:
    import resource

    with Path("/proc/self/statm").open(encoding="ascii") as stream:
        used = int(stream.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def main(folder: Path, count: int, first: int, names: list[str]) -> None:
    """Read `count` damaged copies of every kind, from the copy of that number on."""
    import roireg.app.report
    import roireg.evaluate
    import roireg.pipeline  # noqa: F401  (what readers import takes memory, too)

    _limit_memory()
    number = 0
    for name in names:
        kind = KINDS[name]
        place = folder / name.replace(" ", "_")
        for part in ("valid", "tried"):
            (place / part).mkdir(parents=True, exist_ok=True)
        valid, target = place / "valid" / kind.name, place / "tried" / kind.name
        if not valid.exists():
            kind.make(valid)
            if wrong := try_one(kind, valid, valid=True):
                print(json.dumps({"kind": name, "copy": -1, "wrong": wrong}), flush=True)
        for copy in range(count):
            number += 1
            if number <= first:
                continue
            draw = np.random.default_rng([list(KINDS).index(name), copy])
            make_damaged(valid, target, draw, kind.damage)
            print(json.dumps({"kind": name, "copy": copy, "number": number}), flush=True)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            wrong = try_one(kind, target)
            faulthandler.cancel_dump_traceback_later()
            if wrong:
                print(json.dumps({"kind": name, "copy": copy, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] or list(KINDS))
