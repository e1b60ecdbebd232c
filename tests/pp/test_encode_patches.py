"""Image features: the right pixels reach the encoder, and weights are read as data or not at all."""

from __future__ import annotations

import pickle
import warnings
from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers.sections import SIDE, circles, picture, pixels, place_by, square_lattice, table, tiny, warns_here
from safetensors.torch import save_file
from spatialdata import SpatialData

import spade as sp
from spade.encoders._spec import SPECS
from spade.encoders._timm import input_of, load_strict
from spade.io._state_dict import read_state

ARCHITECTURE = "test_vit"  # timm's own tiny networks: 160 px, 64 features, 0.4 million parameters
PX = 160


class Probe:
    """An encoder that keeps what it is shown; its features are the mean colour."""

    name, id, dim, input_px, mpp = "probe", "probe-1", 3, 0, None

    def __init__(self, input_px: int = 0) -> None:
        self.input_px = input_px
        self.batches: list[np.ndarray] = []
        self.scales: set[float] = set()

    def encode(self, patches, mpp):
        self.batches.append(patches)
        self.scales.add(mpp)
        return patches.mean((1, 2)).astype(np.float32)


def seen(sdata, size=32, input_px=0, **kwargs):
    """What an encoder is shown of every spot, in the order of the rows."""
    sp.pp.patches(sdata, size_um=size, size_px=size, **kwargs)
    probe = Probe(input_px)
    sp.pp.encode_patches(sdata, probe, batch_size=7)
    features = sdata["table"].obsm["X_probe"]
    shown = np.concatenate(probe.batches)
    order = [np.flatnonzero((shown.mean((1, 2)).astype(np.float32) == row).all(1))[0] for row in features]
    assert sorted(order) == list(range(len(features)))
    return shown[order]


def cut(image, centre, size=32):
    """The same with numpy: pixels around (x, y), mirrored beyond the border."""
    padded = np.pad(image, ((0, 0), (size, size), (size, size)), mode="symmetric")
    x, y = (round(c - size / 2) + size for c in centre)
    return padded[:, y : y + size, x : x + size].transpose(1, 2, 0)


# --- pixels


def test_every_row_gets_the_pixels_around_its_spot_whatever_the_order():
    sdata = tiny()
    sdata.tables["table"] = sdata["table"][np.random.default_rng(1).permutation(36)].copy()
    shown = seen(sdata)
    where = dict(zip(sdata["spots"].index, square_lattice(36), strict=True))
    for patch, spot in zip(shown, sdata["table"].obs["spot_id"], strict=True):
        np.testing.assert_array_equal(patch, cut(pixels(), where[spot]))


@pytest.mark.parametrize("corner", [(0, 0), (5, 390), (SIDE - 1, 200), (SIDE - 0.01, SIDE - 0.01)])
def test_patches_across_the_border_are_filled_by_reflection(corner):
    spots = square_lattice(6)
    spots[0] = corner
    np.testing.assert_array_equal(seen(tiny(6, spots=circles(spots)))[0], cut(pixels(), corner))


def test_alpha_is_left_out_and_a_pyramid_changes_nothing():
    flat = seen(tiny())
    alpha = np.concatenate([pixels(), pixels(9, (1, SIDE, SIDE))])
    for image in (
        picture(alpha),
        picture(alpha, c_coords=[*"rgba"]),
        picture(scale_factors=[2, 2], chunks=(3, 64, 96)),
    ):
        np.testing.assert_array_equal(seen(tiny(images={"image": image})), flat)


def test_a_coarser_level_is_read_when_it_is_fine_enough():
    fine = np.repeat(np.repeat(pixels(0, (3, SIDE // 2, SIDE // 2)), 2, axis=1), 2, axis=2)
    sdata = tiny(images={"image": picture(fine, scale_factors=[2])})
    sp.pp.patches(sdata, size_um=64, size_px=32)
    probe = Probe()
    sp.pp.encode_patches(sdata, probe)
    assert probe.scales == {2.0}
    coarse = np.concatenate(probe.batches)
    for patch, spot in zip(coarse, square_lattice(36), strict=True):
        np.testing.assert_array_equal(patch, cut(fine[:, ::2, ::2], spot / 2))


def test_a_turned_section_is_cut_in_the_frame_of_its_image():
    turn = np.array([[0.0, -1, SIDE], [1, 0, 0], [0, 0, 1]])  # spots are stored a quarter turn away
    true = square_lattice(36)
    stored = (np.column_stack([true, np.ones(36)]) @ np.linalg.inv(turn).T)[:, :2]
    sdata = tiny(spots=circles(stored))
    place_by(sdata["spots"], turn)
    for patch, spot in zip(seen(sdata), true, strict=True):
        np.testing.assert_array_equal(patch, cut(pixels(), spot))


def test_a_network_gets_its_own_size_of_the_same_tissue():
    probe, sdata = Probe(20), tiny()
    sp.pp.patches(sdata, size_um=40, size_px=40)
    sp.pp.encode_patches(sdata, probe)
    assert {patch.shape[1:] for patch in probe.batches} == {(20, 20, 3)}
    assert probe.scales == {2.0}
    facts = sdata["table"].uns["spade"]["X_probe"]
    assert (facts["size_um"], facts["input_px"]) == (40.0, 20)


# --- what is written


def test_texture_features_are_written_with_their_origin():
    sdata = tiny()
    sp.pp.patches(sdata, size_um=32, size_px=32)
    sp.pp.encode_patches(sdata)
    table_ = sdata["table"]
    features = table_.obsm["X_texture"]
    assert features.dtype == np.float32
    assert features.shape == (36, sp.encoders.available()["texture"].dim)
    assert np.isfinite(features).all()
    facts = table_.uns["spade"]["X_texture"]
    assert facts["encoder"] == "texture"
    assert facts["encoder_id"] == "texture-1"
    sp.pp.encode_patches(sdata, batch_size=5, key_added="again")
    np.testing.assert_array_equal(table_.obsm["again"], features)


def test_patches_off_the_image_have_no_features():
    spots = square_lattice(36)
    spots[[4, 9]] += 2 * SIDE
    sdata = tiny(spots=circles(spots))
    with warns_here("2 of 36"):
        sp.pp.patches(sdata, size_um=32, size_px=32)
    sp.pp.encode_patches(sdata, Probe())
    missing = np.isnan(sdata["table"].obsm["X_probe"])
    assert list(np.flatnonzero(missing.all(1))) == list(np.flatnonzero(missing.any(1))) == [4, 9]


def test_a_region_without_patches_is_named():
    ids = [f"s{i:02d}" for i in range(12)]
    sdata = tiny(12)
    sdata.shapes["more"] = circles(square_lattice(12))
    sdata.tables["table"] = table(ids * 2, region=["spots"] * 12 + ["more"] * 12)
    sp.pp.patches(sdata, shapes_key="spots", size_um=32, size_px=32)
    with warns_here(r"tiny/more: has no patches, so its 12 spots get NaN features.*sp\.pp\.patches"):
        sp.pp.encode_patches(sdata, Probe())
    assert list(np.isnan(sdata["table"].obsm["X_probe"]).all(1)) == [False] * 12 + [True] * 12


def test_patches_of_another_key_give_features_of_another_key():
    sdata = tiny()
    sp.pp.patches(sdata, size_um=32, size_px=32)
    sp.pp.patches(sdata, size_um=64, size_px=32, key_added="wide")
    sp.pp.encode_patches(sdata, Probe())
    sp.pp.encode_patches(sdata, Probe(), patches_key="wide", key_added="X_wide")
    obsm, uns = sdata["table"].obsm, sdata["table"].uns["spade"]
    assert not np.allclose(obsm["X_probe"], obsm["X_wide"])
    assert (uns["X_probe"]["size_um"], uns["X_wide"]["size_um"]) == (32.0, 64.0)


# --- wrong input


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (
            lambda s: s["table"].uns.pop("spade"),
            KeyError,
            r"patches_key='patches' is not there; patches: none. Make them with sp\.",
        ),
        (
            lambda s: s.shapes.pop("patches"),
            KeyError,
            r"shapes\['patches'\], which the patches of 'spots' were made with, is gone",
        ),
        (
            lambda s: s.images.pop("image"),
            KeyError,
            r"images\['image'\], which .*, is gone; images: none. Run sp\.pp\.patches again",
        ),
        (
            lambda s: s.shapes.__setitem__("patches", s["patches"].iloc[:30]),
            KeyError,
            r"6 rows have no patch in shapes\['patches'\], such as 's30'",
        ),
    ],
)
def test_patches_must_be_there(spoil, error, said):
    sdata = tiny()
    sp.pp.patches(sdata, size_um=32, size_px=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # spatialdata announces that an element is replaced
        spoil(sdata)
    with pytest.raises(error, match=said):
        sp.pp.encode_patches(sdata, Probe())
    assert not sdata["table"].obsm


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"patches_key": "tiles"}, KeyError, r"patches_key='tiles' is not there; patches: 'patches'"),
        ({"batch_size": 0}, ValueError, r"batch_size=0: expected a whole number of at least 1"),
        ({"key_added": "X tex"}, ValueError, r"key_added='X tex' cannot be stored.*Try 'X_tex'"),
        (
            {"weights": "random"},
            ValueError,
            r"weights='random': encoder=\"texture\" has no weights; leave weights= out",
        ),
        ({"encoder": Probe(), "weights": "w.pth"}, ValueError, r"weights='w.pth': the encoder is made already"),
        (
            {"encoder": "UNI"},
            ValueError,
            r"encoder='UNI' is not known. There are 'texture', 'uni', .*'hf-hub:owner/name'",
        ),
        ({"encoder": "vit_huger"}, ValueError, r"any timm architecture such as .*vit"),
        ({"encoder": ""}, ValueError, r"encoder='' is not known"),
    ],
)
def test_settings_are_checked(options, error, said):
    sdata = tiny(6)
    sp.pp.patches(sdata, size_um=32, size_px=32)
    with pytest.raises(error, match=said):
        sp.pp.encode_patches(sdata, **options)


def test_patches_too_small_for_texture():
    sdata = tiny(6)
    sp.pp.patches(sdata, size_um=32, size_px=16)
    with pytest.raises(ValueError, match=r"patches are 16×16 pixels; the texture encoder needs at least 32×32"):
        sp.pp.encode_patches(sdata)


# --- networks


@pytest.fixture(scope="module")
def network():
    import timm

    torch.manual_seed(5)
    return timm.create_model(ARCHITECTURE, num_classes=11).eval()


@pytest.fixture(scope="module")
def encoder(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(network.state_dict(), path)
    return sp.encoders.get(ARCHITECTURE, weights=path)


@pytest.fixture(scope="module")
def batch():
    return pixels(3, (4, PX, PX, 3))


def random(name=ARCHITECTURE, **kwargs):
    with warns_here(f"encoder='{name}' has random weights: its features mean nothing"):
        return sp.encoders.get(name, weights="random", **kwargs)


FILES = {
    "vit.safetensors": lambda state, path: save_file(state, path),
    "bare.pth": torch.save,
    "bare.bin": torch.save,
    "legacy.pt": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "model.pth": lambda state, path: torch.save({"model": state, "epoch": 3}, path),
    "lightning.pt": lambda state, path: torch.save({"state_dict": state}, path),
}


@pytest.mark.parametrize("file", FILES)
def test_weights_from_any_kind_of_file_are_the_same_encoder(file, tmp_path, network, encoder, batch):
    FILES[file](network.state_dict(), tmp_path / file)
    loaded = sp.encoders.get(ARCHITECTURE, weights=str(tmp_path / file))
    assert loaded.id == encoder.id
    np.testing.assert_array_equal(loaded.encode(batch, 0.5), encoder.encode(batch, 0.5))


def test_features_are_those_of_the_bare_network(network, encoder, batch):
    config = network.pretrained_cfg
    x = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(config["std"]).view(3, 1, 1)
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(x), pre_logits=True)
    assert (encoder.dim, encoder.input_px, encoder.name) == (64, PX, ARCHITECTURE)
    np.testing.assert_allclose(encoder.encode(batch, 0.5), expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.encode(batch[2:3], 0.5)[0], expected[2].numpy(), atol=1e-5)


def test_an_own_mean_and_deviation_are_used(batch):
    inception, imagenet = (random(name) for name in ("test_resnet", "test_efficientnet"))
    assert inception._mean.flatten().tolist() == [127.5] * 3
    np.testing.assert_allclose(imagenet._std.flatten(), np.array([0.229, 0.224, 0.225]) * 255, rtol=1e-6)
    assert inception.encode(batch, 0.5).shape == (4, inception.dim)


def test_class_token_beside_mean_of_the_patch_tokens(batch):
    from dataclasses import replace

    from spade.encoders._spec import EncoderSpec
    from spade.encoders._timm import TimmEncoder

    spec = EncoderSpec(
        "like virchow", ARCHITECTURE, ARCHITECTURE, 128, PX, pool="cls+mean", kwargs=lambda: {"reg_tokens": 2}
    )
    with warns_here("random weights"):
        both = TimmEncoder(spec, weights="random")
    with torch.no_grad():
        tokens = both.model.forward_features((torch.from_numpy(batch).permute(0, 3, 1, 2) - both._mean) / both._std)
    assert tokens.shape[1] == 1 + 2 + (PX // 16) ** 2
    expected = torch.cat([tokens[:, 0], tokens[:, 3:].mean(1)], dim=1)
    np.testing.assert_allclose(both.encode(batch, 0.5), expected.numpy(), atol=1e-5)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="gives 128 features, but 100 are known of it"):
        TimmEncoder(replace(spec, dim=100), weights="random")


def test_random_weights_follow_the_seed_and_leave_torch_alone(batch):
    state = torch.random.get_rng_state()
    one, same, other, drawn = random(rng=1), random(rng=1), random(rng=2), random(rng=np.random.default_rng(1))
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(one.encode(batch, 0.5), same.encode(batch, 0.5))
    assert one.id == same.id
    assert len({one.id, other.id, drawn.id}) == 3


def test_half_precision_is_close_and_not_the_same(network, encoder, batch, tmp_path):
    torch.save(network.state_dict(), tmp_path / "w.pth")
    half = sp.encoders.get(ARCHITECTURE, weights=tmp_path / "w.pth", precision="bf16")
    got, exact = half.encode(batch, 0.5), encoder.encode(batch, 0.5)
    assert got.dtype == np.float32
    assert not np.array_equal(got, exact)
    np.testing.assert_allclose(got, exact, atol=0.05 * np.abs(exact).max())


def test_a_network_runs_through_a_section():
    sdata = tiny(6)
    sp.pp.patches(sdata, size_um=80, size_px=80)
    with warns_here("random weights"):
        sp.pp.encode_patches(sdata, ARCHITECTURE, weights="random", batch_size=4)
    features = sdata["table"].obsm["X_test_vit"]
    assert features.shape == (6, 64)
    assert len(np.unique(features, axis=0)) == 6
    made = random()
    sp.pp.encode_patches(sdata, made, key_added="made")
    np.testing.assert_allclose(sdata["table"].obsm["made"], features, atol=1e-5)
    uns = sdata["table"].uns["spade"]
    assert uns["made"]["encoder_id"] == uns["X_test_vit"]["encoder_id"] == made.id
    assert uns["made"]["input_px"] == PX


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("norm.weight"), r"1 keys missing \['norm\.weight'\], 0 keys too many \[\], 0 of other"),
        (lambda s: s.update(extra=torch.zeros(1)), r"0 keys missing \[\], 1 keys too many \['extra'\]"),
        (
            lambda s: s.update({"norm.weight": torch.zeros(3)}),
            r"1 of other shape \['norm\.weight \(3,\) for \(64,\)'\]",
        ),
    ],
)
def test_weights_must_fit_key_by_key(change, said, network, tmp_path):
    state = dict(network.state_dict())
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=rf"does not fit encoder='test_vit': .*{said}.*Is the file of another architecture"
    ):
        sp.encoders.get(ARCHITECTURE, weights=tmp_path / "w.pth")


@pytest.mark.parametrize("file", ["vit.safetensors", "bare.pth", "legacy.pt"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.999])
def test_files_that_were_cut_off_are_refused(file, keep, network, tmp_path):
    path = tmp_path / file
    FILES[file](network.state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match=rf"{file}' (cannot be read .*was the file cut off|is not a plain state dict)"):
        sp.encoders.get(ARCHITECTURE, weights=path)


@pytest.mark.parametrize("file", ["bare.pth", "legacy.pt", "vit.safetensors"])
def test_damaged_files_are_refused_in_the_same_words(file, tmp_path):
    path = tmp_path / file
    FILES[file]({"a": torch.arange(3.0), "b": torch.zeros(2, 2)}, path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(len(damaged), size=8):
            damaged[place] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            read_state(path)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 10


class Trap:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("form", ["torch", "legacy", "plain pickle"])
def test_code_in_a_file_is_never_run(form, tmp_path):
    path, marker = tmp_path / "w.pth", tmp_path / "ran"
    if form == "plain pickle":
        path.write_bytes(pickle.dumps({"model": Trap(marker)}))
    else:
        torch.save({"model": Trap(marker)}, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(
        ValueError, match=r"is not a plain state dict.*never code: save model\.state_dict\(\)"
    ) as caught:
        sp.encoders.get(ARCHITECTURE, weights=path)
    assert not marker.exists()
    assert "weights_only" not in str(caught.value)  # torch suggests to trust the file; this package does not


def test_a_pickled_module_is_refused(network, tmp_path):
    torch.save(network, tmp_path / "module.pth")
    with pytest.raises(
        ValueError, match=r"Only tensors are read, never code: save model\.state_dict\(\) instead of the mod"
    ):
        sp.encoders.get(ARCHITECTURE, weights=tmp_path / "module.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds list, not a state dict of tensors by name"),
        ({1: torch.zeros(1)}, "holds dict, not a state dict"),
        ({"model": {"a": 1}}, "neither bare nor under 'model' or 'state_dict'"),
    ],
)
def test_only_state_dicts_are_read(content, said, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=said):
        read_state(tmp_path / "w.pth")


def test_a_prefix_of_the_classifier_is_no_classifier():
    class Headed(torch.nn.Module):
        pretrained_cfg: ClassVar = {"classifier": "head"}

        def __init__(self):
            super().__init__()
            self.head_norm = torch.nn.LayerNorm(2)

    state = {"head_norm.weight": torch.full((2,), 3.0), "head_norm.bias": torch.zeros(2), "head.bias": torch.zeros(9)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spade.encoders._timm.read_state", lambda path: state)
        load_strict(module := Headed(), "w.pth", "headed")
    assert module.head_norm.weight.tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("encoder", "options", "error", "said"),
    [
        ("test_vit", {"weights": "no/such.pth"}, FileNotFoundError, r"weights='no/such\.pth': there is no such file"),
        ("test_vit", {"weights": __file__}, ValueError, r"expected a file ending in \.safetensors, \.pth, \.pt, \.bin"),
        (
            "test_vit",
            {"weights": "random", "precision": "fp16"},
            ValueError,
            r"precision='fp16': expected \"fp32\" or \"bf16\"",
        ),
        ("test_vit", {"weights": "random", "device": "gpu"}, ValueError, r"device='gpu' is not a torch device"),
        (
            "hf-hub:me/mine",
            {"weights": "w.pth"},
            ValueError,
            r"hub id names weights, not an architecture.*encoder=, such as 'vit",
        ),
        ("hf-hub:me/mine", {"weights": "random"}, ValueError, r"give the timm architecture as encoder="),
    ],
)
def test_what_cannot_be_built_is_refused(encoder, options, error, said):
    with pytest.raises(error, match=said):
        sp.encoders.get(encoder, **options)


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        (
            "test_vit",
            r"published weights of 'test_vit' could not be had .*\. Download the file elsewhere and pass weights='path",
        ),
        ("hf-hub:me/mine", r"published weights of 'hf-hub:me/mine' could not be had"),
        ("hf-hub:not an id", r"could not be had \(Repo id must use"),
        (
            "uni",
            r"'hf-hub:MahmoodLab/UNI' .*Request access on the model's page \(licence: CC BY-NC-ND 4\.0\) and log in, or downl",
        ),
        ("hf-hub:paige-ai/Virchow2", r"encoder='virchow2': .*Request access"),  # known by its hub id too
        ("test_vit4", r"No pretrained weights exist.*weights='random' gives untrained"),
    ],
)
def test_published_weights_that_cannot_be_had_say_what_to_do(encoder, said, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RuntimeError, match=said):
        sp.encoders.get(encoder)


@pytest.mark.parametrize(
    ("patches", "said"),
    [
        (
            np.zeros((2, 224, 224, 3), np.uint8),
            r"patches are uint8 of shape \(2, 224, 224, 3\); encoder 'test_vit' reads uint8",
        ),
        (np.zeros((2, PX, PX, 3)), r"patches are float64 of shape .*RGB values from 0 to 255, \(n, 160, 160, 3\)"),
        (np.zeros((2, PX, PX, 4), np.uint8), r"of shape \(2, 160, 160, 4\)"),
    ],
)
def test_pixels_of_the_wrong_kind_are_refused(encoder, patches, said):
    with pytest.raises(ValueError, match=said):
        encoder.encode(patches, 0.5)


@pytest.mark.parametrize(
    ("name", "millions", "n_prefix"),
    [
        ("uni", 303.4, 1),
        ("uni2_h", 681.4, 9),
        ("virchow", 631.2, 1),
        ("virchow2", 631.2, 5),
        ("h_optimus_0", 1134.8, 5),
        ("h_optimus_1", 1134.8, 5),
        ("gigapath", 1135.0, 1),
    ],
)
def test_known_encoders_are_the_networks_that_were_published(name, millions, n_prefix):
    import timm

    spec = SPECS[name]
    with torch.device("meta"):  # shapes without memory
        model = timm.create_model(spec.architecture, pretrained=False, num_classes=0, **spec.kwargs()).eval()
        px, mean, std = input_of(spec, model)
        tokens = model.forward_features(torch.zeros(1, 3, px, px))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    assert px == 224
    assert model.num_prefix_tokens == n_prefix
    assert tokens.shape[1] == n_prefix + (px // model.patch_embed.patch_size[0]) ** 2
    assert spec.dim == tokens.shape[-1] * (2 if spec.pool == "cls+mean" else 1)
    assert (mean, std) == (spec.mean, spec.std)
    assert spec.licence != "not stated"


def test_no_table_no_patches():
    sdata = SpatialData(images={"image": picture()}, shapes={"spots": circles(square_lattice(6))})
    with pytest.raises(ValueError, match="there is no table"):
        sp.pp.encode_patches(sdata)
