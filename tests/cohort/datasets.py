"""A small data set in the Brain Imaging Data Structure, generated."""

from __future__ import annotations

import json
from pathlib import Path

from roireg.core.image import Image
from roireg.io import write_image, write_labels
from roireg.synth import SyntheticPair, make_pair

SHAPE = (12, 24, 28)


def person(seed: int) -> SyntheticPair:
    """A person and the template, which is the fixed image."""
    return make_pair(3, shape=SHAPE, seed=seed, max_displacement_mm=4, rotation_deg=2, translation_mm=3, noise=2)


def other_contrast(image: Image) -> Image:
    return image.with_data(255 - image.data)


def write_dataset(folder: Path) -> Path:
    """Two subjects with two sessions of T1w, one of them with a T2w; beside the data template and its labels."""
    data = folder / "data"
    data.mkdir()
    description = {"Name": "Phantoms", "BIDSVersion": "1.8.0", "License": "CC0", "Authors": ["A", "B"]}
    (data / "dataset_description.json").write_text(json.dumps(description | {"DatasetType": "raw"}))
    (data / "README").write_text(
        "Two phantoms, generated to test programs that read the Brain Imaging Data Structure.\n" * 3
    )
    (data / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\nsub-02\t40\n")
    (data / "participants.json").write_text(json.dumps({"age": {"Description": "age", "Units": "year"}}))
    for number in (1, 2):
        pair = person(5)  # one anatomy: what differs is in the file names
        for session in (1, 2):
            anat = data / f"sub-0{number}" / f"ses-{session}" / "anat"
            anat.mkdir(parents=True)
            stem = f"sub-0{number}_ses-{session}"
            write_image(anat / f"{stem}_T1w.nii.gz", pair.moving if session == 1 else pair.fixed)
            (anat / f"{stem}_T1w.json").write_text(json.dumps({"Manufacturer": "none"}))
        if number == 1:
            anat = data / "sub-01/ses-1/anat"
            write_image(anat / "sub-01_ses-1_T2w.nii.gz", other_contrast(pair.moving))
            (anat / "sub-01_ses-1_T2w.json").write_text(json.dumps({"Manufacturer": "none"}))
    write_image(folder / "template.nii.gz", pair.fixed)
    write_labels(folder / "template_labels.nii.gz", pair.fixed_labels)
    return data
