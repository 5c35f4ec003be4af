from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roireg.core.errors import InputError
from roireg.models.base import DenseEncoder
from roireg.models.checkpoint import shapes_of
from roireg.models.registry import load
from roireg.models.sam_med3d import FAMILY, SamMed3D, normalised
from roireg.models.sam_med3d_network import SamMed3DConfig, SamMed3DNetwork, WindowAttention, sizes_of
from roireg.models.volumes import Cube, VolumeInput, VolumeModel, stability

TINY = SamMed3DConfig(
    side=32, patch=8, width=24, heads=2, windows=(3, 4, 6), embedding=48, mask_channels=8, masks=4,
    decoder_hidden=32, quality_hidden=16,
)  # fmt: skip
CPU = torch.device("cpu")


def tiny_network(seed: int = 0) -> SamMed3DNetwork:
    torch.manual_seed(seed)
    network = SamMed3DNetwork(TINY)
    for name, value in network.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(value, std=0.2)
    return network


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The published layout: weights beside what training programs keep."""
    path = tmp_path_factory.mktemp("weights") / "sam_med3d_turbo.pth"
    torch.save({"epoch": 3, "model_state_dict": tiny_network().state_dict(), "losses": [0.5]}, path)
    return path


@pytest.fixture
def model(checkpoint) -> SamMed3D:
    return load(f"sam-med3d-turbo={checkpoint}")


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 255, (1, *shape)).astype(np.float32))


# -- the network ----------------------------------------------------------------------------------


def test_the_default_sizes_are_the_published_ones():
    with torch.device("meta"):
        state = SamMed3DNetwork(SamMed3DConfig()).state_dict()
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    # 402 MB of float32 is the size of sam_med3d_turbo.pth.
    assert round(sum(v.numel() for v in state.values()) * 4 / 1e6) == 402
    assert shapes["image_encoder.pos_embed"] == (1, 8, 8, 8, 768)
    assert shapes["image_encoder.patch_embed.proj.weight"] == (768, 1, 16, 16, 16)
    assert shapes["image_encoder.blocks.0.attn.rel_pos_d"] == (27, 64)
    assert shapes["image_encoder.blocks.2.attn.rel_pos_w"] == (15, 64)
    assert shapes["image_encoder.neck.2.weight"] == (384, 384, 3, 3, 3)
    assert shapes["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] == (3, 128)
    assert shapes["prompt_encoder.mask_downscaling.6.weight"] == (384, 16, 1, 1, 1)
    assert shapes["mask_decoder.transformer.layers.1.cross_attn_image_to_token.q_proj.weight"] == (192, 384)
    assert shapes["mask_decoder.output_upscaling.3.weight"] == (96, 48, 2, 2, 2)
    assert shapes["mask_decoder.output_hypernetworks_mlps.3.layers.2.weight"] == (48, 384)
    assert shapes["mask_decoder.iou_prediction_head.layers.2.weight"] == (4, 256)
    assert SamMed3DConfig(**sizes_of(shapes)) == SamMed3DConfig()


def test_sizes_are_read_off_a_checkpoint():
    assert SamMed3DConfig(**sizes_of(shapes_of(tiny_network().state_dict()))) == TINY


@pytest.mark.parametrize("window", [2, 3, 5])
def test_attention_agrees_with_a_loop_over_tokens(window):
    torch.manual_seed(window)
    layer = WindowAttention(8, 2, window)
    for value in layer.parameters():
        torch.nn.init.normal_(value, std=0.5)
    x = torch.randn(2, 3, 4, 2, 8)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), attention_by_loop(layer, x), atol=1e-5, rtol=1e-5)


def attention_by_loop(layer: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    """Every token asks every place of its window; places beyond the volume hold a token of zeros."""
    w, heads, width = layer.window, layer.heads, x.shape[-1]
    out = torch.empty_like(x)
    for n, *place in itertools.product(*(range(s) for s in x.shape[:4])):
        corner = [p // w * w for p in place]
        q = layer.qkv(x[n, *place])[:width].view(heads, -1)
        scores, values = [], []
        for step in itertools.product(range(w), repeat=3):
            other = [c + s for c, s in zip(corner, step, strict=True)]
            inside = all(o < s for o, s in zip(other, x.shape[1:4], strict=True))
            token = x[n, *other] if inside else torch.zeros(width)
            k, v = layer.qkv(token)[width:].view(2, heads, -1)
            bias = sum(
                q @ table[p - o + w - 1]
                for table, p, o in zip((layer.rel_pos_d, layer.rel_pos_h, layer.rel_pos_w), place, other, strict=True)
            )
            scores.append((q * k).sum(-1) * q.shape[-1] ** -0.5 + bias)
            values.append(v)
        weights = torch.stack(scores).softmax(0)
        out[n, *place] = layer.proj((weights[..., None] * torch.stack(values)).sum(0).flatten())
    return out


def test_a_point_in_the_middle_of_a_cell_has_the_place_of_that_cell_with_two_axes_swapped():
    prompts = tiny_network().prompt_encoder
    cell = torch.tensor([1, 3, 2])
    point = (cell + 0.5) * TINY.patch - 0.5
    with torch.no_grad():
        place = prompts.pe_layer((point + 0.5) / TINY.side)
        torch.testing.assert_close(place, prompts.dense()[0, :, cell[1], cell[0], cell[2]])


# -- from the file to the answer ------------------------------------------------------------------


def test_a_saved_network_answers_as_before(checkpoint, model):
    assert isinstance(model, VolumeModel) and isinstance(model, DenseEncoder)
    assert model.report.missing == model.report.unexpected == model.report.mismatched == ()
    raster = noise(32, 32, 32)
    embedding = model.encode(raster)
    with torch.no_grad():
        # The network works in the order x, y, z.
        expected = tiny_network().image_encoder(normalised(raster).permute(0, 3, 2, 1)[None])
    torch.testing.assert_close(embedding.tensors["image"], expected.permute(0, 1, 4, 3, 2))
    answer = model.decode(embedding, points=torch.tensor([[[3.0, 20.0, 9.0]]]), labels=torch.ones(1, 1))
    with torch.no_grad():
        raw = tiny_network().decode(
            expected, torch.tensor([[[9.0, 20.0, 3.0]]]), torch.ones(1, 1), torch.zeros(1, 1, 16, 16, 16)
        )
    torch.testing.assert_close(answer.logits, raw[:, :1].permute(0, 1, 4, 3, 2))
    assert model.upscale(answer.logits, embedding).shape == (1, 1, 32, 32, 32)
    assert model.encoded == 1


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {f"module.{k}": v for k, v in s.items()}])
def test_plain_and_parallel_checkpoints_load(tmp_path, model, wrap):
    path = tmp_path / "mine.pth"
    torch.save(wrap(tiny_network().state_dict()), path)
    other = load(path)
    raster = noise(32, 32, 32)
    assert torch.equal(other.encode(raster).tensors["image"], model.encode(raster).tensors["image"])
    assert other.key != model.key


def test_prompts_do_not_disturb_each_other(model):
    embedding = model.encode(noise(20, 28, 32))
    points = torch.tensor([[[3.0, 4, 5], [10, 11, 12]], [[9.0, 20, 9], [0, 0, 0]], [[1.0, 2, 3], [4, 5, 6]]])
    labels = torch.tensor([[1, 0], [1, -1], [0, 1]])
    together = model.decode(embedding, points=points, labels=labels)
    assert together.logits.shape == (3, 1, 16, 16, 16) and together.quality.shape == (3, 1)
    for i in range(3):
        kept = labels[i] >= 0
        alone = model.decode(embedding, points=points[i : i + 1, kept], labels=labels[i : i + 1, kept])
        torch.testing.assert_close(alone.logits[0], together.logits[i], atol=1e-5, rtol=1e-5)


def test_points_are_shown_one_after_another(model):
    embedding = model.encode(noise(32, 32, 32))
    points, labels = torch.tensor([[[3.0, 4, 5], [20, 11, 12]]]), torch.tensor([[1, 0]])
    first = model.decode(embedding, points=points[:, :1], labels=labels[:, :1])
    second = model.decode(embedding, points=points[:, 1:], labels=labels[:, 1:], masks=first.logits)
    both = model.decode(embedding, points=points, labels=labels)
    torch.testing.assert_close(both.logits, second.logits)
    assert not torch.allclose(both.logits, first.logits, atol=1e-3)


def test_features_of_every_block(model):
    raster = noise(32, 32, 32)
    assert model.encode_dense(raster, layer=0).tensors["image"].shape == (1, 24, 4, 4, 4)
    last = model.encode_dense(raster, layer=-1)
    torch.testing.assert_close(last.tensors["image"], model.encode_dense(raster, layer=2).tensors["image"])
    with pytest.raises(InputError, match="blocks 0 to 2, not 3"):
        model.encode_dense(raster, layer=3)


def test_other_input_sizes(checkpoint, model):
    raster = noise(48, 40, 48)
    large = load(f"sam-med3d-turbo={checkpoint}", input_size=48)
    assert large.volume.patch == 48
    embedding = large.encode(raster)
    assert embedding.tensors["image"].shape == (1, 48, 6, 6, 6)
    assert embedding.covered == (6, 5, 6)
    answer = large.decode(embedding, points=torch.tensor([[[3.0, 4, 5]]]), labels=torch.ones(1, 1))
    assert answer.logits.shape[2:] == (24, 24, 24)
    assert large.upscale(answer.logits, embedding).shape[2:] == (48, 40, 48)
    for size in (8, 33):
        with pytest.raises(InputError, match="multiple of 8"):
            load(checkpoint, input_size=size)


# -- bad input ------------------------------------------------------------------------------------


def test_a_truncated_file_is_explained(tmp_path, checkpoint):
    path = tmp_path / "cut.pth"
    path.write_bytes(checkpoint.read_bytes()[:-5000])
    with pytest.raises(InputError, match=r"cut\.pth.*(damaged|truncated)"):
        FAMILY.read(path, FAMILY.cards[0])


def test_another_architecture_is_reported_by_name(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(torch.nn.Linear(3, 2).state_dict(), path)
    with pytest.raises(InputError, match=r"other\.pth.*does not fit sam-med3d-turbo: 324 tensor.* missing"):
        FAMILY.read(path, FAMILY.cards[0])
    state = tiny_network().state_dict()
    state["mask_decoder.iou_token.weight"] = torch.zeros(1, 7)
    torch.save(state, path)
    with pytest.raises(InputError, match=r"iou_token\.weight with 1 x 7 instead of 1 x 48"):
        FAMILY.read(path, FAMILY.cards[0])


def test_unsuitable_prompts_are_explained(model):
    embedding = model.encode(noise(16, 16, 16))
    point, label = torch.zeros(1, 1, 3), torch.ones(1, 1)
    with pytest.raises(InputError, match="takes points, not boxes"):
        model.decode(embedding, boxes=torch.zeros(1, 2, 3))
    with pytest.raises(InputError, match=r"needs points of shape \(prompts, points, 3\) with labels, found none"):
        model.decode(embedding)
    with pytest.raises(InputError, match="one label per point"):
        model.decode(embedding, points=point, labels=torch.ones(1, 2))
    with pytest.raises(InputError, match="no point with label 0 or 1"):
        model.decode(embedding, points=point, labels=-label)
    with pytest.raises(InputError, match=r"expected \(1, 1, 16, 16, 16\)"):
        model.decode(embedding, points=point, labels=label, masks=torch.zeros(1, 1, 8, 8, 8))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_too_little_memory_says_what_to_change(model, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    embedding = model.encode(noise(8, 8, 8))
    monkeypatch.setattr(model.network.image_encoder, "forward", fail)
    with pytest.raises(InputError, match=r"ran out of memory while encoding.*smaller input size, a coarser spacing"):
        model.encode(noise(8, 8, 8))
    monkeypatch.setattr(model.network, "decode", fail)
    with pytest.raises(InputError, match="ran out of memory while answering 1 prompts"):
        model.decode(embedding, points=torch.zeros(1, 1, 3), labels=torch.ones(1, 1))


def test_other_errors_are_not_taken_for_missing_memory(model, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(model.network.image_encoder, "forward", fail)
    with pytest.raises(RuntimeError, match="multiplied"):
        model.encode(noise(8, 8, 8))


# -- input and geometry ---------------------------------------------------------------------------


def test_mean_and_deviation_are_those_of_the_positive_values():
    data = torch.tensor([-4.0, 0.0, 2.0, 6.0])
    out = normalised(data)
    torch.testing.assert_close(out, (data - 4) / 8**0.5)
    assert torch.equal(normalised(torch.full((2, 2), 3.0)), torch.zeros(2, 2))
    assert torch.isfinite(normalised(torch.full((5,), -1.0))).all()


@given(st.tuples(*[st.integers(1, 40)] * 3), st.sampled_from([8, 16, 32]))
def test_a_ramp_over_the_cube_is_the_same_ramp_on_the_raster(shape, side):
    cube = Cube(shape, side)
    assert max(cube.resized) <= side and min(cube.resized) >= 1
    index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (side,) * 3), indexing="ij")).float()
    ramp = cube.release(index[None])[0]
    raster = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij"), dim=-1).double()
    expected = cube.coordinates(raster).movedim(-1, 0)
    # At the border of a shrunk raster interpolation repeats the outermost voxel.
    ends = torch.tensor([n - 1 for n in cube.resized])[:, None, None, None]
    expected = torch.minimum(expected.clamp(min=0), ends)
    torch.testing.assert_close(ramp.double(), expected, atol=2e-4, rtol=0)


@given(st.tuples(*[st.integers(1, 16)] * 3))
def test_a_raster_that_fits_lies_in_the_cube_as_it_is(shape):
    raster, cube = noise(*shape), Cube(shape, 16)
    filled = cube.fill(raster)
    place = (slice(None), *(slice(0, n) for n in shape))
    assert torch.equal(filled[place], raster)
    assert float(filled.sum()) == pytest.approx(float(raster.sum()), rel=1e-5)
    scale, offset, covered = cube.index_map(4)
    np.testing.assert_allclose(scale * 1.5 + offset, 0, atol=1e-12)
    assert covered == tuple(-(-n // 4) for n in shape)


def test_stability_counts_the_voxels_between_the_thresholds():
    logits = torch.tensor([2.0, 2, 0.5, -0.5, -3]).reshape(1, 1, 5, 1, 1)
    assert float(stability(logits)) == 0.5
    assert float(stability(torch.full((1, 1, 2, 2, 2), -5.0))) == 0


def test_intensities():
    own = VolumeInput(1.5, 128)
    data = torch.tensor([-2000.0, 0, 500, 3000]).reshape(1, 4, 1, 1)
    assert own.raster(data, name="ct").flatten().tolist() == [-255, 0, 127.5, 255]
    assert own.raster(data.clamp(min=-100), name="mr").flatten().tolist() == pytest.approx([-8.5, 0, 42.5, 255])
    assert torch.equal(own.raster(torch.zeros(1, 2, 2, 2), name="empty"), torch.zeros(1, 2, 2, 2))
    ct = VolumeInput(1.5, 128, (-1000.0, 1000.0))
    assert ct.raster(data, name="ct").flatten().tolist() == [0, 127.5, 191.25, 255]
    with pytest.raises(InputError, match=r"scan\.nii.*Hounsfield"):
        ct.raster(data.clamp(min=-45), name="scan.nii")
    assert ct.raster(data.clamp(min=0), name="mr", window=(0.0, 500.0)).flatten().tolist() == [0, 0, 255, 255]
