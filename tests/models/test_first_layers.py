"""The first layers of TotalSegmentator: read from TorchScript without running it, and what they compute."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.tiny import randomise
from roireg.core.errors import GeometryError, InputError
from roireg.core.image import Image
from roireg.core.warp import resample
from roireg.features import make_extractor
from roireg.io import weights
from roireg.models import load
from roireg.models.checkpoint import read_tensors
from roireg.models.first_layers import Stage
from support import make_grid, rotation

SHARED = Path(__file__).resolve().parents[4] / "shared"


class Published(torch.nn.Module):
    """The module as it is published."""

    def __init__(self) -> None:
        super().__init__()
        self.DownConvBlock_0 = Stage(4)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.DownConvBlock_0(x)]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[Published, Path]:
    network = randomise(Published(), seed=3)
    path = tmp_path_factory.mktemp("layers") / "M730_1_Layers.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated
        torch.jit.trace(network, torch.rand(1, 1, 4, 4, 4)).save(str(path))
    return network, path


def test_the_tensors_of_a_script_are_read_under_their_names_and_nothing_is_run(published, monkeypatch):
    network, path = published
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("the program was loaded"))
    tensors = read_tensors(path)
    assert tensors.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(tensors[name], value)


def test_a_script_that_names_other_code_is_refused(published, tmp_path):
    harmful = tmp_path / "harmful.pt"

    class Call:
        def __reduce__(self):
            return print, ("run",)

    with zipfile.ZipFile(published[1]) as old, zipfile.ZipFile(harmful, "w") as new:
        for name in old.namelist():
            place = name.endswith("/data.pkl") and name.count("/") == 1
            new.writestr(name, pickle.dumps(Call(), 2) if place else old.read(name))
    with pytest.raises(InputError, match="never run"):
        read_tensors(harmful)


def test_features_are_the_layers_of_the_image_at_the_voxels_of_the_training(published):
    network, path = published
    model = load(path, "features")
    grid = make_grid((14, 16, 18), (1.0, 0.8, 0.7), rotation(3, 5), (3.0, 4.0, 5.0))
    values = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (1, *grid.shape)).astype(np.float32))
    image = Image(values.round(), grid, name="volume")
    seen = resample(image, grid.with_spacing(1.5)).data
    seen = (seen.clamp(0, 255) - seen.mean()) / seen.std()
    with torch.no_grad():
        expected = F.instance_norm(network(seen[None])[0])[0]
    out = make_extractor("model", model=model, window="none")(image, grid)
    np.testing.assert_allclose(out.grid.spacing, 1.5, rtol=0.1)
    torch.testing.assert_close(out.data, expected, atol=0.02, rtol=0.02)
    coarse = make_extractor("model", model=model, window="none")(image, grid.with_spacing(3.0))
    np.testing.assert_allclose(coarse.grid.spacing, 3.0, rtol=0.2)
    flat = Image(torch.zeros(1, 8, 9), make_grid((8, 9)), name="photo")
    with pytest.raises(GeometryError, match="take images of 3 or more"):
        make_extractor("model", model=model)(flat, flat.grid)
    with pytest.raises(InputError, match="blocks 0 to 0, not 1"):
        model.encode_dense(values, layer=1)


@pytest.mark.data
def test_the_published_file_is_the_cards_model():
    path = SHARED / "models" / "totalsegmentator_layers" / "M730_1_Layers.pt"
    if not path.is_file():
        pytest.skip("needs the trained networks in ../shared/models")
    model = load(path, "features")
    assert model.card.name == "totalsegmentator-layers" and weights.weights_digest(path) == model.card.sha256
    assert model.report.missing == model.report.unexpected == ()
    assert model.encode_dense(torch.rand(1, 8, 9, 10) * 255).tensors["image"].shape == (1, 32, 8, 9, 10)
