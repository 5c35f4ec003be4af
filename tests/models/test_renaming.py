"""The names of the authors' tensors come back from those of transformers, all of them."""

from __future__ import annotations

from functools import partial

import pytest

from models import tiny
from roireg.models import dino, mobile_sam, sam, sam2, sam_hq, sam_med2d
from roireg.models.renaming import number_layers, original_names, rename
from roireg.models.sam_names import sam_names

RULES = (("first.#.second.#.", "one#.two#."), ("first.", "one."), ("last", "end"))


def test_numbers_stay_and_the_first_rule_counts():
    assert rename("first.3.second.14.weight", RULES) == "one3.two14.weight"
    assert rename("first.3.second.bias", RULES) == "one.3.second.bias"
    assert rename("last", RULES) == "end"
    assert rename("firsts.bias", RULES) == "firsts.bias"


def test_layers_of_perceptrons():
    names = [f"head.layers.{i}.{kind}" for i in range(4) for kind in ("weight", "bias")]
    here = number_layers(names)
    assert here["head.layers.0.bias"] == "head.proj_in.bias"
    assert here["head.layers.2.weight"] == "head.layers.1.weight"
    assert here["head.layers.3.weight"] == "head.proj_out.weight"
    back = original_names(here.values(), RULES)
    assert {here[name]: name for name in names} == back


NETWORKS = {
    "sam": (tiny.sam, sam.NAMES),
    "sam-hq": (tiny.sam_hq, sam_hq.NAMES),
    "sam-med2d": (tiny.sam_med2d, sam_med2d.NAMES),
    "mobile-sam": (tiny.mobile_sam, mobile_sam.NAMES),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_name_of_sam_comes_back(kind):
    build, rules = NETWORKS[kind]
    network = build()
    original = tiny.original(network)
    assert set(sam_names(original, rules)) == set(network.state_dict())
    assert set(original_names(network.state_dict(), rules).values()) == set(original)


def test_every_name_of_sam_2_comes_back():
    network = tiny.sam2()
    original = {name for name in tiny.original_sam2(network) if not sam2.VIDEO.match(name)}
    # Four tensors there are one here.
    points = {name for name in original if "point_embeddings" in name}
    back = set(original_names(network.state_dict(), sam2.NAMES).values())
    assert len(points) == 4
    assert back == original - points | {"sam_prompt_encoder.point_embeddings.weight"}


@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
def test_every_name_of_dino_comes_back(kind):
    network = partial(getattr(tiny, kind), width=128)()
    original = {n for n in tiny.original_dino(network) if n != "rope_embed.periods" and not n.endswith("bias_mask")}
    assert set(original_names(network.state_dict(), dino.RULES[kind]).values()) == original


def test_without_rules_names_stay():
    assert original_names(["a.attn.q_proj.weight", "b.proj_in.bias"], ()) == {
        "a.attn.q_proj.weight": "a.attn.q_proj.weight",
        "b.proj_in.bias": "b.proj_in.bias",
    }
