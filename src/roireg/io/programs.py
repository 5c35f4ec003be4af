"""Programs of others that read an image and write a label map."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.io.images import read_labels, write_image

__all__ = ["label_with", "split_command"]


def split_command(command: str) -> list[str]:
    """Return the words of a command that names {image} and {labels}, as a shell would part them.

    Raises
    ------
    InputError
        When a quote is not closed, or one of both is not named.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"--segmenter-command {command!r}: {str(error).lower()}; correct the quotes") from error
    for place in ("{image}", "{labels}"):
        if not any(place in word for word in words):
            raise InputError(
                f"--segmenter-command names the files as {{image}} and {{labels}}, found no {place} in {command!r}"
            )
    return words


def label_with(command: str, image: Image) -> Image:
    """Run a command on an image and return the label map that it writes.

    Parameters
    ----------
    command : a program and its arguments, among them {image} (the file it reads) and {labels} (the file it is to
        write, .nii.gz, or .png for pictures). It is run without a shell, in a folder of its own that is removed.

    Raises
    ------
    InputError
        When there is no such program, it fails, or it writes no label map; says what it said last.
    """
    words = split_command(command)
    kind = ".png" if image.unit == "px" and image.ndim == 2 else ".nii.gz"
    with tempfile.TemporaryDirectory(prefix="roireg-") as folder:
        files = {"{image}": Path(folder) / f"image{kind}", "{labels}": Path(folder) / f"labels{kind}"}
        write_image(files["{image}"], image)
        for place, file in files.items():
            words = [word.replace(place, str(file)) for word in words]
        try:
            done = subprocess.run(words, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(
                f"the segmenter command cannot be started: {words[0]}: {reason.lower()}; check its name"
            ) from error
        if done.returncode:
            raise InputError(
                f"the segmenter command failed on {image.name} (exit code {done.returncode}): {_last(done)}; try it "
                "on that file alone"
            )
        if not files["{labels}"].is_file():
            raise InputError(
                f"the segmenter command wrote no label map for {image.name}: it is to write the file {{labels}} "
                f"({kind}); it said: {_last(done)}"
            )
        try:
            return read_labels(files["{labels}"])
        except InputError as error:
            raise InputError(
                str(error).replace(str(files["{labels}"]), "the label map of the segmenter command")
            ) from error


def _last(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line that a program said, errors first."""
    for text in (done.stderr, done.stdout):
        if lines := text.strip().splitlines():
            return lines[-1].strip()[:200]
    return "it said nothing"
