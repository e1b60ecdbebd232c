"""The registry: every entry is a network of the published size and width, and every fact has a source."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import timm
import torch
from helpers.sections import pixels, warns_here

import spade as sp
from spade.core.vision.towers import pooled
from spade.encoders._architectures import created
from spade.encoders._spec import NOT_STATED, SPECS, known
from spade.encoders._timm import input_of

#: Millions of weights, as stated by the sources or by the size of the published file.
MILLIONS = {
    "uni": 303.4, "uni2_h": 681.4, "virchow": 631.2, "virchow2": 631.2, "h_optimus_0": 1134.8, "h_optimus_1": 1134.8,
    "gigapath": 1135.0, "h0_mini": 85.7, "hibou_b": 85.7, "hibou_l": 303.7, "phikon": 85.8, "phikon_v2": 303.4,
    "lunit_dino_s8": 21.7, "lunit_dino_s16": 21.7, "kaiko_vitb16": 85.8, "kaiko_vitl14": 304.4, "gpfm": 303.2,
    "ctranspath": 27.5, "mstar": 303.4, "dinov2_vitg14": 1134.8,
}  # fmt: skip
BUILT = {}


def built(spec):
    """Width of the features and millions of weights, from shapes alone; the same network is built once."""
    key = (spec.architecture, str(spec.kwargs()), spec.input_px, spec.pool)
    if key not in BUILT:
        with torch.device("meta"), torch.no_grad():
            model = created(spec)
            side, *_ = input_of(spec, model)
            features = pooled(model, torch.zeros(1, 3, side, side), spec.pool)
        BUILT[key] = tuple(features.shape), sum(value.numel() for value in model.parameters()) / 1e6
    return BUILT[key]


@pytest.mark.parametrize("name", [name for name in SPECS if name not in ("texture", "musk")])
def test_an_entry_is_the_network_that_was_published(name):
    spec = SPECS[name]
    shape, millions = built(spec)
    assert shape == (1, spec.dim)
    if name in MILLIONS:
        assert millions == pytest.approx(MILLIONS[name], abs=0.1)


def test_there_are_the_encoders_that_people_ask_for():
    assert len(sp.encoders.available()) >= 38
    assert {"conch", "conch_v1_5", "musk", "midnight_12k", "retccl", "seal_uni2_h", "dinov2_vitb14"} <= set(SPECS)


@pytest.mark.parametrize("name", [name for name in SPECS if name != "texture"])
def test_facts_are_whole_or_unknown(name):
    spec = SPECS[name]
    assert spec.source, "what was read?"
    assert spec.input_px % 2 == 0
    assert all(0 < value < 1 for value in (*spec.mean, *spec.std))
    assert spec.mpp in (None, 0.5, 1.0)
    assert spec.licence != NOT_STATED or name.startswith("seal")
    assert spec.model is None or spec.model.startswith("hf-hub:")
    assert (spec.model is None) == (spec.page is not None)
    assert spec.gated is not None


@pytest.mark.parametrize(
    ("names", "mean", "std"),
    [
        (("h_optimus_0", "h_optimus_1", "h0_mini"), (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)),
        (("hibou_b", "hibou_l"), (0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816)),
        (("lunit_dino_s8", "lunit_dino_s16"), (0.7032, 0.5361, 0.6610), (0.2172, 0.2608, 0.2072)),
        (("conch", "seal_conch"), (0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)),
        (("musk", "midnight_12k", *(name for name in SPECS if name.startswith("kaiko"))), (0.5,) * 3, (0.5,) * 3),
    ],
)
def test_pixels_are_normalised_as_in_training(names, mean, std):
    """By the cards of those that have moments of their own."""
    for name in names:
        np.testing.assert_allclose([SPECS[name].mean, SPECS[name].std], [mean, std], atol=6e-5)


def test_all_others_are_normalised_as_imagenet():
    """Also of one that is added: its card has to be read."""
    own = ("texture", "h_optimus", "h0_mini", "hibou", "lunit", "conch", "seal_conch", "musk", "midnight_12k", "kaiko")
    others = {name: spec for name, spec in SPECS.items() if not name.startswith(own)} | {"c": SPECS["conch_v1_5"]}
    assert {(spec.mean, spec.std) for spec in others.values()} == {((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}


@pytest.mark.parametrize(
    "name", [name for name, spec in SPECS.items() if (spec.model or "").startswith("hf-hub:timm/")]
)
def test_baselines_are_what_timm_says_of_them(name):
    spec = SPECS[name]
    known_to_timm = timm.get_pretrained_cfg(spec.model.removeprefix("hf-hub:timm/"))
    assert spec.model == f"hf-hub:{known_to_timm.hf_hub_id}"
    assert (spec.mean, spec.std) == (known_to_timm.mean, known_to_timm.std)
    assert spec.licence.lower() == known_to_timm.license
    assert spec.architecture == known_to_timm.architecture


def test_what_no_source_states_is_not_made_up():
    assert [SPECS[name].mpp for name in ("mstar", "lunit_dino_s16", "dinov2_vitb14")] == [None] * 3
    assert SPECS["seal_conch"].licence == NOT_STATED
    assert "unclear" in SPECS["gpfm"].licence


def test_encoders_are_known_by_the_names_of_other_programs():
    assert [known(name).name for name in ("uni_v1", "conch_v15", "hoptimus1")] == ["uni", "conch_v1_5", "h_optimus_1"]
    assert known("hf-hub:MahmoodLab/UNI2-h").name == "uni2_h"
    assert known("hf-hub:MahmoodLab/SEAL") is None  # two files lie there
    assert known("resnet50") is None  # timm's own
    names = [name for spec in SPECS.values() for name in (spec.name, *spec.aliases)]
    assert len(names) == len(set(names))


def test_weights_that_are_not_on_the_hub_say_where_they_are():
    with pytest.raises(
        RuntimeError, match=r"encoder='ctranspath': its weights are not on the hub.*Xiyue-Wang/TransPath"
    ):
        sp.encoders.get("ctranspath")


MUSK = """
import torch
from timm.models import register_model

class Musk(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.beit3 = torch.nn.Conv2d(3, 1024, 128, 128)
        self.language_head = torch.nn.Linear(2, 2)
    def forward(self, image=None, text_description=None, padding_mask=None, return_global=True, with_head=True,
                out_norm=True, ms_aug=False, scales=None, max_split_size=None):
        assert return_global and not (with_head or out_norm or ms_aug)
        return self.beit3(image).mean((2, 3)), None

@register_model
def musk_large_patch16_384(pretrained=False, **kwargs):
    return Musk()
"""


def test_musk_is_built_by_the_package_of_its_authors(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "musk", None)
    with pytest.raises(ImportError, match=r"encoder='musk' needs a package of its authors .*lilab-stanford/MUSK"):
        with pytest.warns(UserWarning, match="random weights"):
            sp.encoders.get("musk", weights="random")
    assert not sp.encoders.check("musk").installed
    monkeypatch.delitem(sys.modules, "musk")
    (tmp_path / "musk").mkdir()
    (tmp_path / "musk" / "__init__.py").touch()
    (tmp_path / "musk" / "modeling.py").write_text(MUSK)
    monkeypatch.syspath_prepend(tmp_path)
    assert sp.encoders.check("musk").installed
    with warns_here("random weights"):
        musk = sp.encoders.get("musk", weights="random", device="cpu")
    assert (musk.dim, musk.input_px, musk.moments[0]) == (1024, 384, (0.5, 0.5, 0.5))
    state = musk.model.network.state_dict()
    assert set(state) == {"beit3.weight", "beit3.bias", "language_head.weight", "language_head.bias"}
    torch.save({"model": state}, tmp_path / "musk.pth")
    again = sp.encoders.get("musk", weights=tmp_path / "musk.pth", device="cpu")
    patches = pixels(3, (2, 384, 384, 3))
    np.testing.assert_array_equal(again.encode(patches, 0.5), musk.encode(patches, 0.5))
    for name in ("musk", "musk.modeling"):
        monkeypatch.delitem(sys.modules, name)


def test_encoders_are_shown_in_a_few_lines():
    table = sp.encoders.available()
    assert repr(table).splitlines()[0].startswith("38 encoders: 'texture', 'uni', ")
    assert len(repr(table).splitlines()) == 2
    assert repr(table["texture"]) == (
        "EncoderSpec: texture, 184 features, input of any size, any µm/px, licence BSD-3-Clause, open"
    )
    assert repr(sp.encoders.get("texture")) == "TextureEncoder: texture, 184 features, input of any size, any µm/px"
    page = table._repr_html_()
    assert page.count("<tr>") == len(table) + 1
    assert "<td>uni2_h</td><td>1536</td><td>224</td><td>0.5</td>" in page
