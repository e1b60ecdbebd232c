"""Image features: the right pixels reach the encoder, and what is written says where they come from."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from helpers.networks import ARCHITECTURE, PX, random
from helpers.sections import SIDE, circles, picture, pixels, place_by, square_lattice, table, tiny, warns_here
from spatialdata import SpatialData

import spade as sp


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


def test_opaque_alpha_and_a_pyramid_change_nothing():
    flat = seen(tiny())
    opaque = np.concatenate([pixels(), np.full((1, SIDE, SIDE), 255, np.uint8)])
    for image in (picture(opaque, c_coords=[*"rgba"]), picture(scale_factors=[2, 2], chunks=(3, 64, 96))):
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


@pytest.mark.parametrize(("mpp", "said"), [(1.0, None), (1.4, None), (2.0, "2 times"), (0.5, r"0\.5 times")])
def test_another_resolution_than_the_encoder_is_meant_for_is_warned_of(mpp, said):
    """Patches of 40 µm at 40 px have 1 µm/px: at 2 µm/px nuclei are half as large."""
    probe, sdata = Probe(40), tiny()
    probe.mpp = mpp
    sp.pp.patches(sdata, size_um=40, size_px=40)
    if said is None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sp.pp.encode_patches(sdata, probe)
    else:
        with warns_here(
            rf"meant for {mpp:g} µm/px, but .* have 1 µm/px: it sees nuclei {said} as large.*{40 * mpp:g} µm"
        ):
            sp.pp.encode_patches(sdata, probe)


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
    with warns_here(r"tiny/more has no patches, so its 12 spots get NaN features.*sp\.pp\.patches"):
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
            r"shapes\['patches'\], which the patches of 'spots' need, is gone",
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
        ({"encoder": Probe(), "weights": "w.pth"}, ValueError, r"weights='w.pth': the encoder already has weights"),
        ({"encoder": Probe(), "device": "cpu"}, ValueError, r"device='cpu': encoder '\w+' is ready, with a device and"),
        ({"encoder": Probe(), "precision": "bf16"}, ValueError, r"precision='bf16': .*; leave precision= out"),
        ({"encoder": np.mean, "precision": "bf16"}, ValueError, r"precision='bf16': a function runs where it is"),
        (
            {"encoder": "UNI"},
            ValueError,
            r"encoder='UNI' is not known. Choose one of 'texture', 'uni', .*'hf-hub:owner/name'",
        ),
        ({"encoder": "vit_huger"}, ValueError, r"any timm architecture such as .*vit"),
        ({"encoder": ""}, ValueError, r"encoder='': expected a name"),
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


def test_no_table_no_patches():
    sdata = SpatialData(images={"image": picture()}, shapes={"spots": circles(square_lattice(6))})
    with pytest.raises(ValueError, match="there is no table"):
        sp.pp.encode_patches(sdata)
