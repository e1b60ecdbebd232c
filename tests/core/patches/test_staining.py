"""Stain normalisation of pixels: known stains are found, and patches get the colours of another slide."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.large.stains import OURS, PALE, STRONG, THEIRS, amounts, rendered

from spade.core.patches.staining import (
    GLASS,
    LMS,
    METHODS,
    N_WINDOWS,
    SPARSITY,
    VECTORS,
    densities,
    recoloured,
    shipped,
    sparse_amounts,
    sparse_stain_vectors,
    stain_vectors,
    staining,
    tissue_pixels,
)
from spade.core.patches.tiles import Level


def level(image, chunk=100):
    edges = np.append(np.arange(0, image.shape[1], chunk), image.shape[1])
    return Level(lambda y0, y1, x0, x1: image[:, y0:y1, x0:x1], edges, edges)


def pixels_of(image):
    return tissue_pixels([level(image)], 1.0)[0]


@pytest.fixture(scope="module")
def images():
    """The same tissue in two laboratories."""
    return {"ours": rendered(OURS, STRONG), "theirs": rendered(THEIRS, PALE)}


@pytest.fixture(scope="module")
def found(images):
    """Their colours by every method."""
    return {
        (name, method): staining(pixels_of(image), method, name) for name, image in images.items() for method in METHODS
    }


def patch(image):
    return image.transpose(1, 2, 0)[None]


def degrees(a, b):
    return np.degrees(np.arccos(np.clip((a * b).sum(0) / np.linalg.norm(a, axis=0) / np.linalg.norm(b, axis=0), -1, 1)))


def with_few_nuclei(share, n=60_000):
    """Pixels of eosin, noise, and a share of nuclei."""
    rng = np.random.default_rng(0)
    nuclei = np.where(rng.random(n) < share, rng.uniform(0.8, 1.6, n), rng.uniform(0, 0.05, n))
    density = np.column_stack([nuclei, rng.uniform(0.3, 1.1, n)]) @ VECTORS.T
    return np.clip(256 * np.exp(-density) - 1 + rng.normal(0, 4, (n, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("method", "refused", "taken", "accuracy"), [("macenko", (0, 0.003), 0.05, 7), ("vahadane", (0,), 0.003, 11)]
)
def test_two_shades_of_eosin_are_no_two_stains(method, refused, taken, accuracy):
    for share in refused:
        with pytest.raises(ValueError, match=r"pale: .* finds no haematoxylin and eosin .* hardly any nuclei\?"):
            staining(with_few_nuclei(share), method, "pale")
    found = staining(with_few_nuclei(taken), method, "pale")
    assert degrees(found.axes[:, :2], VECTORS).max() < accuracy


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
def test_stains_and_their_amounts_are_found(found, method):
    for name, stains, strength in (("ours", OURS, STRONG), ("theirs", THEIRS, PALE)):
        one = found[name, method]
        assert degrees(one.axes[:, :2], stains.T).max() < 6
        true = np.percentile(amounts()[:, :, :350].reshape(2, -1), 99, axis=1) * strength
        np.testing.assert_allclose(one.spread[:2], true, rtol=0.12)


@pytest.mark.parametrize("method", METHODS)
def test_a_slide_in_its_own_colours_does_not_change(images, found, method):
    one = found["ours", method]
    changed = recoloured(patch(images["ours"]), one, one).astype(int) - patch(images["ours"])
    assert np.abs(changed).max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_tissue_gets_the_colours_of_the_other_slide(images, found, method):
    """The truth is the same tissue, rendered with the stains of the other laboratory."""
    ours, theirs = patch(images["ours"]).astype(int), patch(images["theirs"])
    new = recoloured(theirs, found["theirs", method], found["ours", method]).astype(int)
    before, after = np.abs(theirs.astype(int) - ours).mean(), np.abs(new - ours).mean()
    assert before > 15
    assert after < {"macenko": 1, "reinhard": 10, "vahadane": 1}[method]


@pytest.mark.parametrize("method", METHODS)
def test_white_stays_white(found, method):
    white = np.full((2, 8, 8, 3), 255, dtype=np.uint8)
    for target in (found["theirs", method], shipped(method)):
        np.testing.assert_array_equal(recoloured(white, found["ours", method], target), white)


def test_pixels_are_of_tissue_and_do_not_depend_on_chunks(images):
    pixels, picture = tissue_pixels([level(images["ours"], 100)], 1.0)
    again, picture_again = tissue_pixels([level(images["ours"], 64)], 1.0)
    np.testing.assert_array_equal(pixels, again)
    np.testing.assert_array_equal(picture, picture_again)
    assert picture.shape == (50, 50, 3)
    assert densities(pixels).mean(1).min() >= GLASS
    assert 0.8 * 9 * 128**2 < len(pixels) <= 9 * 128**2  # three by three windows


def test_a_large_slide_is_told_from_some_windows_all_over_it():
    """Tiled until there are more windows than are read; the lower half has the other stains."""
    ours, theirs = (np.tile(rendered(*one)[:, :256, :256], (1, 4, 8)) for one in ((OURS, STRONG), (THEIRS, PALE)))
    image = np.concatenate([ours, theirs], axis=1)
    pixels = tissue_pixels([level(image, 512)], 1.0)[0]
    assert len(pixels) <= N_WINDOWS * 128**2 < image[0].size
    third = len(pixels) // 3
    eosin = [np.asarray(stain_vectors(densities(part)))[:, 1] for part in (pixels[:third], pixels[-third:])]
    assert degrees(*eosin) > 5


# --- what cannot be told


def test_too_little_tissue_is_an_error():
    pixels = pixels_of(np.full((3, 400, 400), 250, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"s1: colour='reinhard' .* at least 0.02 mm² of tissue, but 0 mm² were found"):
        staining(pixels, "reinhard", "s1")


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
@pytest.mark.parametrize(
    ("stains", "said"),
    [
        (OURS[[0, 0]], r"s1: colour='{method}' finds no haematoxylin and eosin .* are [012]° apart"),
        (np.array([[0.1, 0.1, 1.0], [0.05, 0.4, 0.9]]), r"up to [56]\d° from those of H&E"),
    ],
)
def test_other_stains_than_two_of_h_and_e_are_refused(method, stains, said):
    pixels = rendered(stains).reshape(3, -1).T
    pixels = pixels[densities(pixels).mean(1) > GLASS]
    with pytest.raises(ValueError, match=said.format(method=method)):
        staining(pixels, method, "s1")


# --- against scikit-learn and squidpy


def test_sparse_stains_are_those_of_dictionary_learning(images):
    """scikit-learn minimises the same loss by coordinate descent, from another start."""
    from sklearn.decomposition import DictionaryLearning

    density = densities(pixels_of(images["theirs"]))[::100]
    options = {"alpha": SPARSITY, "positive_code": True, "positive_dict": True, "fit_algorithm": "cd", "tol": 1e-8}
    learnt = DictionaryLearning(2, max_iter=500, random_state=0, **options).fit(density).components_.T
    expected = learnt / np.linalg.norm(learnt, axis=0)
    expected = expected[:, np.argsort(-expected[0])]
    found = sparse_stain_vectors(density, stain_vectors(density)[:, ::-1])
    losses = []
    for vectors in (found[:, np.argsort(-found[0])], expected):
        amounts = sparse_amounts(density, vectors)
        assert amounts.min() >= 0
        losses.append(((density - amounts @ vectors.T) ** 2).sum() / 2 + SPARSITY * amounts.sum())
    assert losses[0] <= losses[1] * (1 + 1e-6)
    assert degrees(found[:, np.argsort(-found[0])], expected).max() < 0.1


@pytest.fixture(scope="module")
def squidpy():
    return pytest.importorskip(
        "squidpy.experimental.im._stain._decomposition", reason="squidpy has no stain normalisation"
    )


def test_stain_vectors_are_those_of_squidpy(squidpy, images):
    from squidpy.experimental.im._stain._decomposition import _macenko_stain_matrix

    density = densities(pixels_of(images["theirs"]))
    expected = _macenko_stain_matrix(density, alpha=1.0)
    np.testing.assert_allclose(stain_vectors(density), expected, atol=1e-6)


def test_reinhard_is_that_of_squidpy_on_tissue(squidpy, images, found):
    from squidpy.experimental.im._stain._reinhard import ReinhardParams, apply_reinhard, fit_reinhard
    from xarray import DataArray

    ours, theirs = (DataArray(images[name], dims=("c", "y", "x")) for name in ("ours", "theirs"))
    params, tissue = ReinhardParams(), densities(patch(images["theirs"])[0]).mean(2) >= GLASS
    pixels = images["theirs"][:, tissue].T
    source = staining(pixels, "reinhard", "theirs")
    reference = fit_reinhard(ours, params, tissue_mask=densities(patch(images["ours"])[0]).mean(2) >= GLASS)
    fitted = fit_reinhard(theirs, params, tissue_mask=tissue)
    np.testing.assert_allclose(source.centre, fitted.mu, atol=3e-3)  # squidpy sums in float32
    np.testing.assert_allclose(source.spread, fitted.sigma, rtol=2e-2)
    expected = apply_reinhard(theirs, reference, params, tissue_mask=tissue).to_numpy()
    target = type(source).of_lab(reference.mu, reference.sigma)
    new = recoloured(patch(images["theirs"]), source, target)[0].transpose(2, 0, 1)
    assert np.abs(new[:, tissue].astype(int) - expected[:, tissue]).max() <= 1
    assert LMS.sum(1) == pytest.approx(1, abs=3e-3)  # white is neutral
