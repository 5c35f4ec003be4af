"""TIFF files through tifffile: which picture is meant, its values, and where it lies.

Pages are slices, channels or points in time only where the file says so (OME, ImageJ, and the other formats whose
axes tifffile knows). Values are those of ``tifffile.imread``: orientation tags do not turn them. The world of a
file with a physical pixel size is mm, of any other the pixel index; that of a coarser level of a pyramid is that
of the full image, so a transform found on a level fits every other.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tifffile
from numpy.typing import NDArray

from roireg.core.errors import InputError, RoiregError, warn_header
from roireg.io.raster import Selection, Stored, check_memory, choose, rgb_from_cmyk
from roireg.io.tiff_place import ome_pixels, place_of

__all__ = ["read_tiff"]

Array = NDArray[Any]

_KNOWN_AXES = "TCZYXS"
_COMPANIONS = re.compile(r"label|macro|thumb|overview|slide ?preview", re.IGNORECASE)
_UNSUPPORTED = {"CIELAB", "ICCLAB", "ITULAB", "LOGL", "LOGLUV", "CFA", "LINEAR_RAW", "MASK"}

_LEFT_YCBCR = {1, 5, 8, 32773, 32946, 33003, 34925, 50000}
"""Compressions that know no colours: none, LZW, deflate, packbits, Aperio's JPEG 2000 of YCbCr, LZMA, zstd."""

_USUAL_YCBCR = {"YCbCrCoefficients": (0.299, 0.587, 0.114), "ReferenceBlackWhite": (0, 255, 128, 255, 128, 255)}
"""How Luma, Cb and Cr are made of colours where the tags that can say otherwise are missing."""


@dataclass(frozen=True)
class _Picture:
    """One picture of a file: a series of tifffile, or one entry of its axes without meaning."""

    series: tifffile.TiffPageSeries
    index: int | None
    text: str


def read_tiff(path: Path, selection: Selection, *, indices: bool = False) -> Stored:
    """Read one picture of a TIFF file.

    Parameters
    ----------
    path : the file.
    selection : frame, level, page and channel; a slide is read without its label and overview.
    indices : give the indices of a palette image, not its colours.

    Raises
    ------
    InputError
        When the file is damaged, stores what cannot be read (named), or holds several pictures and no choice.
    """
    name = str(path)
    with _complaints(name) as complaints:
        try:
            with tifffile.TiffFile(path) as file:
                _ = len(file.pages)  # walks the whole chain of pages, so that a cut one is noticed
                if not file.series:
                    raise InputError(f"{name}: the TIFF file holds no image; export it again")
                stored = _read(file, name, selection, indices=indices)
        except tifffile.TiffFileError as error:
            if complaints == [] and "not a TIFF" in str(error):
                raise InputError(f"{name}: the file is not a TIFF image ({error}); export it again") from error
            raise _damaged(name, str(error)) from error
        except RoiregError:
            raise
        except Exception as error:  # tifffile raises whatever its parser meets
            if "imagecodecs" in str(error):
                raise InputError(_missing_codec(name, file.pages[0], str(error))) from error
            raise _damaged(name, str(error)) from error
    if complaints:
        raise _damaged(name, complaints[0])
    return stored


def _read(file: tifffile.TiffFile, name: str, selection: Selection, *, indices: bool) -> Stored:
    picture, taken = _choose_picture(file, name, selection)
    series = picture.series
    levels = series.levels
    level = selection.level or 0
    if not 0 <= level < len(levels):
        sizes = "; ".join(f"{i}: {_size(s)}" for i, s in enumerate(levels))
        raise InputError(f"{name}: there is no level {level}, found {len(levels)} ({sizes}); choose one of these")
    if len(levels) > 1:
        taken["level"] = f"{level} of 0 to {len(levels) - 1}, {_size(levels[level])}"
    _check_readable(file, name, levels[level])
    array, axes = _values(file, name, levels[level], picture, selection, taken, full=len(levels) == 1)
    array = _with_axes(array, axes)
    if not indices:
        array = _colours(array, name, levels[level].keyframe)
    elif array.dtype == bool:
        array = array.astype(np.uint8)
    grid, unit = place_of(file, series, levels[level], array.shape[1:])
    turn = levels[level].keyframe.tags.get("Orientation")
    if turn is not None and int(turn.value) in range(2, 9):
        warn_header(
            name, f"its orientation tag {int(turn.value)} asks viewers to turn it; the pixels are taken as stored"
        )
    return Stored(np.asarray(array), grid, unit, taken)


# -- which picture ----------------------------------------------------------------------------------


def _choose_picture(file: tifffile.TiffFile, name: str, selection: Selection) -> tuple[_Picture, dict[str, str]]:
    """Return the picture that is meant, and in words what was taken."""
    pictures = _pictures(file)
    page = selection.page
    if page == "all":
        first = file.series[0]
        if len(file.series) > 1:
            sizes = "; ".join(f"{i}: {p.text}" for i, p in enumerate(pictures))
            raise InputError(
                f"{name}: --page all stacks pages as slices, which needs pages of one size and type, found {sizes}; "
                "choose one with --page N"
            )
        return _Picture(first, None, _size(first)), {"page": "all, stacked as slices"} if len(pictures) > 1 else {}
    if isinstance(page, str):
        raise InputError(f"--page is a number from 0 or all, found {page!r}")
    if page is None and len(pictures) > 1 and _is_slide(file):
        page = 0
    stackable = len(file.series) == 1 and len(pictures) > 1
    holds = f"{len(pictures)} pages that it does not call slices, channels or frames"
    try:
        number = choose(name, "page", page, len(pictures), holds=holds, listing=[p.text for p in pictures])
    except InputError as error:
        raise InputError(f"{error}, or stack them as slices with --page all" if stackable else str(error)) from None
    picture = pictures[number]
    return picture, {"page": f"{number} of 0 to {len(pictures) - 1}, {picture.text}"} if len(pictures) > 1 else {}


def _pictures(file: tifffile.TiffFile) -> list[_Picture]:
    """Return every picture of a file, in the order of its pages."""
    pictures: list[tuple[int, _Picture]] = []
    for series in file.series:
        unknown = [
            n for a, n in zip(series.get_axes(False), series.get_shape(False), strict=True) if a not in _KNOWN_AXES
        ]
        text = f"{series.name} {_size(series)}".strip()
        count = int(np.prod(unknown)) if unknown else 1
        pages = list(series.pages) if count > 1 and len(series.pages) == count else []
        for i in range(count):
            page = pages[i] if pages else series.keyframe
            place = page.index if page is not None else series.keyframe.index
            pictures.append((int(np.atleast_1d(place)[0]), _Picture(series, i if count > 1 else None, text)))
    # Python sorts stably: series that share a page (several OME images in one file) stay as they are.
    return [p for _, p in sorted(pictures, key=lambda entry: entry[0])]


def _is_slide(file: tifffile.TiffFile) -> bool:
    """Tell whether all but the first picture are the label, the overview and the thumbnail of a scanned slide."""
    if any(getattr(file, f"is_{kind}") for kind in ("svs", "ndpi", "scn", "bif", "qpi", "philips")):
        return True
    return all(_COMPANIONS.search(series.name or "") for series in file.series[1:]) and len(file.series) > 1


def _size(series: tifffile.TiffPageSeries) -> str:
    sizes = dict(zip(series.get_axes(False), series.get_shape(False), strict=True))
    return f"{sizes.get('X', 1)} x {sizes.get('Y', 1)} {series.dtype}"


def _channel_names(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> list[str]:
    pixels = ome_pixels(file, series)
    if pixels is not None:
        return [c.get("Name", "") for c in pixels if c.tag.endswith("}Channel")]
    labels = (file.imagej_metadata or {}).get("Labels", []) if file.is_imagej else []
    return [str(label) for label in labels] if isinstance(labels, list) else []


# -- values -----------------------------------------------------------------------------------------


def _values(
    file: tifffile.TiffFile,
    name: str,
    series: tifffile.TiffPageSeries,
    picture: _Picture,
    selection: Selection,
    taken: dict[str, str],
    *,
    full: bool,
) -> tuple[Array, str]:
    """Return the chosen values and their axes, of which only C, Z, Y, X and S remain."""
    axes, shape = series.get_axes(False), series.get_shape(False)
    index: list[Any] = [slice(None)] * len(axes)
    unknown = [i for i, a in enumerate(axes) if a not in _KNOWN_AXES]
    if picture.index is not None:
        for i, at in zip(unknown, np.unravel_index(picture.index, [shape[i] for i in unknown]), strict=True):
            index[i] = int(at)
    if "T" in axes:
        i = axes.index("T")
        index[i] = choose(name, "frame", selection.frame, shape[i], holds=f"a time series of {shape[i]} frames")
        if shape[i] > 1:
            taken["frame"] = f"{index[i]} of 0 to {shape[i] - 1}"
    _choose_channel(file, name, picture.series, selection, axes, shape, index, taken)
    sides = [n for n, i in zip(shape, index, strict=True) if isinstance(i, slice)]
    advice = "choose one --channel or --frame" if full else "choose a higher --level"
    check_memory(name, int(np.prod(sides, dtype=object)) * np.dtype(series.dtype).itemsize, advice=advice)
    array = _take(file, name, series, shape, index)
    left = "".join(a for a, i in zip(axes, index, strict=True) if isinstance(i, slice))
    if picture.index is None and unknown:  # pages stacked as slices, or an axis of length 1
        keep = "".join(a if a in _KNOWN_AXES else "I" for a in left)
        array, left = _merged(array, keep)
    return array, left


def _choose_channel(
    file: tifffile.TiffFile,
    name: str,
    series: tifffile.TiffPageSeries,
    selection: Selection,
    axes: str,
    shape: tuple[int, ...],
    index: list[Any],
    taken: dict[str, str],
) -> None:
    wish = selection.channel
    if wish is None:
        if "C" in axes and (count := shape[axes.index("C")]) > 1:
            names = _channel_names(file, series)
            taken["channels"] = (
                ", ".join(n or "unnamed" for n in names) if len(names) == count else f"{count}, unnamed"
            )
        return
    i = axes.index("C") if "C" in axes and shape[axes.index("C")] > 1 else axes.find("S")
    count = shape[i] if i >= 0 else 1
    names = _channel_names(file, series)
    if isinstance(wish, str):
        if wish not in names:
            there = ", ".join(repr(n) for n in names if n) or "none with a name"
            raise InputError(f"{name}: there is no channel {wish!r}, found {there}; name one of these or its number")
        wish = names.index(wish)
    channel = choose(name, "channel", wish, count, holds=f"{count} channels", listing=names)
    if i >= 0:
        index[i] = slice(channel, channel + 1)
    label = f", {names[channel]}" if channel < len(names) and names[channel] else ""
    taken["channel"] = f"{channel} of 0 to {count - 1}{label}"


def _take(
    file: tifffile.TiffFile, name: str, series: tifffile.TiffPageSeries, shape: tuple[int, ...], index: list[Any]
) -> Array:
    """Return the part of a series at an index per axis, decoding only the pages it needs."""
    pages = list(series.pages)
    leading = 0
    while leading < len(shape) and int(np.prod(shape[:leading])) < len(pages):
        leading += 1
    if int(np.prod(shape[:leading])) != len(pages):
        leading = 0
    numbers = np.arange(len(pages)).reshape(shape[:leading])[tuple(index[:leading])]
    missing = sum(pages[n] is None for n in numbers.ravel())
    if missing:
        raise InputError(
            f"{name}: {missing} of {numbers.size} planes that its OME metadata announce are neither in the file nor "
            "in those beside it; put all files of the set into one folder, or export it again"
        )
    whole = leading == 0 or numbers.size == len(pages)
    if whole and _obstacle(series.keyframe) is None:
        return np.asarray(series.asarray().reshape(shape)[tuple(index)])
    planes = [_page_values(file, pages[n]).reshape(shape[leading:]) for n in numbers.ravel()]
    array = np.stack(planes).reshape(*numbers.shape, *shape[leading:])
    return np.asarray(array[(..., *index[leading:])])


def _page_values(file: tifffile.TiffFile, page: Any) -> Array:
    """Return the values of a page as tifffile does, decoded by libtiff where its own decoder is not installed."""
    if _obstacle(page) is None:
        return np.asarray(page.asarray())
    with PIL.Image.open(file.filehandle.path) as picture:
        picture.seek(int(page.index))
        values = np.asarray(picture.convert("RGB") if picture.mode == "YCbCr" else picture)
    return values.reshape(page.shape).astype(page.dtype)


def _obstacle(page: Any) -> str | None:
    """Return why tifffile cannot decode a page, None where it can."""
    try:
        page.decode(None, 0)
    except (ValueError, NotImplementedError) as error:
        return str(error)
    return None


def _libtiff_decodes(file: tifffile.TiffFile, page: Any) -> bool:
    """Tell whether Pillow's libtiff reads a page as tifffile would: the common kinds of a page of its own."""
    kinds = {
        ("bool", 1): "1",
        ("uint8", 1): "LP",
        ("uint16", 1): "I;16",
        ("uint8", 3): "RGB",
        ("uint8", 4): "RGBACMYK",
    }
    if not isinstance(page.index, int) or page.planarconfig != 1:
        return False
    try:
        with PIL.Image.open(file.filehandle.path) as picture:
            picture.seek(page.index)
            mode = "RGB" if picture.mode == "YCbCr" else picture.mode
            picture.load()
    except (OSError, PIL.UnidentifiedImageError, SyntaxError, ValueError):
        return False
    return mode in kinds.get((str(page.dtype), page.samplesperpixel), "")


def _merged(array: Array, axes: str) -> tuple[Array, str]:
    """Fold axes without meaning (I) into z."""
    order = [i for i, a in enumerate(axes) if a in "IZ"] + [i for i, a in enumerate(axes) if a not in "IZ"]
    rest = "".join(axes[i] for i in order if axes[i] not in "IZ")
    array = array.transpose(order)
    depth = int(np.prod(array.shape[: len(axes) - len(rest)]))
    return array.reshape(depth, *array.shape[len(axes) - len(rest) :]), "Z" + rest


def _with_axes(array: Array, axes: str) -> Array:
    """Return (channel, [z,] y, x); channels and samples become one axis, a single slice none."""
    order = [axes.index(a) for a in "CSZYX" if a in axes]
    array = array.transpose(order)
    labels = [axes[i] for i in order]
    channels = int(np.prod([n for n, a in zip(array.shape, labels, strict=True) if a in "CS"], dtype=int))
    spatial = [n for n, a in zip(array.shape, labels, strict=True) if a in "YX" or (a == "Z" and n > 1)]
    return np.asarray(array.reshape(channels, *spatial))


def _colours(array: Array, name: str, page: Any) -> Array:
    """Return an array whose channels are intensities: palette, ink and YCbCr become RGB."""
    if array.dtype == bool:
        return array.astype(np.uint8)
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None and len(array) == 1:
        colours = np.asarray(page.colormap)
        # Tables hold 16 bits; those of 8-bit colours repeat their byte or leave the lower one empty.
        return np.asarray((colours >> 8).astype(np.uint8)[:, array[0]])
    if page.photometric == tifffile.PHOTOMETRIC.SEPARATED:
        if len(array) < 4 or array.dtype.kind != "u" or page.tags.valueof("InkSet", 1) != 1:
            raise InputError(f"{name}: the inks of this TIFF file are not CMYK; convert it to RGB")
        return rgb_from_cmyk(array[:4])
    if page.photometric == tifffile.PHOTOMETRIC.YCBCR and page.compression in _LEFT_YCBCR and _obstacle(page) is None:
        if len(array) != 3 or array.dtype != np.uint8:
            raise InputError(f"{name}: YCbCr colours are read as three samples of 8 bits; convert it to RGB")
        for tag, usual in _USUAL_YCBCR.items():
            if (found := page.tags.valueof(tag)) is not None and _quotients(found) != usual:
                raise InputError(f"{name}: its {tag} are {_quotients(found)}, not those of JPEG; convert it to RGB")
        flat = [PIL.Image.fromarray(np.ascontiguousarray(c.reshape(-1, c.shape[-1]))) for c in array]
        rgb = np.asarray(PIL.Image.merge("YCbCr", flat).convert("RGB"))
        return np.moveaxis(rgb, -1, 0).reshape(array.shape)
    return array


def _quotients(values: Any) -> tuple[float, ...]:
    """Return the numbers of a tag of rationals, which come as numerators and denominators."""
    return tuple(round(n / d, 4) if d else 0.0 for n, d in zip(values[::2], values[1::2], strict=False))


# -- what cannot be read ----------------------------------------------------------------------------


def _check_readable(file: tifffile.TiffFile, name: str, series: tifffile.TiffPageSeries) -> None:
    """Refuse by its name what cannot be decoded, and data that reach beyond the end of the file."""
    page = series.keyframe
    photometric = getattr(page.photometric, "name", str(page.photometric))
    if photometric in _UNSUPPORTED:
        raise InputError(f"{name}: the colour space {photometric} is not supported; convert it to RGB or gray")
    if page.dtype is None:
        bits = page.bitspersample
        raise InputError(
            f"{name}: samples of {bits} bits ({page.sampleformat!r}) are not supported; export as 16 bit"
        )
    if page.dtype.kind == "c":
        raise InputError(f"{name}: complex values cannot be registered; save the magnitude as a real image")
    size = file.filehandle.size
    for plane in series.pages:
        if plane is None:
            continue
        for offset, count in zip(plane.dataoffsets, plane.databytecounts, strict=False):
            if count and offset + count > size:
                raise _damaged(name, f"its data end at byte {offset + count}, the file at {size}")
    obstacle = _obstacle(page)
    if obstacle is not None and "subsampling" in obstacle:
        raise InputError(
            f"{name}: the file stores chroma at fewer places than its luma, which is not read; convert it to RGB"
        )
    if obstacle is not None and not ("imagecodecs" in obstacle and _libtiff_decodes(file, page)):
        raise InputError(_missing_codec(name, page, obstacle))


def _missing_codec(name: str, page: Any, reason: str) -> str:
    compression = getattr(page.compression, "name", str(page.compression))
    if "imagecodecs" in reason:
        what = f"compression {compression}" if page.compression != 1 else f"samples of {page.bitspersample} bits"
        return f"{name}: its {what} needs the extra codecs; install it with pip install 'roireg[codecs]'"
    return f"{name}: TIFF with compression {compression} is not supported ({reason}); export it without compression"


def _damaged(name: str, reason: str) -> InputError:
    text = re.sub(r"<tifffile\.[^>]*> ?", "", " ".join(reason.split())).strip() or "no further reason"
    return InputError(f"{name}: the TIFF file is truncated or damaged ({text}); copy or export it again")


@contextmanager
def _complaints(name: str) -> Iterator[list[str]]:
    """Collect what tifffile reports as an error and goes on from: pages or metadata that are not there."""
    logger = logging.getLogger("tifffile")
    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logging.getLogger("roireg.io").debug("%s: %s", name, record.getMessage())
            if record.levelno >= logging.ERROR:
                heard.append(record.getMessage())

    listener = Listener()
    propagate = logger.propagate
    logger.addHandler(listener)
    logger.propagate = False
    try:
        yield heard
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagate
