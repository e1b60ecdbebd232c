"""Patches in the colours of another slide: sections come closer, and what was done is recorded and checked."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from helpers.large.encoding import Colours
from helpers.large.stains import OURS, PALE, STRONG, THEIRS, section
from helpers.sections import GENES, picture, tiny, train
from spatialdata import SpatialData, read_zarr

import spade as sp

KEY = "X_colours"


def placed(stains=OURS, strength=STRONG, **options) -> SpatialData:
    sdata = section(stains, strength, **options)
    sp.pp.patches(sdata, size_um=48, size_px=48)
    return sdata


def encoded(sdata, **options):
    sp.pp.encode_patches(sdata, Colours(), **options)
    return sdata["table"].obsm[KEY]


def record(sdata):
    return sdata["table"].uns["spade"][KEY]


@pytest.fixture(scope="module")
def ours():
    return placed(name="ours")


@pytest.fixture(scope="module")
def theirs():
    return placed(THEIRS, PALE, name="theirs")


@pytest.fixture(scope="module")
def plain(ours, theirs):
    """Features of both sections without normalisation."""
    return encoded(ours).copy(), encoded(theirs).copy()


@pytest.mark.parametrize("method", ["macenko", "reinhard", "vahadane"])
def test_the_same_tissue_in_other_stains_comes_closer(ours, theirs, plain, method):
    own, other = (encoded(one, colour=method, colour_reference=ours) for one in (ours, theirs))
    assert np.abs(own - plain[0]).max() < 1  # a slide in its own colours stays as it is
    before, after = np.abs(plain[1] - plain[0]).mean(), np.abs(other - own).mean()
    assert before > 10
    assert after < {"macenko": 0.1, "reinhard": 0.5, "vahadane": 0.1}[method] * before


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_shipped_colours_bring_both_together_and_are_recorded(ours, theirs, plain, method):
    own, other = (encoded(one, colour=method) for one in (ours, theirs))
    assert np.abs(own - plain[0]).mean() > 5
    assert np.abs(other - own).mean() < 0.5 * np.abs(plain[1] - plain[0]).mean()
    assert record(ours)["colour"] == record(theirs)["colour"]
    assert record(ours)["colour"].startswith(f"{method} ")
    assert record(ours)["colour_reference"] == "shipped"


def test_neither_rows_nor_other_sections_change_the_colours(ours, theirs):
    both = encoded(theirs, colour="macenko", colour_reference=ours).copy()
    order = np.random.default_rng(0).permutation(36)[:20]
    few = placed(THEIRS, PALE, name="theirs")
    few.tables["table"] = few["table"][order].copy()
    sp.pp.encode_patches([placed(name="before"), few], Colours(), colour="macenko", colour_reference=ours)
    np.testing.assert_allclose(few["table"].obsm[KEY], both[order], atol=1e-5)


def test_a_reference_in_a_store_is_the_same_and_known_by_its_picture(tmp_path, ours, theirs):
    sp.io.write(placed(name="ours"), tmp_path / "ours.zarr")
    by_object = encoded(theirs, colour="macenko", colour_reference=ours).copy()
    colour = record(theirs)["colour"]
    by_path = encoded(theirs, colour="macenko", colour_reference=tmp_path / "ours.zarr")
    np.testing.assert_array_equal(by_path, by_object)
    assert record(theirs)["colour"] == colour
    assert record(theirs)["colour_reference"] == "ours"
    encoded(theirs, colour="macenko", colour_reference=theirs)
    assert record(theirs)["colour"] != colour


def test_a_store_is_encoded_again_for_other_colours_alone(tmp_path, caplog):
    caplog.set_level(logging.INFO, "spade")
    path = tmp_path / "ours.zarr"
    sp.io.write(placed(), path)
    seen = []
    for options in ({"colour": "macenko"}, {"colour": "macenko"}, {}):
        encoder = Colours()
        sp.pp.encode_patches(path, encoder, **options)
        seen.append(encoder.patches)
    assert seen == [36, 0, 36]
    assert "colour" not in record(read_zarr(path))


def test_an_interrupted_encoding_of_other_colours_is_begun_anew(tmp_path, caplog):
    def interrupt(number):
        if number == 20:
            raise KeyboardInterrupt

    path = tmp_path / "ours.zarr"
    sp.io.write(placed(), path)
    with pytest.raises(KeyboardInterrupt):
        sp.pp.encode_patches(path, Colours(interrupt), batch_size=1, colour="macenko")
    encoder = Colours()
    sp.pp.encode_patches(path, encoder, batch_size=1)
    assert encoder.patches == 36
    assert "begun anew, as it differs in colour" in caplog.text


# --- models


@pytest.fixture(scope="module")
def model(ours):
    encoded(ours, colour="macenko")
    return train([ours], use_rep=KEY, n_prototypes=1, n_experts=1, n_epochs=1)


def test_a_model_refuses_features_of_other_colours(model):
    plain = placed(name="plain")
    encoded(plain)
    with pytest.raises(ValueError, match=r"plain: .* 48 px, but the model's .* 48 px, colour macenko .* and colour="):
        sp.tl.embed(plain, model)
    encoded(plain, colour="reinhard")
    with pytest.raises(ValueError, match=r"colour reinhard .* but the model's features are from .* colour macenko"):
        sp.tl.embed(plain, model)
    encoded(plain, colour="macenko")
    sp.tl.embed(plain, model)


def test_a_model_of_patches_as_they_are_refuses_colours(ours):
    plain = placed(name="plain")
    encoded(plain)
    model = train([plain], use_rep=KEY, n_prototypes=1, n_experts=1, n_epochs=1)
    encoded(ours, colour="macenko")
    with pytest.raises(ValueError, match=r"ours: .* 48 px, colour macenko \w+, but the model's .* 48 px\. "):
        sp.tl.embed(ours, model)


@pytest.mark.parametrize("first", ["plain", "normalised"])
def test_sections_of_different_colours_are_not_trained_on_together(ours, first):
    encoded(ours, colour="macenko")
    plain = placed(name="plain")
    encoded(plain)
    samples = [plain, ours] if first == "plain" else [ours, plain]
    with pytest.raises(ValueError, match="but those of the routing or samples before it are from"):
        sp.tl.cluster_experts(samples, use_rep=KEY, n_prototypes=2, n_experts=2)
    with pytest.raises(ValueError, match="weights and colour="):
        sp.tl.train_programs(samples, use_rep=KEY, genes=GENES[:20], n_clusters=(2,), n_programs=2)


def test_the_colour_stays_with_a_saved_model(tmp_path, ours, model):
    encoded(ours, colour="macenko")
    assert model.config.colour == record(ours)["colour"]
    model.save(tmp_path / "model")
    loaded = sp.models.SpadeModel.load(tmp_path / "model")
    assert loaded.config == model.config
    assert loaded.id == model.id
    assert f"colour {model.config.colour}" in (tmp_path / "model" / "README.md").read_text()


def test_a_tuned_encoder_reads_patches_as_they_are(ours):
    tuned = object.__new__(sp.models.SealModel)
    with pytest.raises(ValueError, match=r"colour='macenko': sp.tl.train_seal tuned this SealModel on patches"):
        sp.pp.encode_patches(ours, tuned, colour="macenko")


# --- wrong input


def test_a_section_without_tissue_is_an_error_that_leaves_it_as_it_was():
    blank = tiny(images={"image": picture(np.full((3, 400, 400), 245, dtype=np.uint8))}, name="blank")
    sp.pp.patches(blank, size_um=48, size_px=48)
    with pytest.raises(ValueError, match=r"^blank: colour='macenko' .* but 0 mm² were found"):
        encoded(blank, colour="macenko")
    assert not blank["table"].obsm


def test_references_that_say_nothing_are_refused(ours):
    blank = tiny(images={"image": picture(np.full((3, 400, 400), 245, dtype=np.uint8))}, name="blank")
    unscaled = section(mpp=None, name="unscaled")
    several = tiny(images={"a": picture(), "b": picture(np.zeros((3, 100, 100), dtype=np.uint8))}, name="several")
    for reference, said in [
        (blank, r"^colour_reference=blank: colour='macenko' tells the colours"),
        (unscaled, r"unscaled: the microns per pixel .* not known.* Make patches on the reference"),
        (several, r"several: several images .* Pass a colour_reference with one of them alone"),
        ([blank, unscaled], r"colour_reference: got 2 slides"),
    ]:
        with pytest.raises(ValueError, match=said):
            encoded(ours, colour="macenko", colour_reference=reference)
    with pytest.raises(ValueError, match="colour_reference has no effect without colour="):
        encoded(ours, colour_reference=ours)
    with pytest.raises(FileNotFoundError, match="colour_reference: there is no store"):
        encoded(ours, colour="macenko", colour_reference="nowhere.zarr")
