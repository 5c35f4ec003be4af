"""Bad input of every class to every command: exit code 2, one line that says what is wrong, nothing left behind.

One row of `CASES` is one try. ``{name}`` in its arguments is a file of the scenes or of `bad_files`, ``{out}`` a
place that does not exist.
"""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest

from app.scenes import Scene, run
from roireg.core.transforms import Affine
from roireg.io import write_transform

HUGE = "9" * 5000
MARKUPS = '{"markups": [{"coordinateSystem": "LPS", "controlPoints": %s}]}'
TFM = "#Insight Transform File V1.0\n#Transform 0\nTransform: %s\nParameters: %s\nFixedParameters: %s\n"

TEXTS = {
    "words.csv": "hello\nworld\n",
    "nox.csv": "a,b,c\n1,2,3\n",
    "short.csv": "x,y,z\n1,2\n",
    "nan.csv": "x,y,z\n1,nan,2\n",
    "header.csv": "x,y,z\n",
    "decimals.csv": "x,y,z\n1,5,2,0,3,0\n",
    "semicolons.csv": "x;y;z\n1,5;2;3\n",
    "thousands.csv": 'x,y,z\n"1,000",2,3\n',
    "x_twice.csv": "x,y,z,x\n1,2,3,4\n",
    "voxels.fcsv": "# CoordinateSystem = 2\n1,1,2,3\n",
    "nan.fcsv": "# CoordinateSystem = LPS\n1,nan,2,3\n",
    "header.fcsv": "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n",
    "empty.mrk.json": MARKUPS % "[]",
    "nan.mrk.json": MARKUPS % '[{"position": [NaN, 2, 3]}]',
    "two.mrk.json": MARKUPS % '[{"position": [1, 2]}]',
    "unit.mrk.json": MARKUPS.replace('LPS"', 'LPS", "coordinateUnits": "cm"') % '[{"position": [1, 2, 3]}]',
    "nopairs.csv": "fixed,moving\n",
    "gone.csv": "fixed,moving\ngone.nii.gz,gone.nii.gz\n",
    "colour.csv": "fixed,moving,colour\na.png,b.png,red\n",
    "four.csv": "x,y\n1,2\n3,4\n5,6\n7,8\n",
    "quote.csv": 'x,y,z,name\n1,2,3,"' + "a" * 200000 + '"\n',
    "five.mrk.json": MARKUPS % "5",
    "digits.mrk.json": MARKUPS % f'[{{"position": [1, 2, {"9" * 400}]}}]',
    "more_digits.mrk.json": MARKUPS % f'[{{"position": [1, 2, {HUGE}]}}]',
    "deep.mrk.json": "[" * 100000,
    "half.mrk.json": MARKUPS % '[{"label": "\\ud800", "position": [1, 2, 3]}]',
    "unplaced.mrk.json": MARKUPS % '[{"positionStatus": "undefined"}]',
    "system.mrk.json": MARKUPS.replace("LPS", "XYZ") % '[{"position": [1, 2, 3]}]',
    "list.json": "[1, 2]",
    "system.fcsv": "# CoordinateSystem = 7\n1,1,2,3\n",
    "columns.fcsv": "# columns = id,label\n1,a\n",
    "unknown.tfm": TFM % ("StrangeTransform_double_3_3", "1 2 3", ""),
    "count.tfm": TFM % ("AffineTransform_double_3_3", "1 0 0", "0 0 0"),
    "words.tfm": TFM % ("AffineTransform_double_3_3", "one two", "0 0 0"),
    "spline.tfm": TFM % ("BSplineTransform_double_3_3", "1 2", "30000 30000 30000 0 0 0 1 1 1 1 0 0 0 1 0 0 0 1"),
    "infinite.tfm": TFM % ("TranslationTransform_double_3_3", "1e400 0 0", ""),
    "notes.tfm": "dear diary\n",
    "matrix.txt": "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n",
    "flat.txt": "1 0 0 0\n0 1 0 0\n0 0 0 0\n0 0 0 1\n",
    "circle.txt": '(Transform "TranslationTransform")\n(TransformParameters 1 2 3)\n'
    '(InitialTransformParametersFileName "circle.txt")\n',
    "nothing.txt": '(Transform "EulerTransform")\n',
    "short.lta": "type = 1\nnxforms = 1\n1 4 4\n1 0 0\n",
    "empty.h5": "",
    "notes.h5": "dear diary\n",
    "notes.mat": "dear diary\n",
    "dims.mha": "ObjectType = Image\nNDims = 9223372036854775808\nDimSize = 1\nElementDataFile = LOCAL\n",
    "huge.mha": "ObjectType = Image\nNDims = 3\nDimSize = 30000 30000 30000\nElementType = MET_SHORT\n"
    "ElementDataFile = LOCAL\n",
    "huge.nrrd": "NRRD0004\ntype: short\ndimension: 3\nsizes: 30000 30000 30000\nencoding: gzip\n\n",
    "long.nrrd": f"NRRD0004\ntype: {HUGE}\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n\n12345678",
    "list.mhd": "ObjectType = Image\nNDims = 3\nDimSize = 4 4 2\nElementType = MET_SHORT\nElementDataFile = LIST\n"
    "pipe.nii.gz\npipe.nii.gz\n",
    "pattern.mhd": "ObjectType = Image\nNDims = 3\nDimSize = 4 4 2\nElementType = MET_SHORT\n"
    "ElementDataFile = pipe%d.raw 1 2 1\n",
    "list.nhdr": "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 2\nencoding: raw\nendian: little\n"
    "data file: LIST\npipe.nii.gz\npipe.nii.gz\n",
    "alone.mhd": "ObjectType = Image\nNDims = 2\nDimSize = 9 9\nElementType = MET_SHORT\nElementDataFile = a.raw\n",
    "format.mhd": "ObjectType = Image\nNDims = 2\nDimSize = 9 9\nElementType = MET_SHORT\nElementDataFile = %s%n\n",
    "notes.png": "dear diary\n",
    "notes.tif": "dear diary\n",
    "notes.dcm": "dear diary\n",
    "notes.zip": "dear diary\n",
    "bomb.yaml": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "deep.yaml": "[" * 5000,
    "digits.yaml": f"segment: {{max_count: {HUGE}}}\n",
    "date.yaml": "a: 2020-99-99\n",
    "tag.yaml": "a: !!int abc\n",
    "object.yaml": "a: !!python/object/apply:os.system [true]\n",
    "list.yaml": "[1, 2]\n",
    "step.yaml": "stages: [{stage: velocity, step: .inf}]\n",
    "iterations.yaml": "stages: [{stage: velocity, iterations: []}]\n",
    "negative.yaml": "stages: [{stage: velocity, iterations: [-1]}]\n",
    "stage.yaml": "stages: [{stage: guess}]\n",
    "large.yaml": "stages: [{stage: velocity, step: 1.0e+300}]\n",
    "remote.yaml": 'network: {model: "nninteractive=http://example.org:1"}\n',
    "nan.yaml": "match: {threshold: .nan}\n",
}


def _nifti(path: Path, *, shape: tuple[int, ...] = (16, 20, 12), **fields: object) -> None:
    image = nibabel.Nifti1Image(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), np.eye(4))
    data = bytearray(image.to_bytes())
    header = image.header.structarr.copy()
    for name, value in fields.items():
        header[name] = value
    raw = header.tobytes()
    data[: len(raw)] = raw
    path.write_bytes(gzip.compress(bytes(data)) if path.suffix == ".gz" else bytes(data))


def _pairs(folder: Path, scene: Scene, **changes: object) -> None:
    """Pairs of the label maps of a scene, with other entries in the first pair."""
    folder.mkdir()
    image = nibabel.load(scene.fixed_labels)
    matrix = np.diag([-1.0, -1, 1, 1]) @ image.affine @ np.eye(4)[[2, 1, 0, 3]]
    side = {
        "grid": {"shape": image.shape[::-1], "affine": matrix.tolist()},
        "layers": ["rois.nii.gz"],
        "rois": [{"label": label} for label in (1, 2, 3)],
    }
    pairs = [{"id": i, "moving": i, "fixed": i, "similarity": 0.5, "confidence": 0.5} for i in (1, 2)]
    pairs[0] |= changes
    document = {"schema_version": 1, "moving": side, "fixed": side, "pairs": pairs}
    (folder / "rois.nii.gz").write_bytes(scene.fixed_labels.read_bytes())
    (folder / "pairs.json").write_text(json.dumps(document), encoding="utf-8")


def _result(folder: Path, scene: Scene, **changes: object) -> None:
    folder.mkdir()
    document = {
        "verdict": "ok",
        "provenance": {"inputs": {s: {"path": str(getattr(scene, s))} for s in ("fixed", "moving")}, "arguments": {}},
    }
    (folder / "result.json").write_text(json.dumps(document | changes), encoding="utf-8")
    (folder / "transform.h5").write_bytes(scene.truth.read_bytes())


@pytest.fixture(scope="module")
def bad_files(volume: Scene, flat: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bad")
    for name, text in TEXTS.items():
        (place / name).write_text(text, encoding="utf-8")
    (place / "latin.yaml").write_bytes(b"a: \xff\xfe\n")
    (place / "latin.csv").write_bytes(b"x,y,z\n1,2,\xff\n")
    (place / "latin.tfm").write_bytes(b"#Insight Transform File V1.0\n#\xff\xfe\nTransform: \xff\n")
    (place / "empty").mkdir()
    like = nibabel.load(volume.fixed)
    many = np.arange(np.prod(like.shape), dtype=np.int16).reshape(like.shape)
    nibabel.save(nibabel.Nifti1Image(many, like.affine), place / "many.nii.gz")
    packed = bytearray(volume.fixed.read_bytes())
    (place / "cut.nii.gz").write_bytes(packed[: len(packed) // 2])
    packed[len(packed) // 2] ^= 16
    (place / "flipped.nii.gz").write_bytes(packed)
    _nifti(place / "offset.nii", vox_offset=np.nan)
    _nifti(place / "claims.nii.gz", dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])
    _nifti(place / "nowhere.nii.gz", srow_x=np.nan, qform_code=0, quatern_b=np.nan)
    _nifti(place / "kind.nii.gz", datatype=12345)
    whole = flat.fixed.read_bytes()
    (place / "cut.png").write_bytes(whole[: len(whole) // 2])
    PIL.Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(place / "colours.png")
    PIL.Image.fromarray(np.zeros((30, 30), np.uint8)).save(place / "labels.jpg")
    stored = volume.truth.read_bytes()
    (place / "cut.h5").write_bytes(stored[: len(stored) // 2])
    write_transform(place / "away.tfm", Affine.translation([1e6, 0, 0]))
    for name, changes in {
        "confident": {"confidence": 1e308},
        "alike": {"similarity": 1e308},
        "twice": {"id": 2},
        "stranger": {"fixed": 9},
        "status": {"status": "maybe"},
        "click": {"prompts": [{"points": [[1, 2]], "labels": [1]}]},
    }.items():
        _pairs(place / f"pairs_{name}", volume, **changes)
    archive = place / "locked.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("pairs.json", "{}")
    data = bytearray(archive.read_bytes())
    data[6] |= 1  # encrypted, in both headers
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with zipfile.ZipFile(place / "outside.zip", "w") as file:
        file.writestr("../../pairs.json", "{}")
    for name, changes in {
        "verdict": {"verdict": "great"},
        "metrics": {"metrics": {"ncc": 5}},
        "inputs": {"provenance": {"inputs": []}},
        "reasons": {"reasons": 7},
        "moved": {"provenance": {"inputs": {s: {"path": "/nowhere.nii.gz"} for s in ("fixed", "moving")}}},
        "other": {
            "provenance": {"inputs": {s: {"path": str(flat.fixed), "sha256": "0"} for s in ("fixed", "moving")}}
        },
    }.items():
        _result(place / f"result_{name}", volume, **changes)
    (place / "loop").symlink_to(place / "loop")
    (place / "piped").mkdir()
    for name in ("pipe.nii.gz", "pipe1.raw", "piped/transform.h5", "piped/result.json", "piped/1.dcm"):
        os.mkfifo(place / name)
    return place


R = "register {fixed} {moving} -o {out}"
F = "register {flat_fixed} {flat_moving} -o {out}"
P = "prompt {flat_fixed} {flat_moving} -o {out}"
S = "segment {flat_fixed} -o {out}.png"
A = "apply {truth} {moving} --reference {fixed} -o {out}.nii.gz"
AL = "apply {truth} {moving_labels} --reference {fixed} --labels -o {out}.nii.gz"

# (name, arguments, words that the line has)
CASES: list[tuple[str, str, tuple[str, ...]]] = [
    # Usage.
    ("no command of that name", "enrol", ("enrol",)),
    ("no arguments", "register", ("--out",)),
    ("unknown option", f"{R} --colour blue", ("--colour",)),
    ("a value where none belongs", f"{R} --json=5", ("--json",)),
    ("no value", f"{R} --seed", ("--seed",)),
    ("a seed that is no number", f"{R} --seed x", ("--seed", "integer")),
    ("a negative seed", f"{R} --seed -1", ("--seed",)),
    ("no threads", f"{R} --threads 0", ("--threads",)),
    ("too many threads", f"{R} --threads 2147483648", ("--threads",)),
    ("an odd digit as a frame", f"{R} --frame \u00b2", ("--frame", "\u00b2")),
    ("a frame of many digits", f"{R} --frame {HUGE}", ("--frame",)),
    ("three frames", f"{R} --frame 1,2,3", ("--frame",)),
    ("a level of many digits", f"{R} --level {HUGE}", ("--level",)),
    ("an odd digit as a level", f"{R} --level \u00b2", ("--level",)),
    ("an odd digit as a page", f"{R} --page \u00b2", ("--page",)),
    ("a page of a volume", f"{R} --page 1", ("--page",)),
    ("an odd digit as a slice", "convert {fixed} {out}.nii.gz --slice z=\u00b2", ("--slice",)),
    ("a slice of many digits", f"convert {{fixed}} {{out}}.nii.gz --slice z={HUGE}", ("--slice",)),
    ("a slice beyond the end", "convert {fixed} {out}.nii.gz --slice z=99", ("no slice", "99")),
    ("a slice of a picture", "convert {flat_fixed} {out}.png --slice z=1", ("2D already",)),
    ("a size that is none", f"{R} --max-memory lots", ("--max-memory", "4G")),
    ("no memory at all", f"{R} --max-memory 0G", ("--max-memory",)),
    ("a memory of many digits", f"{R} --max-memory {HUGE}G", ("--max-memory",)),
    ("an infinite weight", f"{F} --prompt 20,20 --roi-weight inf", ("weight",)),
    ("a weight beyond all", f"{F} --prompt 20,20 --roi-weight 1e300", ("weight",)),
    ("a negative weight", f"{F} --prompt 20,20 --roi-weight -1", ("weight",)),
    ("a fill that is no number", f"{R} --fill nan", ("--fill",)),
    ("a device of the future", f"{R} --device abacus", ("abacus",)),
    ("a device number", f"{R} --device cuda:99", ("cuda",)),
    ("an output of no name", f"{R} --only film", ("--only", "film")),
    ("no output", f"{R} --only ,", ("--only",)),
    ("a preset of no name", f"{R} --preset best", ("best",)),
    ("a network of no name", f"{F} --model sam-enormous", ("sam-enormous",)),
    ("a file that is no network", f"{F} --model {{notes.h5}}", ("notes.h5",)),
    ("a profile without a network", f"{R} --profile fast", ("--profile", "--model")),
    ("features of no name", f"{F} --features colour", ("colour",)),
    # Paths.
    ("no such file", "register {fixed} {nowhere.png} -o {out}", ("nowhere.png", "no such file")),
    ("a link to itself", "info {loop}", ("loop",)),
    ("an empty folder", "info {empty}", ("empty",)),
    ("a pipe to register", "register {fixed} {pipe.nii.gz} -o {out}", ("pipe.nii.gz", "pipe")),
    ("a pipe to segment", "segment {pipe.nii.gz} -o {out}.nii.gz", ("pipe.nii.gz",)),
    ("a pipe to info", "info {pipe.nii.gz}", ("pipe.nii.gz",)),
    ("a pipe of points", f"{R} --fixed-points {{pipe.nii.gz}}", ("pipe.nii.gz",)),
    ("a pipe as a start", f"{R} --init {{pipe.nii.gz}}", ("pipe.nii.gz",)),
    ("a pipe of settings", f"{R} --config {{pipe.nii.gz}}", ("pipe.nii.gz",)),
    ("a pipe of pairs", f"{R} --pairs {{pipe.nii.gz}}", ("pipe.nii.gz",)),
    ("a pipe as a mask", f"{R} --fixed-mask {{pipe.nii.gz}}", ("pipe.nii.gz",)),
    ("a pipe to convert", "convert {pipe.nii.gz} {out}.nii.gz", ("pipe.nii.gz",)),
    ("a pipe to evaluate", "evaluate {pipe.nii.gz} --fixed {fixed}", ("pipe.nii.gz",)),
    ("a pipe as truth", "evaluate {truth} --fixed {fixed} --truth {pipe.nii.gz}", ("pipe.nii.gz",)),
    ("a pipe to a report", "report {result_moved} --fixed {pipe.nii.gz} -o {out}.html", ("pipe.nii.gz",)),
    ("a pipe of prompts", f"{P} --prompts {{pipe.nii.gz}}", ("pipe.nii.gz",)),
    ("a pipe to apply", "apply {pipe.nii.gz} {moving} --reference {fixed} -o {out}.nii.gz", ("pipe.nii.gz",)),
    ("a pipe as a reference", "apply {truth} {moving} --reference {pipe.nii.gz} -o {out}.nii.gz", ("pipe.nii.gz",)),
    ("a pipe of weights", f"{F} --model {{pipe.nii.gz}}", ("pipe.nii.gz",)),
    ("a pipe to check", "models check {pipe.nii.gz}", ("pipe.nii.gz",)),
    ("slices that are pipes", "info {list.mhd}", ("list.mhd", "pipe.nii.gz", "pipe")),
    ("numbered slices that are pipes", "info {pattern.mhd}", ("pattern.mhd", "pipe1.raw", "pipe")),
    ("slices of NRRD that are pipes", "info {list.nhdr}", ("list.nhdr", "pipe.nii.gz", "pipe")),
    ("a folder of pipes", "info {piped}", ("piped", "DICOM")),
    ("a result of pipes", "apply {piped} {moving} --reference {fixed} -o {out}.nii.gz", ("piped", "transform.h5")),
    ("a page of pipes", "report {piped}", ("piped",)),
    ("a run into pipes", "register {fixed} {moving} -o {piped} --resume", ("piped",)),
    ("a nul in a name", "info a\0b", ("a",)),
    ("a name too long", f"info {'n' * 300}", ("nnn",)),
    ("an output below a file", "convert {fixed} {notes.png}/x.nii.gz", ("notes.png",)),
    ("an output that is a folder", "convert {fixed} {empty}", ("empty",)),
    ("an output with no extension", "convert {fixed} {out}", ("out",)),
    ("an output that is an input", "convert {notes.png} {notes.png}", ("notes.png",)),
    # Images.
    ("text as PNG", "info {notes.png}", ("notes.png",)),
    ("text as TIFF", "info {notes.tif}", ("notes.tif",)),
    ("text as DICOM", "info {notes.dcm}", ("notes.dcm",)),
    ("half a PNG", "segment {cut.png} -o {out}.png", ("cut.png",)),
    ("half a NIfTI", "register {cut.nii.gz} {moving} -o {out}", ("cut.nii.gz", "copy it again")),
    ("a flipped bit", "register {flipped.nii.gz} {moving} -o {out}", ("flipped.nii.gz", "checksum")),
    (
        "a flipped bit to apply",
        "apply {truth} {flipped.nii.gz} --reference {fixed} -o {out}.nii.gz",
        ("flipped.nii.gz",),
    ),
    ("a flipped bit to convert", "convert {flipped.nii.gz} {out}.mha", ("flipped.nii.gz",)),
    ("an offset that is no number", "info {offset.nii}", ("offset.nii",)),
    ("claims of 27 million million voxels", "info {claims.nii.gz}", ("claims.nii.gz",)),
    ("a place that is no number", "info {nowhere.nii.gz}", ("nowhere.nii.gz",)),
    ("an unknown kind of voxels", "info {kind.nii.gz}", ("kind.nii.gz",)),
    ("too many dimensions", "info {dims.mha}", ("dims.mha", "NDims")),
    ("a huge MetaImage", "info {huge.mha}", ("huge.mha", "truncated")),
    ("a huge NRRD", "info {huge.nrrd}", ("huge.nrrd", "truncated")),
    ("a long line of NRRD", "info {long.nrrd}", ("long.nrrd", "characters")),
    ("a header without data", "info {alone.mhd}", ("alone.mhd", "a.raw")),
    ("a format as a name", "info {format.mhd}", ("format.mhd", "%s")),
    ("no such file to match", "match {fixed} {nowhere.png} -o {out}", ("nowhere.png", "no such file")),
    ("2D against 3D to match", "match {fixed} {flat_moving} -o {out}", ("2D", "3D")),
    ("2D against 3D", "register {fixed} {flat_moving} -o {out}", ("2D", "3D")),
    ("2D against 3D to evaluate", "evaluate --fixed {fixed} --moving {flat_moving}", ("2D",)),
    ("2D against 3D to apply", "apply {truth} {flat_moving} --reference {fixed} -o {out}.png", ("2D", "3D")),
    ("labels in colour", f"{F} --fixed-labels {{colours.png}}", ("colours.png", "channels")),
    ("labels in JPEG", f"{F} --fixed-labels {{labels.jpg}}", ("labels.jpg", "JPEG")),
    ("thousands of regions", f"{R} --fixed-rois {{many.nii.gz}} --moving-rois {{many.nii.gz}}", ("3839 values",)),
    ("labels alone", "evaluate --fixed-labels {fixed_labels}", ("--moving-labels",)),
    ("a mask of another size", f"{F} --fixed-mask {{colours.png}}", ("colours.png",)),
    ("values that labels cannot have", f"{AL} --fill nan", ("--fill",)),
    ("values beyond 32 bits", f"{AL} --fill 1e12", ("--fill",)),
    ("half a label", f"{AL} --fill 0.5", ("--fill",)),
    ("a fill in words", f"{A} --fill black", ("--fill", "black")),
    ("a smooth label map", f"{A} --labels --interpolation bspline", ("--interpolation",)),
    ("no voxels in a millimetre", f"{A} --spacing 0", ("--spacing",)),
    ("spacings in words", f"{A} --spacing a,b,c", ("--spacing",)),
    ("spacings far too fine", f"{A} --spacing 1e-9", ("--spacing",)),
    ("a scale of nothing", f"{A} --fixed-scale 0", ("scale",)),
    ("a scale that is no number", f"{A} --fixed-scale nan", ("scale",)),
    ("no reference", "apply {truth} {moving} -o {out}.nii.gz", ("--reference",)),
    # Transforms.
    ("an unknown transform", "info {unknown.tfm}", ("unknown.tfm", "StrangeTransform")),
    ("too few parameters", "info {count.tfm}", ("count.tfm",)),
    ("parameters in words", "info {words.tfm}", ("words.tfm", "line 4")),
    ("a spline without end", "info {spline.tfm}", ("spline.tfm",)),
    ("infinite parameters", "info {infinite.tfm}", ("infinite.tfm",)),
    ("text as a transform", "info {notes.tfm}", ("notes.tfm", "no transform")),
    ("no UTF-8 in a transform", "info {latin.tfm}", ("latin.tfm",)),
    ("a matrix without a convention", "convert {matrix.txt} {out}.h5", ("matrix.txt", "ras:")),
    ("a singular matrix", "convert ras:{flat.txt} {out}.h5", ("flat.txt", "singular")),
    ("a convention of no name", "convert spm:{matrix.txt} {out}.h5", ("spm",)),
    ("FLIRT without its images", "convert fsl:{matrix.txt} {out}.h5", ("matrix.txt", "--fixed")),
    ("transforms in a circle", "info {circle.txt}", ("circle.txt", "circle")),
    ("elastix without numbers", "info {nothing.txt}", ("nothing.txt",)),
    ("half an LTA", "info {short.lta}", ("short.lta",)),
    ("an empty HDF5", "info {empty.h5}", ("empty.h5",)),
    ("text as HDF5", "info {notes.h5}", ("notes.h5",)),
    ("half an HDF5", "apply {cut.h5} {fixed_points} -o {out}.csv", ("cut.h5",)),
    ("text as MATLAB", "info {notes.mat}", ("notes.mat",)),
    ("a 3D start of 2D images", f"{F} --init {{truth}}", ("2D", "3D")),
    ("a start beyond everything", f"{R} --init {{away.tfm}}", ("initial transform",)),
    ("a start of no name", f"{R} --init middle", ("--init", "middle")),
    ("an affine as a field", "convert {truth} {out}.nii.gz", ("grid",)),
    ("an inverse without a transform", "evaluate --fixed {fixed} --truth {truth}", ("--truth",)),
    ("nothing to score", "evaluate", ("nothing to score",)),
    ("a truth of another dimension", "evaluate {truth} --fixed {fixed} --truth {flat_truth}", ("2D",)),
    # Points.
    ("no columns", "info {words.csv}", ("words.csv", "x,y")),
    ("other columns", "info {nox.csv}", ("nox.csv", "x,y")),
    ("a column short", "info {short.csv}", ("short.csv", "line 2")),
    ("a coordinate that is no number", "info {nan.csv}", ("nan.csv", "line 2")),
    ("no points", "info {header.csv}", ("header.csv", "no points")),
    ("decimals cut by commas", "info {decimals.csv}", ("decimals.csv", "line 2", "6 columns")),
    ("decimal commas", "info {semicolons.csv}", ("semicolons.csv", "line 2", "'1,5'")),
    ("thousands apart", "info {thousands.csv}", ("thousands.csv", "line 2", "'1,000'")),
    ("a column twice", "info {x_twice.csv}", ("x_twice.csv", "column x twice")),
    ("points in voxels", "info {voxels.fcsv}", ("voxels.fcsv", "LPS or RAS")),
    ("a fiducial that is no number", "info {nan.fcsv}", ("nan.fcsv", "line 2", "nan")),
    ("a fiducial file of a header", "info {header.fcsv}", ("header.fcsv", "no points")),
    ("markups of none", "info {empty.mrk.json}", ("empty.mrk.json", "no points")),
    ("a markup that is no number", "info {nan.mrk.json}", ("nan.mrk.json", "finite")),
    ("a markup of two numbers", "info {two.mrk.json}", ("two.mrk.json", "three numbers")),
    ("markups in another unit", "info {unit.mrk.json}", ("unit.mrk.json", "'cm'")),
    ("a field of 200,000 letters", "info {quote.csv}", ("quote.csv", "line 2")),
    ("no UTF-8 in points", "info {latin.csv}", ("latin.csv",)),
    (
        "points of another number",
        f"{F} --fixed-points {{flat_fixed_points}} --moving-points {{four.csv}}",
        ("four.csv",),
    ),
    ("points of another dimension", "apply {truth} {four.csv} -o {out}.csv", ("four.csv", "2D")),
    ("points are a number", "info {five.mrk.json}", ("five.mrk.json", "controlPoints")),
    ("400 digits", "info {digits.mrk.json}", ("digits.mrk.json", "finite")),
    ("5000 digits", "info {more_digits.mrk.json}", ("more_digits.mrk.json", "digits")),
    ("brackets without end", "info {deep.mrk.json}", ("deep.mrk.json", "deep")),
    ("half a character", "info {half.mrk.json}", ("half.mrk.json", "surrogate")),
    ("points not placed", "info {unplaced.mrk.json}", ("unplaced.mrk.json", "placed")),
    ("a system of no name", "info {system.mrk.json}", ("system.mrk.json", "LPS")),
    ("a list as markups", "info {list.json}", ("list.json", "markups")),
    ("a system of no number", "info {system.fcsv}", ("system.fcsv", "LPS")),
    ("columns without places", "info {columns.fcsv}", ("columns.fcsv", "x, y and z")),
    ("2D points for Slicer", "convert {flat_fixed_points} {out}.fcsv", ("2D",)),
    ("points as an image", "convert {fixed_points} {out}.png", ("out.png",)),
    # Prompts.
    ("no prompt", P, ("--point",)),
    ("a point in words", f"{P} --point here", ("--point", "here")),
    ("a point of one number", f"{P} --point 5", ("--point",)),
    ("a point of 3 numbers in 2D", f"{P} --point 5,5,5", ("5,5,5",)),
    ("a point that is no number", f"{P} --point nan,5", ("--point",)),
    ("a point outside", f"{P} --point 500,500 --guide identity", ("500",)),
    ("a label too many", f"{P} --point 5,5 --label 1 --label 0", ("--label",)),
    ("a label without a point", f"{P} --box 1,1,5,5 --label 1", ("--label",)),
    ("all outside", f"{P} --point 5,5 --label 0", ("--label",)),
    ("a box of three numbers", f"{P} --box 1,2,3", ("--box",)),
    ("a guide of no name", f"{P} --point 5,5 --guide star", ("star",)),
    ("prompts that are none", f"{P} --prompts {{words.csv}}", ("words.csv",)),
    ("a mask of another grid", f"{P} --mask {{colours.png}}", ("colours.png",)),
    ("a segmenter of no name", f"{P} --point 20,20 --segmenter magic", ("magic",)),
    ("a unit of nothing", f"{P} --prompts {{flat_fixed_points}} --unit px", ("--unit",)),
    ("a point outside to segment", f"{S} --point 500,500", ("500",)),
    ("no regions at all", f"{S} --max-count 0", ("--max-count",)),
    ("sizes upside down", f"{S} --min-size 0.5 --max-size 0.1", ("size",)),
    ("a size that is no fraction", f"{S} --min-size nan", ("size",)),
    ("labels as JPEG", "segment {flat_fixed} -o {out}.jpg", ("out.jpg",)),
    ("a volume as PNG", "segment {fixed} -o {out}.png", ("out.png",)),
    # Settings.
    ("aliases without end", f"{R} --config {{bomb.yaml}}", ("bomb.yaml", "alias")),
    ("brackets of YAML", f"{R} --config {{deep.yaml}}", ("deep.yaml", "deep")),
    ("5000 digits of YAML", f"{R} --config {{digits.yaml}}", ("digits.yaml",)),
    ("a day that is none", f"{R} --config {{date.yaml}}", ("date.yaml",)),
    ("a tag that does not fit", f"{R} --config {{tag.yaml}}", ("tag.yaml",)),
    ("code in settings", f"{R} --config {{object.yaml}}", ("object.yaml",)),
    ("a list of settings", f"{R} --config {{list.yaml}}", ("list.yaml",)),
    ("no UTF-8 in settings", f"{R} --config {{latin.yaml}}", ("latin.yaml", "UTF-8")),
    ("an infinite step", f"{R} --config {{step.yaml}}", ("step.yaml", "step")),
    ("no iterations", f"{R} --config {{iterations.yaml}}", ("iterations.yaml", "iterations")),
    ("negative iterations", f"{R} --config {{negative.yaml}}", ("negative.yaml", "iterations")),
    ("a stage of no name", f"{R} --config {{stage.yaml}}", ("stage.yaml", "guess")),
    ("a number beyond single precision", f"{R} --config {{large.yaml}}", ("large.yaml", "1e+300")),
    ("images to another computer", f"{R} --config {{remote.yaml}}", ("example.org",)),
    ("a threshold that is no number", f"{R} --config {{nan.yaml}}", ("nan.yaml", "threshold")),
    # Pairs and results.
    ("text as an archive", "info {notes.zip}", ("notes.zip",)),
    ("an encrypted archive", "info {locked.zip}", ("locked.zip", "encrypted")),
    ("an archive that climbs", "info {outside.zip}", ("outside.zip",)),
    ("a confidence beyond 1", f"{R} --pairs {{pairs_confident}}", ("pairs_confident", "confidence")),
    ("a similarity beyond all", f"{R} --pairs {{pairs_alike}}", ("pairs_alike", "similarity")),
    ("a number twice", "info {pairs_twice}", ("pairs_twice", "twice")),
    ("a region that is not there", "info {pairs_stranger}", ("pairs_stranger", "9")),
    ("a status of no name", "info {pairs_status}", ("pairs_status", "maybe")),
    ("a flat click in a volume", "info {pairs_click}", ("pairs_click", "3 coordinates")),
    ("pairs of a volume for pictures", f"{F} --pairs {{pairs_click}}", ("pairs_click",)),
    ("a verdict of no name", "report {result_verdict} -o {out}.html", ("result.json", "verdict")),
    ("a metric that is a number", "report {result_metrics} -o {out}.html", ("result.json", "metrics")),
    ("inputs that are a list", "report {result_inputs} -o {out}.html", ("result.json", "inputs")),
    ("reasons that are a number", "report {result_reasons} -o {out}.html", ("result.json", "reasons")),
    ("images that were moved", "report {result_moved} -o {out}.html", ("nowhere.nii.gz", "--fixed")),
    ("other images", "report {result_other} -o {out}.html", ("--fixed",)),
    ("no result", "report {empty} -o {out}.html", ("empty", "result.json")),
    ("a result that is a file", "report {notes.png} -o {out}.html", ("notes.png",)),
    # The benchmark.
    ("a set that is not there", "bench {empty}/set", ("empty/set", "no such folder")),
    ("a set that is none", "bench run {empty} -o {out}", ("empty", "pairs.json")),
    ("a set that is a file", "bench run {words.csv} -o {out}", ("words.csv",)),
    ("no cases to check", "bench check {empty}", ("empty", "pairs.json")),
    ("a page of no rows", "bench page {empty}", ("empty", "results.csv")),
    ("a page of a file", "bench page {words.csv}", ("words.csv", "results.csv")),
    ("no cases to prompt", "bench prompts {empty} -o {out}", ("empty", "pairs.json")),
    ("a layout of no name", "bench adapt nothing {empty} -o {out}", ("nothing", "learn2reg")),
    ("a data set that is none", "bench adapt acdc {empty} -o {out}", ("empty", "Info.cfg")),
    ("a limit of no pairs", "bench prompts {empty} --limit 0", ("--limit",)),
    # The viewer.
    ("no such file to view", "view {fixed} {nowhere.png}", ("nowhere.png", "no such file")),
    ("a picture alone to view", "view {notes.png}", ("notes.png", "result")),
    ("a pipe to view", "view {pipe.nii.gz} {moving} --no-browser", ("pipe.nii.gz", "pipe")),
    ("regions of one side to view", "view {fixed} {moving} --fixed-rois {fixed_labels}", ("--moving-rois",)),
    ("images of a pair", "view {fixed} {moving} --images {fixed},{moving}", ("--images",)),
    ("three images of a result", "view {result_moved} --images a,b,c", ("--images", "FIXED,MOVING")),
    ("a port in words", "view {fixed} {moving} --port http", ("--port",)),
    ("a port beyond all", "serve --port 70000", ("--port",)),
    ("a root that is not there", "serve --root {nowhere}", ("nowhere", "no such folder")),
    ("a root that is a file", "serve --root {notes.png}", ("notes.png", "folder")),
    ("an upload of lots", "serve --max-upload lots", ("--max-upload",)),
    ("results in a file", "serve -o {notes.png}", ("notes.png", "folder")),
    # Cohorts, data sets, templates.
    ("a table of words", "cohort {words.csv} -o {out}", ("words.csv", "hello")),
    ("a table of no rows", "cohort {nopairs.csv} -o {out}", ("nopairs.csv",)),
    ("a table with an unknown column", "cohort {colour.csv} -o {out}", ("colour.csv", "colour")),
    ("a table that is no UTF-8", "cohort {latin.csv} -o {out}", ("latin.csv", "UTF-8")),
    ("a table of 200,000 letters", "cohort {quote.csv} -o {out}", ("quote.csv",)),
    ("a table that is a pipe", "cohort {pipe.nii.gz} -o {out}", ("pipe.nii.gz",)),
    ("a table that is a folder", "cohort {empty} -o {out}", ("empty",)),
    ("no jobs at once", "cohort {gone.csv} -o {out} --jobs 0", ("--jobs",)),
    ("one image to itself", "cohort {fixed} -o {out} --all-pairs", ("two",)),
    ("an empty data set", "bids {empty} {out} participant", ("empty", "dataset_description.json")),
    ("a data set that is a file", "bids {words.csv} {out} participant", ("words.csv",)),
    ("a level of no name", "bids {empty} {out} everybody", ("everybody",)),
    ("a template of one image", "template {fixed} -o {out}", ("two images",)),
    ("a template of pipes", "template {pipe.nii.gz} {pipe.nii.gz} -o {out}", ("pipe.nii.gz",)),
    ("a template of no rounds", "template {fixed} {moving} -o {out} --iterations 0", ("--iterations",)),
    # Training.
    ("scenes as text", "train scenes -o {out}.txt --count 1", ("out.txt",)),
    ("scenes into a folder", "train scenes -o {empty}", ("empty",)),
    ("no scenes", "train scenes -o {out}.png --count 0", ("--count",)),
    ("a training by a list", "train embedding --config {list.yaml} -o {out}", ("list.yaml",)),
    ("a training of brackets", "train embedding --config {deep.yaml} -o {out}", ("deep.yaml", "deep")),
    ("a training by code", "train deform --config {object.yaml} -o {out}", ("object.yaml",)),
    ("a training by a pipe", "train deform --config {pipe.nii.gz} -o {out}", ("pipe.nii.gz",)),
    ("a training that is not UTF-8", "train deform --config {latin.yaml} -o {out}", ("latin.yaml", "UTF-8")),
    # The rest.
    ("nothing to describe", "info", ("info",)),
    ("presets of a file", "info {fixed} --presets", ("--presets",)),
    ("a model of no name", "models info sam-enormous", ("sam-enormous",)),
    ("weights of no name", "models fetch sam-enormous", ("sam-enormous",)),
    ("text as weights", "models check {notes.h5}", ("notes.h5",)),
    ("an empty folder as weights", "models check {empty}", ("empty",)),
    ("no weights", "models check {nowhere.pt}", ("nowhere.pt",)),
    ("a demo in a file", "demo -o {notes.png}", ("notes.png",)),
    ("a negative seed of a demo", "demo -o {out} --seed -1", ("--seed",)),
]


def _files(place: Path) -> dict[str, int]:
    return {str(p.relative_to(place)): p.lstat().st_mtime_ns for p in place.rglob("*") if not p.is_dir()}


def _arguments(text: str, scenes: tuple[Scene, Scene], bad: Path, out: Path) -> list[str]:
    named = {}
    for prefix, scene in zip(("", "flat_"), scenes, strict=True):
        for name in ("fixed", "moving", "fixed_labels", "moving_labels", "fixed_points", "moving_points", "truth"):
            named[prefix + name] = str(getattr(scene, name))
    named["out"] = str(out)
    found = []
    for word in text.split(" "):
        begin, end = word.find("{"), word.find("}")
        if begin >= 0:
            name = word[begin + 1 : end]
            word = word[:begin] + named.get(name, str(bad / name)) + word[end + 1 :]
        found.append(word)
    return found


@pytest.mark.parametrize(("text", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_one_line_and_nothing_left(text, words, volume, flat, bad_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = _files(bad_files), _files(volume.folder), _files(flat.folder)
    result = run(*_arguments(text, (volume, flat), bad_files, tmp_path / "new" / "out"))
    lines = result.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert result.exit_code == 2, result.output
    assert len(errors) == 1, result.stderr[-2000:]
    assert all(line.startswith(("error: ", "warning: ", "note: ")) for line in lines), result.stderr
    assert len(errors[0]) < 900, errors[0]
    missing = [word for word in words if word not in errors[0]]
    assert not missing, f"{missing} not in: {errors[0]}"
    assert (_files(bad_files), _files(volume.folder), _files(flat.folder)) == before
    assert list(tmp_path.rglob("*")) == []


def test_the_classes_are_many_and_different():
    assert len({case[0] for case in CASES}) == len(CASES) >= 100
    assert {case[1].split()[0] for case in CASES} >= {
        *("register", "match", "prompt", "segment", "apply", "convert", "evaluate", "info", "report", "models"),
        *("demo", "bench", "view", "serve", "cohort", "bids", "template", "train"),
    }
