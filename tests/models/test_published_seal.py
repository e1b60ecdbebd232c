"""SEAL in the form in which its authors publish it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from helpers.published import (
    ARCHITECTURE,
    LAST,
    NAMES,
    PREFIX,
    PX,
    RANK,
    D,
    G,
    Omics,
    expression_by_hand,
    image_by_hand,
    read,
    vision_of,
)
from helpers.sections import pixels, warns_here

import spade as sp
from spade.core.vision.lora import adapters, add_lora
from spade.encoders._spec import SPECS, EncoderSpec
from spade.models import GenePanel, SealModel


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(5)
    return timm.create_model(ARCHITECTURE, num_classes=0).eval()


@pytest.fixture(scope="module")
def states(network):
    torch.manual_seed(6)
    return vision_of(network), Omics().state_dict()


@pytest.fixture(scope="module")
def files(states, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    vision, omics = folder / "seal_vit_vision.pth", folder / "seal_vit_omics.pth"
    torch.save({"model": {f"module.{name}": value for name, value in states[0].items()}, "epoch": 3}, vision)
    torch.save(states[1], omics)
    return vision, omics


@pytest.fixture(scope="module")
def model(files):
    return read(files)


def counts(n=7, seed=2):
    return np.random.default_rng(seed).gamma(1, size=(n, G)).astype(np.float32)


# --- what is read


def test_images_are_encoded_with_the_adapters_of_the_file(model, files, network, states):
    patches = pixels(3, (4, PX, PX, 3))
    found = model.encode_image(patches)
    np.testing.assert_allclose(found, image_by_hand(network, states[0], patches, 2), atol=1e-4)
    frozen = image_by_hand(network, states[0], patches, 0)
    assert np.abs(found - frozen).max() > 0.1
    twice = read(files, alpha=16).encode_image(patches)
    np.testing.assert_allclose(twice, image_by_hand(network, states[0], patches, 4), atol=1e-4)
    bare = sp.encoders.get(ARCHITECTURE, weights=write_base(files[0].parent, network), device="cpu")
    assert model.config.encoder_id == bare.id
    np.testing.assert_allclose(bare.encode(patches, 0.5), frozen, atol=1e-4)


def test_the_image_side_alone_is_an_encoder_with_the_adapters_merged(model, files, network, states):
    patches = pixels(3, (4, PX, PX, 3))
    alone = sp.encoders.get(ARCHITECTURE, weights=files[0], device="cpu")
    np.testing.assert_allclose(alone.encode(patches, 0.5), model.encode_image(patches), atol=1e-4)
    wanted = image_by_hand(network, states[0], patches, 2)
    np.testing.assert_allclose(alone.encode(patches, 0.5), wanted, atol=1e-4)


def test_expression_is_encoded_as_the_tensors_say(model, states):
    x = counts()
    np.testing.assert_allclose(model.encode_expression(x), expression_by_hand(states[1], x), rtol=1e-4, atol=1e-4)


def test_the_decoder_of_the_expression_tower_is_in_its_place(model, states):
    _, omics = states
    z = torch.from_numpy(expression_by_hand(omics, counts()))
    for i in ("0", "2", "5"):
        z = F.linear(z if i == "0" else z.relu(), omics[f"decoder.{i}.weight"], omics[f"decoder.{i}.bias"])
    with torch.no_grad():
        found = model.net.gene(torch.from_numpy(counts()))
    np.testing.assert_allclose(found.y, z, rtol=1e-4, atol=1e-4)
    assert torch.equal(model.net.gene.fc_logvar.weight, omics["fc_logvar.weight"])


def test_expression_is_predicted_by_the_head_of_the_file(model, network, states):
    patches = pixels(4, (3, PX, PX, 3))
    z = torch.from_numpy(image_by_hand(network, states[0], patches, 2))
    w = {name.removeprefix("decoder.decoder."): value for name, value in states[0].items() if name.startswith("dec")}
    wanted = ((z @ w["0.weight"].T + w["0.bias"]).relu() @ w["3.weight"].T + w["3.bias"]).relu()
    found = model.predict_expression(patches)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert found.max() > 0


def test_settings_and_card_say_what_is_known(model, files):
    config = model.config
    assert (config.encoder, config.weights, config.dim) == (ARCHITECTURE, files[0].name, D)
    assert (config.n_blocks, config.targets, config.rank, config.alpha) == (1, ("qkv", "proj", "fc1", "fc2"), RANK, 8)
    assert (config.patch_um, config.patch_px, model.input_px) == (112, PX, PX)
    assert (model.genes.names, model.reads_pixels, len(model.history)) == (tuple(NAMES), True, 0)
    assert not model.expression_mean.any()
    assert torch.equal(model.net.deviation, torch.ones(G))
    assert "not known: 0" in model.facts["mean_of_the_genes"]
    assert model.facts["trained_weights_of_the_encoder"] == RANK * D * (1 + 3 + 1 + 1 + 1 + 3 + 3 + 1)
    assert read(files, genes=GenePanel(tuple(NAMES))).id == model.id


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "half", "rows", "no counts"])
def test_the_same_tensors_in_another_form_are_the_same_model(wrap, model, states, tmp_path):
    vision, omics = (dict(state) for state in states)
    if wrap == "half":  # what halves can hold, so that nothing is lost
        vision, omics = (
            {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
            for state in (vision, omics)
        )
    if wrap == "rows":
        omics |= {name: value.unsqueeze(0) for name, value in omics.items() if name.startswith("flows.")}
    if wrap == "no counts":
        omics = {name: value for name, value in omics.items() if "num_batches" not in name}
    paths = tmp_path / "seal_vit_vision.pth", tmp_path / "o.pt"
    for path, state in zip(paths, (vision, omics), strict=True):
        torch.save({"state_dict": state} if wrap == "state_dict" else state, path)
    found = read(paths)
    assert {value.dtype for value in found.net.own_state().values()} == {torch.float32}
    x = counts()
    if wrap == "half":
        np.testing.assert_allclose(found.encode_expression(x), model.encode_expression(x), rtol=0.02, atol=0.02)
    else:
        assert found.id == model.id


def test_several_blocks_and_fewer_layers_are_found_in_the_file(network, files, tmp_path):
    torch.manual_seed(7)
    state = vision_of(network, blocks=(4, 5), rank=3)
    for name in list(state):  # of the attention alone
        if ".mlp." in name:
            if "lora_" in name:
                del state[name]
            else:
                state[name.replace(".base_layer", "")] = state.pop(name)
    torch.save(state, tmp_path / "v.pth")
    found = read((tmp_path / "v.pth", files[1]))
    assert (found.config.n_blocks, found.config.targets, found.config.rank) == (2, ("qkv", "proj"), 3)
    patches = pixels(3, (2, PX, PX, 3))
    np.testing.assert_allclose(found.encode_image(patches), image_by_hand(network, state, patches, 8 / 3), atol=1e-4)


def test_an_encoder_built_like_uni2_h(tmp_path, monkeypatch):
    small = SPECS["uni2_h"].kwargs() | {"img_size": 28, "depth": 2, "num_heads": 2, "embed_dim": 48}
    architecture = SPECS["uni2_h"].architecture
    monkeypatch.setitem(SPECS, "like", EncoderSpec("like", "like", architecture, 48, 28, kwargs=lambda: small))
    torch.manual_seed(1)
    network = timm.create_model(architecture, num_classes=0, **small).eval()
    torch.save(vision_of(network, blocks=(1,)), tmp_path / "v.pth")
    torch.save(Omics(dim=48).state_dict(), tmp_path / "o.pth")
    found = read((tmp_path / "v.pth", tmp_path / "o.pth"), encoder="like")
    assert found.encode_image(pixels(3, (2, 28, 28, 3))).shape == (2, 48)


def test_the_published_keys_are_those_of_uni2_h():
    spec = SPECS["uni2_h"]
    with torch.device("meta"):
        network = timm.create_model(spec.architecture, pretrained=False, num_classes=0, **spec.kwargs())
        published = vision_of(network, blocks=(23,), rank=8)
        add_lora(network, n_blocks=1, targets=("qkv", "proj", "fc1", "fc2"), rank=8, alpha=8, dropout=0.15)
    wanted = {name.removeprefix(PREFIX): v.shape for name, v in published.items() if name.startswith(PREFIX)}
    assert {name: value.shape for name, value in network.state_dict().items()} == wanted
    assert sum(value.numel() for _, value in adapters(network)) == 196_608


# --- how it is used


@pytest.fixture
def sample():
    (sample,) = sp.datasets.toy(1, 12)
    sp.pp.patches(sample)
    return sample


def test_a_sample_is_embedded_and_encoded(sample, files, states, network):
    names = list(sample["table"].var_names[:G])
    model = read(files, genes=names)
    sp.tl.embed(sample, model)
    obsm = sample["table"].obsm
    assert obsm["X_seal"].shape == (12, D)
    sp.pp.encode_patches(sample, encoder=model)
    np.testing.assert_array_equal(obsm["X_test_vit_seal"], obsm["X_seal_image"])
    x = sample["table"].X.toarray()
    x = np.log1p(x / x.sum(1, keepdims=True) * 1e4)[:, :G].astype(np.float32)
    np.testing.assert_allclose(obsm["X_seal_expression"], expression_by_hand(states[1], x), rtol=1e-3, atol=1e-3)
    other = read(files, genes=["nowhere", *names[1:]])
    with warns_here("1 of the model's 30 genes are missing"):
        sp.tl.embed(sample, other)
    x[:, 0] = 0
    np.testing.assert_allclose(obsm["X_seal_expression"], expression_by_hand(states[1], x), rtol=1e-3, atol=1e-3)


def test_patches_of_another_size_are_refused(sample, model):
    sp.pp.patches(sample, size_um=56)
    with pytest.raises(ValueError, match=r"patches have 56 µm, but the model was tuned on patches of 112 µm"):
        sp.tl.embed(sample, model)


def write_base(folder, network):
    torch.save(network.state_dict(), folder / "base.pth")
    return folder / "base.pth"


def test_saved_with_the_encoder_it_needs_no_weights(model, tmp_path):
    model.save(tmp_path / "m", merge=True)
    again = SealModel.load(tmp_path / "m", device="cpu")
    patches = pixels(3, (2, PX, PX, 3))
    np.testing.assert_array_equal(again.encode_image(patches), model.encode_image(patches))
    np.testing.assert_array_equal(again.predict_expression(patches), model.predict_expression(patches))
    np.testing.assert_array_equal(again.encode_expression(counts()), model.encode_expression(counts()))
    assert (again.id, again.config, again.facts) == (model.id, model.config, model.facts)
    card = (tmp_path / "m" / "README.md").read_text()
    assert "read from the published files seal_vit_vision.pth and seal_vit_omics.pth" in card


def test_saved_without_it_the_same_weights_are_needed(model, network, tmp_path):
    model.save(tmp_path / "m")
    again = SealModel.load(tmp_path / "m", weights=write_base(tmp_path, network), device="cpu")
    patches = pixels(3, (2, PX, PX, 3))
    np.testing.assert_array_equal(again.encode_image(patches), model.encode_image(patches))
    torch.manual_seed(9)
    other = timm.create_model(ARCHITECTURE, num_classes=0)
    with pytest.raises(
        ValueError, match=r"but the model was tuned from .*Pass the file of these weights with weights="
    ):
        SealModel.load(tmp_path / "m", weights=write_base(tmp_path, other), device="cpu")


# --- what is refused


QKV = f"{LAST}attn.qkv"


def moved(state):
    """Adapters of the last block, in the block before."""
    for name in list(state):
        if name.startswith((LAST, f"{PREFIX}blocks.4.")) and "norm" not in name:
            now = f"{PREFIX}blocks.{9 - int(name[len(PREFIX) + 7])}."
            state[f"*{now}{name.removeprefix(LAST).removeprefix(f'{PREFIX}blocks.4.')}"] = state.pop(name)
    for name in [name for name in state if name.startswith("*")]:
        state[name[1:]] = state.pop(name)


def without_adapters(state):
    for name in list(state):
        if "lora_" in name:
            del state[name]


VISION = [
    (lambda s: s.pop(f"{PREFIX}norm.weight"), r"1 keys missing \['norm\.weight'\], 0 keys too many"),
    (lambda s: s.pop(f"{QKV}.base_layer.bias"), r"1 keys missing \['blocks\.5\.attn\.qkv\.bias'\]"),
    (lambda s: s.pop(f"{QKV}.lora_B.default.weight"), r"1 keys missing \['blocks\.5\.attn\.qkv\.lora_B\.default\.we"),
    (lambda s: s.pop("decoder.decoder.3.bias"), r"1 keys missing \['decoder\.decoder\.3\.bias'\], 0 keys too many"),
    (lambda s: s.update({f"{PREFIX}more": torch.ones(1)}), r"0 keys missing \[\], 1 keys too many \['more'\]"),
    (lambda s: s.update(more=torch.ones(1)), r"0 keys missing \[\], 1 keys too many \['more'\]"),
    (
        lambda s: s.update({f"{QKV}.weight": s[f"{QKV}.base_layer.weight"]}),
        r"1 keys too many \['blocks\.5\.attn\.qkv\.w",
    ),
    (
        lambda s: s.update({f"{QKV}.lora_A.more.weight": torch.ones(4, D)}),
        r"1 keys too many \['blocks\.5\.attn\.qkv\.lo",
    ),
    (lambda s: s.update({f"{PREFIX}norm.weight": torch.ones(3)}), r"1 of other shape \['norm\.weight \(3,\) for \(64"),
    (
        lambda s: s.update({f"{QKV}.lora_B.default.weight": torch.ones(3)}),
        r"lora_B\.default\.weight \(3,\) for \(192, 4",
    ),
    (lambda s: s.update({f"{QKV}.lora_A.default.weight": torch.ones(3, D)}), r"one rank.* but found ranks \[3, 4\]"),
    (lambda s: s.update({f"{QKV}.lora_A.default.weight": torch.ones(())}), r"one rank.* but found ranks \[0, 4\]"),
    (
        lambda s: s.update({"decoder.decoder.0.weight": torch.ones(512, 5)}),
        r"decoder\.decoder\.0\.weight \(512, 5\) for \(512, 64\)",
    ),
    (
        lambda s: s.update({f"{PREFIX}norm.bias": torch.ones(D, dtype=torch.int64)}),
        r"1 arrays do not hold floating-point numbers, such as \['encoder\.base_model\.model\.norm\.bias'\]",
    ),
    (moved, r"adapters are in blocks\.4; only adapters in the last of the 6 blocks can be read"),
    (without_adapters, r"has no adapters, whose keys are like .*it has .* keys of the encoder, \['cls_token'"),
]


OMICS = [
    (lambda s: s.pop("fc_mu.bias"), r"1 keys missing \['fc_mu\.bias'\], 0 keys too many"),
    (lambda s: s.pop("flows.2.b"), r"1 keys missing \['flows\.2\.b'\]"),
    (lambda s: s.pop("encoder.5.running_var"), r"1 keys missing \['encoder\.5\.running_var'\]"),
    (
        lambda s: s.pop("encoder.0.weight"),
        r"has no matrix 'encoder\.0\.weight'.* but \d+ arrays such as \['encoder\.0\.b",
    ),
    (lambda s: s.update({"flows.3.u": torch.ones(D)}), r"1 keys too many \['flows\.3\.u'\]"),
    (lambda s: s.update({"x.num_batches_tracked": torch.ones(1)}), r"1 keys too many \['x\.num_batches_tracked'\]"),
    (lambda s: s.update({"fc_mu.bias": torch.ones(5)}), r"1 of other shape \['fc_mu\.bias \(5,\) for \(64,\)'\]"),
    (
        lambda s: s.update({"fc_mu.bias": torch.ones(D, dtype=torch.bool)}),
        r"1 arrays do not hold floating-point numbers",
    ),
    (
        lambda s: s.update(Omics(dim=48).state_dict()),
        r"fc_mu\.weight \(48, 512\) for \(64, 512\).*Are both files of this",
    ),
]


@pytest.mark.parametrize(
    ("which", "damage", "said"), [(i, *case) for i, cases in enumerate((VISION, OMICS)) for case in cases]
)
def test_files_that_do_not_fit_are_refused(which, damage, said, files, states, tmp_path):
    state, paths = dict(states[which]), list(files)
    damage(state)
    paths[which] = tmp_path / "changed.pth"
    torch.save(state, paths[which])
    with pytest.raises(ValueError, match=rf"changed\.pth.*{said}"):
        read(paths)


def test_files_of_something_else_are_refused(files, network, tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "odd.pth"
    for odd, said in (
        ([torch.ones(2)], "holds list, not a state dict"),
        ({"model": {"epoch": 3}}, "holds dict, not a state dict"),
        (network, "Only tensors are read, never code"),
        ({}, "has no adapters"),
    ):
        torch.save(odd, path)
        with pytest.raises(ValueError, match=rf"odd\.pth.*{said}"):
            read((path, files[1]))
    with pytest.raises(ValueError, match=r"vision\.pth has no matrix 'encoder\.0\.weight'"):
        read((files[0], files[0]))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.pth"):
        read((tmp_path / "none.pth", files[1]))


def test_the_file_must_be_of_the_encoder(files):
    with pytest.raises(ValueError, match=r"vision\.pth: .*does not fit encoder='vit_tiny_patch16_224'.*other shape"):
        read(files, encoder="vit_tiny_patch16_224")
    with pytest.raises(ValueError, match=r"vision\.pth: .*does not fit encoder='test_resnet'.*keys too many \['blocks"):
        read(files, encoder="test_resnet")
    for name in ("texture", "hf-hub:someone/model"):
        with pytest.raises(ValueError, match=rf"encoder='{re.escape(name)}' names no architecture.*'uni', 'uni2_h'"):
            read(files, encoder=name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"genes": None}, r"genes=None: no gene panel was published.*omics\.pth reads 30 genes\. Pass their 30 names"),
        ({"genes": NAMES[:-1]}, r"genes: got 29 names, but .*omics\.pth reads 30 genes"),
        ({"genes": [*NAMES[:-1], NAMES[0]]}, r"genes: names occur more than once"),
        ({"alpha": 0}, r"^alpha=0: expected a positive number"),
        ({"encoder": "resnot"}, r"^encoder='resnot' is not known"),
    ],
)
def test_arguments_are_checked(options, said, files):
    with pytest.raises(ValueError, match=said):
        read(files, **options)
