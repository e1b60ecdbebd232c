"""The texture encoder against slow references, and on real tissue."""

from __future__ import annotations

import re

import numba
import numpy as np
import pandas as pd
import pytest
from helpers.texture import GRID, VECTORS, discs, field, named, pyramid, render, scene, stains_of
from scipy import ndimage, stats

from spade.core.texture import patterns, stains
from spade.encoders import _texture as texture
from spade.encoders._texture import FEATURE_GROUPS, FEATURE_NAMES, TextureEncoder, encode_texture

# --- names -----------------------------------------------------------------------------------------------------------


def test_every_name_belongs_to_exactly_one_group() -> None:
    fields = {
        "channel": texture.CHANNELS,
        "stain": texture.STAINS,
        "edge": texture.EDGES,
        "property": texture.GLCM,
        "pattern": texture.PATTERNS,
        "scale": [str(scale) for scale in texture.SCALES],
    }

    def names_of(group: str) -> re.Pattern[str]:
        statistics = texture.NUCLEI if group.startswith("nuclei") else texture.STATISTICS
        values = {**fields, "statistic": statistics}
        return re.compile(group.format(**{key: f"({'|'.join(options)})" for key, options in values.items()}))

    patterns = [names_of(group) for group in FEATURE_GROUPS]
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES) >= 100
    for name in FEATURE_NAMES:
        assert sum(bool(pattern.fullmatch(name)) for pattern in patterns) == 1, name
    for pattern in patterns:
        assert any(pattern.fullmatch(name) for name in FEATURE_NAMES), pattern
    assert {"haematoxylin_mean", "nuclei_density_per_mm2_log", "eosin_glcm_contrast_log_s2"} < set(FEATURE_NAMES)


def test_texture_encoder_agrees_with_the_function() -> None:
    encoder, patches = TextureEncoder(), scene(0)[None]
    np.testing.assert_array_equal(encoder.encode(patches, 0.5), encode_texture(patches, 0.5))
    assert encoder.dim == len(FEATURE_NAMES)


# --- colour ----------------------------------------------------------------------------------------------------------


def test_stain_vectors_are_those_of_ruifrok_and_johnston() -> None:
    from skimage.color import rgb_from_hed

    reference = rgb_from_hed[:2] / np.linalg.norm(rgb_from_hed[:2], axis=1, keepdims=True)
    np.testing.assert_allclose(VECTORS[:2], reference, atol=6e-3)  # scikit-image rounds to two digits
    np.testing.assert_allclose(VECTORS @ VECTORS[2], [0, 0, 1], atol=1e-12)


def test_colour_statistics_match_numpy_and_scipy() -> None:
    patch = scene(2)
    got = named(encode_texture(patch[None], 0.5)[0])
    density = -np.log10(patch / 255)
    images = {f"{name}_od": density[..., k] for k, name in enumerate(texture.CHANNELS)}
    images |= {name: stains_of(patch)[k] for k, name in enumerate(texture.STAINS)}
    for name, image in images.items():
        values = image.ravel().astype(float)
        skewness = stats.skew(values)
        expected = [values.mean(), values.std(), np.sign(skewness) * np.log1p(abs(skewness))]
        expected += list(np.quantile(values, stains.QUANTILES, method="inverted_cdf"))
        np.testing.assert_allclose([got[f"{name}_{s}"] for s in texture.STATISTICS], expected, rtol=1e-5, atol=1e-6)
    pair = np.corrcoef(images["haematoxylin"].ravel(), images["eosin"].ravel())[0, 1]
    assert got["haematoxylin_eosin_correlation"] == pytest.approx(pair, abs=1e-5)
    assert got["tissue_fraction"] == pytest.approx((density.mean(-1) >= 0.1).mean(), abs=1e-6)
    assert 0.5 < got["tissue_fraction"] < 1


# --- texture --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stain", ["haematoxylin", "eosin"])
def test_glcm_matches_scikit_image(stain: str) -> None:
    from skimage.feature import graycomatrix, graycoprops

    patch = scene(3)
    got = named(encode_texture(patch[None], 0.5)[0])
    low, high = texture.GLCM_RANGE[stain]
    for scale, image in enumerate(pyramid(stains_of(patch)[texture.STAINS.index(stain)])):
        levels = np.clip(np.floor((image - low) / (high - low) * 32), 0, 31).astype(np.uint8)
        angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
        matrix = graycomatrix(levels, [1], angles, levels=32, symmetric=True, normed=True)
        expected = {name: graycoprops(matrix, name)[0].mean() for name in ("homogeneity", "energy", "correlation")}
        expected["contrast_log"] = np.log1p(graycoprops(matrix, "contrast")[0]).mean()
        expected["entropy"] = stats.entropy(matrix.reshape(32 * 32, 4)).mean()
        for name in texture.GLCM:
            assert got[f"{stain}_glcm_{name}_s{scale}"] == pytest.approx(expected[name], abs=2e-3), (name, scale)


def test_binary_patterns_are_read_from_the_right_scale() -> None:
    patch = scene(5)
    got = named(encode_texture(patch[None], 0.5)[0])
    for scale in texture.PATTERN_SCALES:
        expected = patterns.binary_patterns(pyramid(stains_of(patch)[1])[scale].astype(np.float32))
        assert [got[f"eosin_lbp_{name}_s{scale}"] for name in texture.PATTERNS] == expected.tolist()


@pytest.mark.parametrize("stain", ["haematoxylin", "eosin"])
def test_edges_match_scipy(stain: str) -> None:
    patch = scene(6)
    got = named(encode_texture(patch[None], 0.5)[0])
    for scale, image in enumerate(pyramid(stains_of(patch)[texture.STAINS.index(stain)])):
        gy, gx = (g[1:-1, 1:-1] for g in np.gradient(image))
        magnitude = np.hypot(gx, gy)
        tensor = np.array([[gx * gx, gx * gy], [gx * gy, gy * gy]]).transpose(2, 3, 0, 1)
        eigen = np.linalg.eigvalsh(ndimage.uniform_filter(tensor, (3, 3, 1, 1))[1:-1, 1:-1])
        direction = np.round(np.arctan2(gy, gx) / (np.pi / 8)).astype(int) % 8
        shares = np.bincount(direction.ravel(), magnitude.ravel(), 8)
        expected = {
            "gradient_mean": magnitude.mean(),
            "gradient_sd": magnitude.std(),
            "laplacian_rms": np.sqrt((ndimage.laplace(image)[1:-1, 1:-1] ** 2).mean()),
            "coherence": (eigen[..., 1] - eigen[..., 0]).sum() / eigen.sum(),
            "orientation_entropy": stats.entropy(shares) / np.log(8),
        }
        for name in texture.EDGES:
            assert got[f"{stain}_{name}_s{scale}"] == pytest.approx(expected[name], rel=1e-4), (name, scale)


def test_stripes_are_coherent_and_noise_is_not() -> None:
    x = np.arange(128)
    stripes = np.tile(0.4 + 0.2 * np.sin(2 * np.pi * x / 16), (128, 1))
    noise = 0.4 + 0.1 * np.random.default_rng(0).normal(size=(128, 128))
    striped, noisy = (named(f) for f in encode_texture(np.stack([render(stripes), render(noise)]), 0.5))
    assert striped["haematoxylin_coherence_s1"] > 0.99 > 0.8 > noisy["haematoxylin_coherence_s1"]
    assert striped["haematoxylin_orientation_entropy_s1"] < 0.05 < 0.99 < noisy["haematoxylin_orientation_entropy_s1"]


# --- nuclei ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_discs_are_counted_and_measured_in_microns(mpp: float) -> None:
    got = named(encode_texture(discs(GRID, 4.0, mpp)[None], mpp)[0])
    assert np.expm1(got["nuclei_density_per_mm2_log"]) == pytest.approx(len(GRID) / 0.112**2, rel=1e-4)
    area = np.pi * 4.0**2
    assert np.expm1(got["nuclei_area_mean_um2_log"]) == pytest.approx(area, rel=0.06)
    assert np.expm1(got["nuclei_area_p50_um2_log"]) == pytest.approx(area, rel=0.06)
    assert got["nuclei_area_fraction"] == pytest.approx(len(GRID) * area / 112**2, rel=0.06)
    assert got["nuclei_eccentricity_mean"] < 0.2
    assert got["nuclei_haematoxylin_mean"] == pytest.approx(0.8, abs=0.06)
    assert got["nuclei_haematoxylin_contrast"] == pytest.approx(0.7, abs=0.06)
    assert np.expm1(got["nuclei_distance_mean_um_log"]) == pytest.approx(24.0, rel=0.02)


def test_a_single_nucleus_has_no_neighbour() -> None:
    got = named(encode_texture(discs(GRID[:1], 5.0, 0.5)[None], 0.5)[0])
    assert got["nuclei_density_per_mm2_log"] > 0
    assert got["nuclei_distance_mean_um_log"] == got["nuclei_distance_sd_um_log"] == got["nuclei_area_sd_um2_log"] == 0


def test_ellipses_have_their_eccentricity() -> None:
    y, x = np.indices((224, 224)) + 0.5
    inside = np.zeros((224, 224), bool)
    for cy, cx in GRID * 2:
        inside |= ((y - cy) / 8) ** 2 + ((x - cx) / 16) ** 2 < 1
    got = named(encode_texture(render(np.where(inside, 0.8, 0.1))[None], 0.5)[0])
    assert got["nuclei_eccentricity_mean"] == pytest.approx(np.sqrt(1 - 0.25), abs=0.02)


def test_nuclei_lie_in_tissue() -> None:
    haematoxylin = stains_of(discs(GRID, 5.0, 0.5))[0]
    tissue = np.indices(haematoxylin.shape)[0] < 112  # the upper two of four rows
    labels, number = texture.segment_nuclei(haematoxylin, tissue, 0.5)
    assert number == len(GRID) // 2
    assert not labels[~tissue].any()


def test_specks_are_not_nuclei() -> None:
    patches = np.stack([discs(GRID, radius, 0.5) for radius in (1.2, 3.0)])
    specks, nuclei = (named(f) for f in encode_texture(patches, 0.5))
    assert specks["nuclei_density_per_mm2_log"] == 0 == specks["nuclei_area_fraction"]
    assert np.expm1(nuclei["nuclei_density_per_mm2_log"]) == pytest.approx(len(GRID) / 0.112**2, rel=1e-4)


def test_upsampled_patches_keep_their_nuclei() -> None:
    coarse = discs(GRID, 6.0, 2.8)
    assert coarse.shape[0] == 40
    fine = np.stack([ndimage.zoom(coarse[..., c], 5.6, order=1, mode="nearest", grid_mode=True) for c in range(3)], -1)
    got = named(encode_texture(fine[None], 0.5)[0])
    assert fine.shape == (224, 224, 3)
    assert np.expm1(got["nuclei_density_per_mm2_log"]) == pytest.approx(len(GRID) / 0.112**2, rel=1e-4)
    assert np.expm1(got["nuclei_area_mean_um2_log"]) == pytest.approx(np.pi * 36, rel=0.15)


# --- the whole vector ------------------------------------------------------------------------------------------------


def test_flips_and_quarter_turns_change_nothing() -> None:
    patch = scene(10, (96, 96))
    turned = [np.rot90(image, k) for image in (patch, patch[::-1]) for k in range(4)]
    features = encode_texture(np.stack(turned), 0.5)
    np.testing.assert_allclose(features, features[:1].repeat(8, axis=0), rtol=2e-6, atol=2e-6)
    counted = [
        k for k, n in enumerate(FEATURE_NAMES) if re.search(r"_od_|_lbp_|_p\d\d$|_p50_um2|area_fraction|per_mm2", n)
    ]
    assert len(counted) > 60
    assert (features[:, counted] == features[0, counted]).all()
    assert named(features[0])["nuclei_density_per_mm2_log"] > 0


def test_blank_and_noisy_patches_give_finite_features() -> None:
    shape, rng = (64, 64, 3), np.random.default_rng(11)
    constants = [np.full(shape, value, np.uint8) for value in (255, 0, 128)]
    constants.append(np.broadcast_to(np.array([230, 150, 200], np.uint8), shape))
    noise = rng.integers(0, 256, shape, dtype=np.uint8)
    features = encode_texture(np.stack([*constants, noise]), 0.5)
    assert np.isfinite(features).all()
    for constant in features[:4]:
        got = named(constant)
        zero = [
            n for n in FEATURE_NAMES if n.startswith("nuclei_") or re.search("_sd|skewness|correlation|gradient", n)
        ]
        assert all(got[n] == 0 for n in zero)
        assert got["eosin_glcm_energy_s0"] == 1 == got["eosin_glcm_homogeneity_s3"]
        assert got["haematoxylin_lbp_8_s1"] == 1
    assert named(features[0])["tissue_fraction"] == 0
    assert named(features[1])["tissue_fraction"] == 1
    assert len(np.unique(features, axis=0)) == 5


def test_faint_noise_is_no_nucleus() -> None:
    rng = np.random.default_rng(12)
    faint = render(0.3 + 0.03 * field(rng, (128, 128), 3))
    assert named(encode_texture(faint[None], 0.5)[0])["nuclei_density_per_mm2_log"] == 0


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (50, 200)])
def test_any_size_from_32_pixels(shape: tuple[int, int]) -> None:
    features = encode_texture(scene(13, shape)[None], 0.5)
    assert features.shape == (1, len(FEATURE_NAMES))
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_features_depend_on_nothing_but_the_patch() -> None:
    patches = np.stack([scene(seed) for seed in range(5)])
    features = encode_texture(patches, 0.5)
    np.testing.assert_array_equal(encode_texture(patches, 0.5), features)
    np.testing.assert_array_equal(encode_texture(patches[[3, 1]], 0.5), features[[3, 1]])
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        np.testing.assert_array_equal(encode_texture(patches, 0.5), features)
    finally:
        numba.set_num_threads(threads)


def test_memory_layout_does_not_matter_and_input_is_not_changed() -> None:
    patches = np.stack([scene(seed) for seed in range(2)])
    features, before = encode_texture(patches, 0.5), patches.copy()
    channels_first = np.ascontiguousarray(patches.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(encode_texture(channels_first, 0.5), features)
    patches.flags.writeable = False
    np.testing.assert_array_equal(encode_texture(patches[::-1], 0.5), features[::-1])
    np.testing.assert_array_equal(patches, before)
    assert len(stains.unmix.signatures) == 1  # no second compilation for another layout


def test_no_patches_give_no_rows() -> None:
    assert encode_texture(np.zeros((0, 64, 64, 3), np.uint8), 0.5).shape == (0, len(FEATURE_NAMES))


@pytest.mark.parametrize(
    ("patches", "mpp", "match"),
    [
        (np.zeros((1, 64, 64, 3), np.float32), 0.5, r"dtype float32.*reads uint8.*Convert"),
        (np.zeros((64, 64, 3), np.uint8), 0.5, r"shape \(64, 64, 3\).*expected \(n, height, width, 3\).*patch\[None\]"),
        (np.zeros((1, 3, 64, 64), np.uint8), 0.5, r"shape \(1, 3, 64, 64\).*channels last"),
        (np.zeros((1, 64, 31, 3), np.uint8), 0.5, r"64×31 pixels.*at least 32×32.*larger"),
        (np.zeros((1, 64, 64, 3), np.uint8), 0, r"mpp=0 .*between 0.01 and 100.*mpp=0.5"),
        (np.zeros((1, 64, 64, 3), np.uint8), float("nan"), r"mpp=nan .*microns per pixel"),
        (np.zeros((1, 64, 64, 3), np.uint8), None, r"mpp=None .*microns per pixel"),
    ],
)
def test_wrong_input_is_refused(patches: np.ndarray, mpp: float, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        encode_texture(patches, mpp)


# --- real tissue -----------------------------------------------------------------------------------------------------


def crops(path: object, centres: np.ndarray, mpp: float) -> np.ndarray:
    """Patches of 224 pixels and 112 µm around pixel centres (x, y)."""
    from PIL import Image

    half = 56 / mpp
    with Image.open(path) as image:
        image = image.convert("RGB")
        boxes = [(x - half, y - half, x + half, y + half) for x, y in centres]
        return np.stack([np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR, box=box)) for box in boxes])


@pytest.mark.realdata
def test_breast_tissue_gives_finite_features_that_vary(data_dir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", None)  # the section is larger than Pillow's default limit
    folder = data_dir / "her2st" / "B4"
    spots = pd.read_csv(folder / "B4_selection.tsv", sep="\t").query("selected == 1").sample(60, random_state=0)
    patches = crops(next(folder.glob("*.jpg")), spots[["pixel_x", "pixel_y"]].to_numpy(), 0.685)
    features = pd.DataFrame(encode_texture(patches, 0.5), columns=list(FEATURE_NAMES))
    assert np.isfinite(features.to_numpy()).all()
    assert (features.nunique() >= 15).all(), features.columns[features.nunique() < 15].tolist()
    density = np.expm1(features["nuclei_density_per_mm2_log"])
    area = np.expm1(features["nuclei_area_p50_um2_log"])[density > 0]
    assert 200 < density.median() < 10_000
    assert 10 < area.median() < 100


@pytest.mark.realdata
@pytest.mark.slow
def test_layers_of_the_olfactory_bulb_separate_on_unseen_sections(data_dir) -> None:
    from skimage.io import imread
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score

    features, layers, sections = [], [], []
    for section in ("01", "02", "03", "04"):
        folder = data_dir / "mob" / f"MOB_{section}"
        height, width = imread(folder / f"{section}.jpg").shape[:2]
        onehot = pd.read_csv(folder / f"{section}_01.tsv", sep="\t", index_col=0).T
        onehot = onehot[onehot.sum(axis=1) == 1]
        spots = onehot.index.str.split("_", expand=True).to_frame().astype(float).to_numpy()
        centres = (spots - 1) / [32, 34] * [width, height]
        inside = ((centres > 21) & (centres < [width - 21, height - 21])).all(axis=1)
        values = encode_texture(crops(folder / f"{section}.jpg", centres[inside], 2.76), 0.5)
        assert np.isfinite(values).all()
        features.append((values - values.mean(0)) / (values.std(0) + 1e-6))
        layers.append(onehot.idxmax(axis=1)[inside].to_numpy())
        sections.append(np.full(len(values), section))
    x, y, section = np.concatenate(features), np.concatenate(layers), np.concatenate(sections)
    assert len(np.unique(y)) == 5
    scores = []
    for held_out in np.unique(section):
        test = section == held_out
        model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000).fit(x[~test], y[~test])
        scores.append(balanced_accuracy_score(y[test], model.predict(x[test])))
    assert min(scores) > 0.5, scores  # chance is 0.2
