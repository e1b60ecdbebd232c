"""Which image element is the H&E, what its channels mean, and patches on which nothing shows."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sections import SIDE, picture, pixels, square_lattice, tiny, warns_here

import spade as sp

STAINS = ["DAPI", "PanCK", "CD45"]
SIZE = {"size_um": 40, "size_px": 40}


class Keep:
    """An encoder that keeps the patches it gets."""

    name, id, dim, input_px = "keep", "keep", 3, None

    def __init__(self):
        self.patches = []

    def encode(self, patches, mpp):
        self.patches.extend(patches)
        return patches.reshape(len(patches), -1, 3).mean(1, dtype=np.float32)


def image_used(sdata, **options) -> str:
    sp.pp.patches(sdata, **SIZE, **options)
    return sdata["table"].uns["spade"]["patches"]["regions"]["spots"]["image"]


def test_stains_beside_the_slide_are_not_chosen():
    images = {"he": picture(pixels(1)), "if": picture(pixels(2), c_coords=STAINS)}
    assert image_used(tiny(images=images, name=None), mpp=1.0) == "he"


@pytest.mark.parametrize("names", [[*"rgb"], [*"RGB"], ["Red", "Green", "Blue"], ["0", "1", "2"], [*"bgr"], [*"rgba"]])
def test_names_of_colours(names):
    image = picture(pixels(1, (len(names), SIDE, SIDE)), c_coords=names)
    assert image_used(tiny(images={"x": image, "if": picture(c_coords=STAINS)}, name=None), mpp=1.0) == "x"


@pytest.mark.parametrize(
    "image",
    [
        picture(pixels(2), c_coords=STAINS),
        picture(pixels(2), c_coords=["c1", "c2", "c3"]),
        picture(pixels(2, (4, SIDE, SIDE))),  # without names: fluorescence as well as RGBA
        picture(pixels(2), c_coords=["r", "g", "dapi"]),
    ],
    ids=["stains", "numbered", "four", "mixed"],
)
@pytest.mark.parametrize("named", [False, True])
def test_other_channels_are_refused_with_words(image, named):
    sdata = tiny(images={"x": image}, name=None)
    with pytest.raises(ValueError, match=r"'x': \d channels of uint8, named .*set_channel_names"):
        image_used(sdata, mpp=1.0, image_key="x" if named else None)
    if image.sizes["c"] == 3:  # what the message says helps
        sdata.set_channel_names("x", [*"rgb"])
        assert image_used(sdata, mpp=1.0) == "x"


def test_channels_are_read_by_their_names():
    red_first = pixels(3)
    seen = []
    for values, names in ((red_first, [*"rgb"]), (red_first[::-1], [*"bgr"])):
        sdata, keep = tiny(images={"x": picture(values, c_coords=names)}, name=None), Keep()
        sp.pp.patches(sdata, mpp=1.0, **SIZE)
        sp.pp.encode_patches(sdata, keep)
        seen.append(np.stack(keep.patches))
    np.testing.assert_array_equal(seen[0], seen[1])


def transparent(n_rows: int) -> np.ndarray:
    """Black tissue-like pixels under transparency in the rows above, opaque below."""
    values = pixels(4, (4, SIDE, SIDE))
    values[:, :n_rows], values[3, n_rows:] = 0, 255
    return values


@pytest.mark.parametrize("options", [{}, {"scale_factors": [2]}])
@pytest.mark.parametrize("names", [[*"rgba"], ["red", "green", "blue", "alpha"]])
def test_patches_on_which_nothing_shows_are_not_valid(options, names):
    # rows of spots lie at y = 50, 100, ...: the squares of the first two end at 120
    values, keep = transparent(120), Keep()
    sdata = tiny(images={"image": picture(values, c_coords=names, **options)})
    with warns_here(r"tiny: 12 of 36 patches are wholly transparent; .*spade_valid.*=False.*NaN features"):
        sp.pp.patches(sdata, **SIZE)
    hidden = square_lattice(36)[:, 1] < 110
    np.testing.assert_array_equal(sdata["table"].obs["spade_valid"], ~hidden)
    sp.pp.encode_patches(sdata, keep)
    features = sdata["table"].obsm["X_keep"]
    assert np.isnan(features[hidden]).all()
    assert np.isfinite(features[~hidden]).all()
    assert len(keep.patches) == 24


def test_a_patch_that_shows_in_part_is_laid_on_white():
    values, keep = transparent(100), Keep()
    sdata = tiny(images={"image": picture(values, c_coords=[*"rgba"])})
    with warns_here("6 of 36 patches are wholly transparent"):
        sp.pp.patches(sdata, **SIZE)
    sp.pp.encode_patches(sdata, keep)
    half = [patch for patch in keep.patches if (patch[:20] == 255).all()]
    assert len(half) == 6
    assert all((patch[20:] != 255).any() for patch in half)
    x, y = 50, 100
    np.testing.assert_array_equal(half[0][20:], np.moveaxis(values[:3, y : y + 20, x - 20 : x + 20], 0, -1))


def test_an_image_on_which_nothing_shows_is_refused():
    sdata = tiny(images={"image": picture(transparent(SIDE), c_coords=[*"rgba"])})
    with pytest.raises(ValueError, match="all 36 patches are off the image or wholly transparent"):
        sp.pp.patches(sdata, **SIZE)


def test_training_leaves_them_out_too():
    from spade._samples.encode import placed_sections
    from spade._samples.open import iter_samples

    sdata = tiny(images={"image": picture(transparent(120), c_coords=[*"rgba"])})
    with warns_here("wholly transparent"):
        sp.pp.patches(sdata, **SIZE)
    (sample,) = iter_samples(sdata)
    ((rows, placed),) = placed_sections(sample, "patches")
    assert len(rows) == len(placed.centres) == 24
