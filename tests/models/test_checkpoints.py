"""Files as they are published, and files that are broken, incomplete or something else."""

from __future__ import annotations

import json
import logging
import re
import shutil
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch

from models import tiny
from roireg.core.errors import InputError, OptionalDependencyError
from roireg.models import find_card, hugging, load, mobile_sam, sam, sam2, untrained
from roireg.models.checkpoint import read_tensors, shapes_of
from roireg.models.registry import detect
from roireg.models.sam_names import sam_names, sam_settings
from roireg.models.tiny_vit import TinyVit, TinyVitSizes

RASTER = torch.rand((1, 40, 60), generator=torch.Generator().manual_seed(0)) * 255
POINT = {"points": torch.tensor([[[10.0, 20.0]]]), "labels": torch.tensor([[1]])}


def answer(path: Path | str, size: int | None = None) -> torch.Tensor:
    model = load(path, input_size=size)
    return model.decode(model.encode(RASTER), **POINT).logits


@pytest.mark.parametrize("kind", ["sam", "sam-hq", "sam2"])
def test_folder_and_original_file_are_the_same_model(kind, place):
    folder, file = place(kind), place(f"{kind}-file")
    assert detect(folder)[0].name == detect(file)[0].name == kind
    torch.testing.assert_close(answer(folder), answer(file), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_format_loads_whole(kind, place):
    model = load(place(kind), input_size=128)
    report = model.report
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    assert not any(p.is_meta or p.requires_grad for p in model.network.parameters())
    assert not model.network.training
    assert model.card.parameters == pytest.approx(sum(p.numel() for p in model.network.parameters()) / 1e6, abs=1e-3)
    assert model.card.weights_licence == "unknown"


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_state_dict"])
def test_weights_under_another_name_and_with_a_prefix(wrapper, place, tmp_path):
    tensors = {f"module.{name}": value for name, value in tiny.original(tiny.sam()).items()}
    file = tiny.save_file(tensors, tmp_path / "own.pth", under=wrapper)
    assert torch.equal(answer(file), answer(place("sam-file")))


def test_old_files_half_precision_and_safetensors(place, tmp_path):
    from safetensors.torch import save_file

    tensors = tiny.original(tiny.sam())
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(answer(tmp_path / "old.pth"), answer(place("sam-file")))
    save_file(tensors, tmp_path / "own.safetensors")
    assert torch.equal(answer(tmp_path / "own.safetensors"), answer(place("sam-file")))
    torch.save({name: value.half() for name, value in tensors.items()}, tmp_path / "half.pth")
    torch.testing.assert_close(answer(tmp_path / "half.pth"), answer(place("sam-file")), atol=0.02, rtol=0)


def test_the_file_may_go_once_it_is_loaded(place, tmp_path):
    file = shutil.copy(place("sam-file"), tmp_path / "sam.pth")
    model = load(file)
    file.write_bytes(b"")
    assert torch.equal(model.decode(model.encode(RASTER), **POINT).logits, answer(place("sam-file")))


def test_a_folder_with_one_file_is_that_file(place):
    assert torch.equal(answer(place("sam-med2d").parent), answer(place("sam-med2d")))


def test_video_folders_of_sam_2_are_read_as_image_models(place, tmp_path):
    folder = Path(shutil.copytree(place("sam2"), tmp_path / "video"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "sam2_video"}), encoding="utf-8")
    assert torch.equal(answer(folder), answer(place("sam2")))


def test_sam_2_of_no_published_size_needs_its_configuration(place, tmp_path):
    file = shutil.copy(place("sam2-file"), tmp_path / "lost.pt")
    with pytest.raises(InputError, match=r"5 blocks, the first 8 wide, .* put the config.json"):
        load(file)


# -- sizes read off the tensors -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "layers", "heads", "everywhere", "size"),
    [
        (768, 12, 12, [2, 5, 8, 11], "ViT-B"),
        (1024, 24, 16, [5, 11, 17, 23], "ViT-L"),
        (1280, 32, 16, [7, 15, 23, 31], "ViT-H"),
    ],
)
def test_published_sizes_of_sam(width, layers, heads, everywhere, size):
    from transformers import SamConfig, SamModel

    vision = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "global_attn_indexes": everywhere,
    }
    with torch.device("meta"):
        network = SamModel(SamConfig(vision_config=vision))
    tensors = tiny.original(network)
    assert tensors["image_encoder.blocks.0.attn.rel_pos_h"].shape == (27, width // heads)
    assert sam.FAMILY.recognise(shapes_of(tensors)).size == size
    found = sam_settings(shapes_of(sam_names(tensors)))
    for part, settings in found.items():
        for name, value in settings.items():
            expected = getattr(getattr(network.config, part), name)
            assert value == (list(expected) if isinstance(expected, tuple) else expected), (part, name)


@pytest.mark.parametrize(
    ("width", "blocks", "heads", "windows", "everywhere", "background", "size"),
    [
        (96, [1, 2, 7, 2], 1, [8, 4, 14, 7], [5, 7, 9], 7, "tiny"),
        (96, [1, 2, 11, 2], 1, [8, 4, 14, 7], [7, 10, 13], 7, "small"),
        (112, [2, 3, 16, 3], 2, [8, 4, 14, 7], [12, 16, 20], 14, "base-plus"),
        (144, [2, 6, 36, 4], 2, [8, 4, 16, 8], [23, 33, 43], 7, "large"),
    ],
)
def test_published_sizes_of_sam_2(width, blocks, heads, windows, everywhere, background, size):
    from transformers import Sam2Config, Sam2Model

    widths = [width * 2**i for i in range(4)]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": width,
        "num_attention_heads": heads,
        "blocks_per_stage": blocks,
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [heads * 2**i for i in range(4)],
        "window_size_per_stage": windows,
        "global_attention_blocks": everywhere,
        "window_positional_embedding_background_size": [background] * 2,
    }
    vision = {"backbone_config": backbone, "backbone_channel_list": widths[::-1]}
    with torch.device("meta"):
        network = Sam2Model(Sam2Config(vision_config=vision))
    tensors = tiny.original_sam2(network)
    assert sam2.FAMILY.recognise(shapes_of(tensors)).size == size
    found = sam2.FAMILY.settings(shapes_of(sam2.FAMILY.rename(tensors)), find_card("sam2.1-tiny"), Path("sam2.pt"))
    assert found["vision_config"]["backbone_config"] == backbone
    assert found["vision_config"]["backbone_channel_list"] == widths[::-1]
    assert found["mask_decoder_config"]["mlp_dim"] == 2048


@pytest.mark.parametrize(("name", "width", "inner"), [("slimsam-50", 384, 1536), ("slimsam-77", 168, 696)])
def test_published_sizes_of_slimsam(name, width, inner, tmp_path):
    """The hub has nothing but these two numbers in its config.json."""
    from transformers import SamConfig, SamModel

    config = {"model_type": "sam", "vision_config": {"hidden_size": width, "mlp_dim": inner, "model_type": ""}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with torch.device("meta"):
        network = SamModel(SamConfig(vision_config={"hidden_size": width, "mlp_dim": inner}))
    card = find_card(name)
    assert card.parameters == pytest.approx(sum(p.numel() for p in network.parameters()) / 1e6, abs=0.05)
    assert detect(tmp_path)[1].size == card.size


def test_the_published_mobile_sam():
    with torch.device("meta"):
        encoder = TinyVit(TinyVitSizes())
    shapes = {f"vision_encoder.{name}": tuple(value.shape) for name, value in encoder.state_dict().items()}
    assert TinyVitSizes.of(shapes) == TinyVitSizes()
    for name, shape in {
        "patch_embed.seq.0.c.weight": (32, 3, 3, 3),
        "layers.0.blocks.1.conv2.bn.running_mean": (256,),
        "layers.0.downsample.conv2.c.weight": (128, 1, 3, 3),
        "layers.1.blocks.0.attn.attention_biases": (4, 49),
        "layers.2.blocks.5.attn.attention_biases": (5, 196),
        "layers.2.blocks.5.mlp.fc2.weight": (160, 640),
        "layers.3.blocks.1.attn.qkv.weight": (960, 320),
        "neck.conv1.weight": (256, 320, 1, 1),
    }.items():
        assert shapes[f"vision_encoder.{name}"] == shape
    # The paper counts the classifier (320 x 1000 and its normalisation) with it: 6.07 million.
    assert sum(p.numel() for p in encoder.parameters()) + 321_640 == 6_065_532


# -- bad files ------------------------------------------------------------------------------------


def refused(path: Path | str, *words: str, loader=load) -> None:
    with pytest.raises(InputError) as caught:
        loader(path)
    text = str(caught.value)
    assert "\n" not in text
    assert not [word for word in words if word not in text], text


@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["sam-file", "sam"])
def test_truncated(kind, part, place, tmp_path):
    source = place(kind)
    copy = shutil.copytree(source, tmp_path / "m") if source.is_dir() else shutil.copy(source, tmp_path / "m.pth")
    file = Path(copy) / "model.safetensors" if source.is_dir() else Path(copy)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * part)])
    refused(copy, str(copy), "truncated or damaged", "fetch it again")


def test_not_a_checkpoint(tmp_path):
    (tmp_path / "notes.pth").write_text("weights are elsewhere")
    refused(tmp_path / "notes.pth", "notes.pth", "no plain checkpoint")
    (tmp_path / "empty.pth").write_bytes(b"")
    refused(tmp_path / "empty.pth", "empty.pth", "truncated")
    torch.save([1, 2], tmp_path / "list.pth")
    refused(tmp_path / "list.pth", "list.pth", "tensors by name, found list")
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "log.pth")
    refused(tmp_path / "log.pth", "log.pth", "epoch, lr")
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    refused(tmp_path / "other.pth", "other.pth", "no architecture known here", "SAM 2")
    registers = {n: torch.zeros(1, 1, 384) for n in ("cls_token", "blocks.0.ls1.gamma", "register_tokens")}
    refused(tiny.save_file(registers, tmp_path / "registers.pth"), "no architecture known here")
    (tmp_path / "bad.safetensors").write_bytes(b"\x00" * 30)
    refused(tmp_path / "bad.safetensors", "bad.safetensors", "fetch it again")


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("was_here"),))


def test_code_in_a_file_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Payload()}, tmp_path / "evil.pth")
    refused(tmp_path / "evil.pth", "evil.pth", "never run")
    assert not (tmp_path / "was_here").exists()


def test_missing_and_mismatched_tensors_are_named(tmp_path):
    tensors = tiny.original(tiny.sam())
    some = {name: value for name, value in tensors.items() if not name.startswith("mask_decoder.iou_token")}
    some["mask_decoder.iou_token.weight"] = tensors["mask_decoder.iou_token.weight"]
    del some["prompt_encoder.no_mask_embed.weight"]
    del some["mask_decoder.output_upscaling.1.bias"]
    refused(
        tiny.save_file(some, tmp_path / "some.pth"), "2 tensor(s) are missing", "prompt_encoder.no_mask_embed.weight"
    )
    odd = dict(tensors)
    odd["image_encoder.neck.1.weight"] = torch.ones(7)
    refused(
        tiny.save_file(odd, tmp_path / "odd.pth"),
        "1 tensor(s) have another shape",
        "first image_encoder.neck.1.weight with 7 instead of 32",
    )


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("sam-file", "image_encoder.blocks.1.attn.proj.bias"),
        ("sam-file", "mask_decoder.iou_prediction_head.layers.2.bias"),
        ("sam-hq-file", "mask_decoder.embedding_encoder.1.bias"),
        ("sam-med2d", "image_encoder.blocks.0.Adapter.spatial.2.weight"),
        ("mobile-sam", "image_encoder.layers.1.blocks.0.attn.norm.bias"),
        ("sam2-file", "sam_mask_decoder.transformer.layers.0.self_attn.out_proj.bias"),
    ],
)
def test_missing_tensors_have_the_names_of_the_file(kind, name, place, tmp_path):
    content = torch.load(place(kind), weights_only=True)
    inner = content.get("model", content)
    del inner[name]
    # SAM 2 of no published size needs this.
    if kind == "sam2-file":
        shutil.copy(place(kind).parent / "config.json", tmp_path)
    torch.save(inner, tmp_path / "short.pth")
    refused(tmp_path / "short.pth", f"1 tensor(s) are missing ({name})")


def test_missing_and_unexpected_tensors_are_counted_in_one_sentence(tmp_path):
    tensors = tiny.original(tiny.sam())
    names = [n for n in tensors if n.startswith("mask_decoder.output_hypernetworks_mlps.")]
    own = {n: v for n, v in tensors.items() if n not in names}
    own |= {f"teacher.{i}": torch.zeros(1) for i in range(7)}
    refused(
        tiny.save_file(own, tmp_path / "own.pth"),
        f"{len(names)} tensor(s) are missing ({', '.join(sorted(names)[:5])} and {len(names) - 5} more), ",
        "7 tensor(s) do not belong to it (teacher.0, teacher.1, teacher.2, teacher.3, teacher.4 and 2 more)",
        "check that this file is the model asked for and complete",
    )


def test_a_sam_without_a_decoder_is_told_whole(tmp_path):
    tensors = tiny.original(tiny.sam())
    lost = [n for n in tensors if not n.startswith("image_encoder")]
    some = {n: v for n, v in tensors.items() if n not in lost} | {"teacher.weight": torch.zeros(1)}
    refused(
        tiny.save_file(some, tmp_path / "encoder.pth"),
        "encoder.pth",
        f"{len(lost)} tensor(s) are missing (mask_decoder.iou_prediction_head.layers.0.bias, ",
        "1 tensor(s) do not belong to it (teacher.weight)",
    )


def test_an_optimiser_beside_the_weights_is_left_alone(place, tmp_path):
    """As SAM-Med2D is published: the object itself, with the defaultdict in it, not its state_dict."""
    tensors = tiny.original(tiny.sam_med2d())
    parameters = [torch.nn.Parameter(value.clone()) for value in tensors.values()]
    optimiser = torch.optim.Adam(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    file = tmp_path / "sam-med2d.pth"
    torch.save({"model": tensors, "optimizer": optimiser}, file)
    assert torch.equal(answer(file), answer(place("sam-med2d")))


def test_a_folder_with_a_bin_file_is_the_same_model(place, tmp_path):
    folder = tiny.save_bin_folder(tiny.sam(), tmp_path / "m")
    assert torch.equal(answer(folder), answer(place("sam")))
    data = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(data[: len(data) // 2])
    refused(folder, "pytorch_model.bin", "truncated or damaged", "fetch it again")
    torch.save({"x": Payload()}, folder / "pytorch_model.bin")
    refused(folder, "never run")


def test_the_same_for_folders(place, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(place("sam"), tmp_path / "m"))
    tensors = load_file(folder / "model.safetensors")
    short = {k: v for k, v in tensors.items() if "no_mask_embed" not in k}
    save_file(short, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "1 tensor(s) are missing (prompt_encoder.no_mask_embed.weight)")
    save_file({**tensors, "prompt_encoder.no_mask_embed.weight": torch.ones(1, 5)}, folder / "model.safetensors")
    refused(folder, "no_mask_embed.weight with 1 x 5 instead of 1 x 32")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for damage in ({"num_attention_heads": 0}, {"hidden_size": "wide"}, {"patch_size": None}):
        broken = {**config, "vision_config": {**config["vision_config"], **damage}}
        (folder / "config.json").write_text(json.dumps(broken), encoding="utf-8")
        refused(folder, str(folder), "cannot be read as a model")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").unlink()
    refused(folder, str(folder), "no weight file")
    (folder / "config.json").write_text("{")
    refused(folder, "config.json", "cannot be read as JSON")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    refused(folder, "'bert'", "sam2")
    (folder / "config.json").write_text("[]")
    refused(folder, "config.json", "does not say which model")
    (folder / "config.json").unlink()
    refused(folder, "no config.json")


def test_what_is_left_over_is_reported_and_logged(place, tmp_path, caplog):
    tensors = {**tiny.original(tiny.sam()), "optimizer_step": torch.zeros(1), "image_encoder.extra": torch.zeros(1)}
    with caplog.at_level(logging.WARNING, logger="roireg"):
        model = load(tiny.save_file(tensors, tmp_path / "more.pth"))
    assert model.report.unexpected == ("image_encoder.extra", "optimizer_step")
    assert "2 tensor(s) do not belong to it (image_encoder.extra, optimizer_step)" in caplog.text


def test_another_architecture_than_asked_for(place):
    sam2, dino = place("sam2-file"), place("dinov2")
    refused(f"medsam={sam2}", "sam2.pt", "holds SAM 2", "not medsam")
    refused(f"sam2.1-tiny={place('sam-file')}", "holds Segment Anything (SAM)", "not sam2.1-tiny")
    refused(f"sam-hq-vit-base={place('sam')}", "not sam-hq-vit-base")
    refused(f"sam-vit-base={dino}", "holds DINOv2")
    refused(dino, "answers no prompts", "hierarchy")
    refused(f"medsam={sam2.parent / 'none.pth'}", "none.pth", "no such model file")


def test_another_size_than_asked_for(tmp_path):
    shapes = {"patch_embed.proj.weight": (768, 3, 16, 16)} | {f"blocks.{i}.norm1.weight": (768,) for i in range(12)}
    tensors = {f"image_encoder.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    file = tiny.save_file(tensors, tmp_path / "b.pth")
    refused(f"sam-vit-huge={file}", "holds Segment Anything (SAM) ViT-B, which is not sam-vit-huge")


def test_incomplete_files_of_dino(place, tmp_path):
    tensors = {"cls_token": torch.zeros(1, 1, 384), "blocks.0.ls1.gamma": torch.zeros(384)}
    file = tiny.save_file(tensors, tmp_path / "dinov2_vits14.pth")
    refused(file, "tensor(s) are missing (blocks.0.attn.proj.bias", loader=partial(load, needs="features"))


@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
def test_original_files_of_dino(kind, tmp_path):
    network = tiny.dinov2(width=128) if kind == "dinov2" else tiny.dinov3(width=128)
    folder = tiny.save_folder(network, tmp_path / "folder")
    file = tiny.save_file(tiny.original_dino(network), tmp_path / "file.pth")
    models = [load(path, "features", input_size=80) for path in (folder, file)]
    assert [model.card.family for model in models] == [kind, kind]
    assert models[1].report.unexpected == ()
    maps = [model.encode_dense(RASTER).tensors["image"] for model in models]
    torch.testing.assert_close(maps[0], maps[1], atol=1e-5, rtol=0)


def test_folders_of_dino_as_they_are_on_the_hub(place, tmp_path):
    """Saved by earlier versions of transformers, with other names."""
    from safetensors.torch import load_file, save_file

    v2, v3 = (Path(shutil.copytree(place(kind), tmp_path / kind)) for kind in ("dinov2", "dinov3"))
    old = {}
    for name, value in load_file(v2 / "model.safetensors").items():
        for new, earlier in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
            name = name.replace(f"attention.{new}", f"attention.attention.{earlier}")
        old[name.replace("attention.o_proj", "attention.output.dense")] = value
    save_file(old, v2 / "model.safetensors", metadata={"format": "pt"})
    tensors = {k.replace("model.layer.", "layer."): v for k, v in load_file(v3 / "model.safetensors").items()}
    save_file(tensors, v3 / "model.safetensors", metadata={"format": "pt"})
    for kind, folder in (("dinov2", v2), ("dinov3", v3)):
        found, expected = (load(path, "features", input_size=64) for path in (folder, place(kind)))
        assert torch.equal(
            found.encode_dense(RASTER).tensors["image"], expected.encode_dense(RASTER).tensors["image"]
        )


# -- libraries ------------------------------------------------------------------------------------


def test_without_transformers(monkeypatch, place):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(OptionalDependencyError, match=r'pip install "roireg\[models\]"'):
        load(place("sam"))


def test_a_torchvision_that_does_not_fit(monkeypatch):
    class Library:
        def __getattr__(self, name: str) -> object:
            try:
                raise RuntimeError("operator torchvision::nms does not exist")
            except RuntimeError as error:
                raise ModuleNotFoundError(f"Could not import module {name!r}") from error

    monkeypatch.setattr(hugging.importlib, "import_module", lambda name: Library())
    with pytest.raises(OptionalDependencyError, match="pip uninstall torchvision"):
        hugging.transformers_class("SamModel")


def test_a_transformers_that_is_too_old():
    with pytest.raises(OptionalDependencyError, match="no usable Sam9Model"):
        hugging.transformers_class("Sam9Model")


def test_transformers_stays_quiet_and_keeps_its_settings(place, capfd):
    from transformers.utils import logging as chatter

    before = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    load(place("sam"))
    assert (chatter.get_verbosity(), chatter.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_read_tensors_of_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint file"):
        read_tensors(tmp_path / "none.pth")


def test_loaders_name_the_card_in_messages(place):
    with pytest.raises(InputError, match=r"sam\.pth.*mobile-sam"):
        mobile_sam.FAMILY.read(place("sam-file"), find_card("mobile-sam"))


# -- files that are out to harm -------------------------------------------------------------------


def edited(place, tmp_path, **changes) -> Path:
    """A tiny SAM whose config.json has other values; those of parts as `part__key`."""
    folder = Path(shutil.copytree(place("sam"), tmp_path / "m", dirs_exist_ok=True))
    config = json.loads((place("sam") / "config.json").read_text(encoding="utf-8"))
    for key, value in changes.items():
        part, inner = found.groups() if (found := re.match(r"(\w+?_config)__(.+)", key)) else ("", key)
        (config[part] if part else config)[inner] = value
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


CODE = "kernels-community/flash-attn"


@pytest.mark.parametrize(
    "changes",
    [
        {"_attn_implementation": CODE},
        {"attn_implementation": CODE, "vision_config___attn_implementation": CODE},
        {"_attn_implementation_internal": CODE, "use_kernels": True},
        {"auto_map": {"AutoModel": "evil--code.Model"}, "trust_remote_code": True},
        {"quantization_config": {"quant_method": "fp8"}, "_name_or_path": CODE},
        {"vision_config__model_type": "timm_backbone", "base_model_tp_plan": {"layers.*": CODE}},
        {"dtype": "float16", "output_attentions": True, "architectures": [CODE]},
    ],
)
def test_no_key_of_a_folder_names_code(changes, place, tmp_path):
    folder = edited(place, tmp_path, **changes)
    assert torch.equal(answer(folder), answer(place("sam")))
    assert load(folder).network.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    "changes",
    [
        {"vision_config__hidden_size": [768]},
        {"vision_config__num_hidden_layers": {"a": 1}},
        {"vision_config__image_size": "large"},
        {"vision_config__num_hidden_layers": 10**9},
        {"vision_config__num_hidden_layers": 60_000},
        {"vision_config__hidden_size": 65_536},
        {"vision_config__mlp_dim": 10**400},
        {"vision_config__hidden_act": 7},
        {"vision_config__hidden_act": CODE},
        {"vision_config__global_attn_indexes": [[{}]]},
        {"mask_decoder_config__num_multimask_outputs": -5},
        {"mask_decoder_config": 3},
        {"prompt_encoder_config__image_size": [128, 128]},
        {"vision_config__patch_size": True},
    ],
)
def test_odd_types_and_sizes_of_a_configuration(changes, place, tmp_path):
    refused(edited(place, tmp_path, **changes), str(tmp_path / "m"), "cannot be read as a model", "fetch it again")


def test_deeply_nested_configurations(place, tmp_path):
    folder = edited(place, tmp_path)
    (folder / "config.json").write_text('{"model_type": ' + "[" * 100_000, encoding="utf-8")
    refused(folder, "config.json", "cannot be read as JSON")


@pytest.mark.parametrize("kind", ["sam-file", "sam-hq-file", "sam2-file", "sam-med2d", "mobile-sam"])
def test_tensors_of_one_value(kind, place, tmp_path):
    content = torch.load(place(kind), weights_only=True)
    inner = content.get("model", content)
    for name in [n for n in inner if n.endswith(("patch_embed.proj.weight", "seq.0.c.weight"))]:
        refused(tiny.save_file({**inner, name: torch.tensor(1.0)}, tmp_path / "own.pth"), "own.pth")
    everywhere = {name: torch.tensor(0.0) for name in inner}
    refused(tiny.save_file(everywhere, tmp_path / "none.pth"), "none.pth")


@pytest.mark.parametrize("number", ["999999999", "9" * 5000, "123456789123456789"])
def test_block_numbers_out_of_this_world(number, place, tmp_path):
    tensors = torch.load(place("sam-file"), weights_only=True)
    for name in (
        f"image_encoder.blocks.{number}.norm1.weight",
        f"mask_decoder.iou_prediction_head.layers.{number}.bias",
    ):
        refused(tiny.save_file({**tensors, name: torch.zeros(32)}, tmp_path / "own.pth"), "own.pth")


def test_a_packed_archive_is_not_unpacked(place, tmp_path):
    packed = tmp_path / "bomb.pth"
    with zipfile.ZipFile(place("sam-file")) as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bomb:
        for part in plain.infolist():
            bomb.writestr(part.filename, plain.read(part))
    refused(packed, "bomb.pth", "is a compressed archive")


def test_a_small_file_cannot_fill_the_memory(tmp_path):
    """One value that is shown as 10^12."""
    tensors = {"image_encoder.pos_embed": torch.zeros(1).expand(1, 10**6, 10**6)}
    refused(tiny.save_file(tensors, tmp_path / "wide.pth"), "wide.pth", "claim to hold 4000000000000 bytes")


# -- without weights ------------------------------------------------------------------------------

SMALL = {
    "sam": {"vision_config": tiny.VISION, "prompt_encoder_config": tiny.PROMPTS, "mask_decoder_config": tiny.DECODER},
    "dinov2": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 70},
    "sam-med3d": {
        "side": 32, "patch": 8, "width": 24, "heads": 2, "windows": (3, 4), "embedding": 48, "mask_channels": 8,
    },
}  # fmt: skip


@pytest.mark.parametrize("family", SMALL)
def test_an_untrained_network_learns_and_does_not_predict(family, tmp_path):
    model = untrained(family, SMALL[family])
    assert not model.trained and model.card.weights_licence == "none"
    assert all(p.requires_grad and not p.is_meta for p in model.network.parameters())
    raster = torch.rand(3, *(32,) * model.card.ndim) * 255
    with pytest.raises(InputError, match="random weights and predicts nothing"):
        model.encode_dense(raster)
    assert model.encoded == 0
    # Its weights, once saved, are a checkpoint as any other.
    if family == "sam":
        trained = load(tiny.save_folder(model.network, tmp_path / "mine"))
        assert trained.trained and trained.encode(raster).tensors["image"].shape == (1, 32, 8, 8)
    if family == "sam-med3d":
        trained = load(tiny.save_file(model.network.state_dict(), tmp_path / "mine.pth"))
        assert trained.trained and trained.encode(raster).shape == (32, 32, 32)


def test_what_cannot_be_trained():
    for name in ("nninteractive", "sam-vit-base", "unet"):
        with pytest.raises(InputError, match=f"no family '{name}' to be trained; use one of embedding, sam, "):
            untrained(name)
