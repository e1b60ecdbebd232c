"""The built-in ``"texture"`` encoder: named colour, texture and nuclear statistics of H&E patches, without weights."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from numbers import Real

import numpy as np
from numba import get_num_threads
from scipy.spatial import KDTree

from spade.core.texture import nuclei as nucleus_kernels
from spade.core.texture import patterns as pattern_kernels
from spade.core.texture import stains as stain_kernels
from spade.encoders._spec import described

SMALLEST_PX = 32
CHANNELS = ("red", "green", "blue")
STAINS = ("haematoxylin", "eosin", "residual")
#: Stains with texture features, and the range of concentrations that their co-occurrence levels span.
GLCM_RANGE = {"haematoxylin": (0.0, 1.6), "eosin": (-0.4, 1.2)}
#: Scale k has pixels 2^k times as wide as the patch.
SCALES = (0, 1, 2, 3)
PATTERN_SCALES = (1, 2)

STATISTICS = ("mean", "sd", "skewness_log", *(f"p{round(100 * q):02d}" for q in stain_kernels.QUANTILES))
EDGES = ("gradient_mean", "gradient_sd", "laplacian_rms", "coherence", "orientation_entropy")
GLCM = ("contrast_log", "homogeneity", "energy", "correlation", "entropy")
PATTERNS = (*(str(k) for k in range(9)), "other")
NUCLEI = (
    "density_per_mm2_log",
    "area_fraction",
    "area_mean_um2_log",
    "area_sd_um2_log",
    *(f"area_p{round(100 * q):02d}_um2_log" for q in nucleus_kernels.NUCLEUS_QUANTILES),
    "eccentricity_mean",
    "eccentricity_sd",
    "haematoxylin_mean",
    "haematoxylin_sd",
    "haematoxylin_contrast",
    "distance_mean_um_log",
    "distance_sd_um_log",
)

#: Mean optical density from which a pixel counts as tissue; brighter pixels are glass or lumen.
TISSUE_DENSITY = 0.1
#: Least haematoxylin concentration of nuclei, and its least excess over the other tissue.
NUCLEUS_CONCENTRATION, NUCLEUS_CONTRAST = 0.25, 0.15
#: Components smaller than the larger of these areas are specks.
NUCLEUS_UM2, NUCLEUS_PX = 8.0, 5
#: Standard deviation of the smoothing that precedes the threshold of nuclei.
NUCLEUS_BLUR_UM = 0.5

#: Name and order of the features.
FEATURE_NAMES: tuple[str, ...] = (
    *(f"{channel}_od_{name}" for channel in CHANNELS for name in STATISTICS),
    *(f"{stain}_{name}" for stain in STAINS for name in STATISTICS),
    "haematoxylin_eosin_correlation",
    "tissue_fraction",
    *(f"{stain}_{name}_s{scale}" for stain in GLCM_RANGE for scale in SCALES for name in EDGES),
    *(f"{stain}_glcm_{name}_s{scale}" for stain in GLCM_RANGE for scale in SCALES for name in GLCM),
    *(f"{stain}_lbp_{name}_s{scale}" for stain in GLCM_RANGE for scale in PATTERN_SCALES for name in PATTERNS),
    *(f"nuclei_{name}" for name in NUCLEI),
)

#: Description of each group of features, by the pattern of its names.
FEATURE_GROUPS: dict[str, str] = {
    "{channel}_od_{statistic}": "Optical density log10(255 / value) of the red, green and blue channel: mean, standard "
    "deviation, skewness and percentiles.",
    "{stain}_{statistic}": "The same statistics of the haematoxylin, eosin and residual concentration, unmixed with "
    "the fixed stain vectors of Ruifrok & Johnston (Anal Quant Cytol Histol, 2001); the residual is perpendicular to "
    "both.",
    "haematoxylin_eosin_correlation": "Pearson correlation of the two concentrations over the pixels.",
    "tissue_fraction": "Share of pixels that are neither glass nor lumen: mean optical density of at least 0.1.",
    "{stain}_{edge}_s{scale}": "Gradient magnitude (mean, standard deviation), Laplacian (root mean square), "
    "coherence of the structure tensor (Bigün & Granlund, ICCV 1987) and entropy of the gradient's orientation, "
    "at pixels 1, 2, 4 and 8 times as wide as the patch's.",
    "{stain}_glcm_{property}_s{scale}": "Grey-level co-occurrence of neighbouring pixels at the same scales, "
    "32 levels, mean of four directions (Haralick et al., IEEE Trans Syst Man Cybern, 1973).",
    "{stain}_lbp_{pattern}_s{scale}": "Shares of the rotation-invariant uniform local binary patterns with 0 to 8 "
    "points at or above the centre, and of all others (Ojala et al., IEEE TPAMI, 2002), at scales 1 and 2.",
    "nuclei_{statistic}": "Number per mm², share of the area, size, shape, stain and nearest-neighbour distance of "
    "nuclei, connected regions of smoothed haematoxylin above a threshold (Otsu, IEEE Trans Syst Man Cybern, 1979); "
    "all 0 where there are none.",
}


def _unmixing() -> np.ndarray:
    """Return the matrix (3, 3) that maps optical densities (a row) to haematoxylin, eosin and residual.

    The stain vectors are those of Ruifrok & Johnston.
    """
    haematoxylin, eosin = (np.array(v) / np.linalg.norm(v) for v in ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105)))
    residual = np.cross(haematoxylin, eosin)
    return np.linalg.inv(np.stack([haematoxylin, eosin, residual / np.linalg.norm(residual)]))


#: Optical density of the levels from 255 to 0; level 0 is read as 1.
DENSITY = np.log10(255.0 / np.maximum(np.arange(255, -1, -1), 1))
UNMIXING = _unmixing()
_CONCENTRATIONS = (np.arange(stain_kernels.BINS) + 1024 * stain_kernels.LOWEST) * stain_kernels.STEP


def encode_texture(patches: np.ndarray, mpp: float) -> np.ndarray:
    """Describe H&E patches by named features that need no weights.

    The features are deterministic and always finite, and those of a patch do not depend on the other patches. Flips and
    quarter turns of a patch do not change them (up to rounding) if 8 divides height and width. Features that are
    undefined are 0: skewness and correlations of a constant image, the coherence of a scale with fewer than 5 pixels a
    side, and everything about nuclei if there are none. Names that end in ``_log`` (before the scale) hold log1p of the
    absolute value, with the sign of the value. Nuclei that touch count as one; nuclei cut by the border count as they
    are. Patches are encoded in parallel on ``numba.get_num_threads()`` threads.

    Parameters
    ----------
    patches
        RGB images, uint8 (n, height, width, 3), at least 32 pixels high and wide.
    mpp
        Microns per pixel of the patches, 0.01 to 100. Nuclear sizes, densities and distances are in microns; texture
        scales are in pixels, so patches that are compared should have the same ``mpp``.

    Returns
    -------
    float32 (n, d), one column for each of ``FEATURE_NAMES``.

    Raises
    ------
    ValueError
        If ``patches`` or ``mpp`` is not as described.

    Examples
    --------
    >>> import numpy as np
    >>> from spade.encoders._texture import FEATURE_NAMES, encode_texture
    >>> patches = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    >>> features = encode_texture(patches, mpp=0.5)
    >>> features.shape == (2, len(FEATURE_NAMES))
    True
    """
    patches, mpp = _check(patches, mpp)
    out = np.empty((len(patches), len(FEATURE_NAMES)), np.float32)

    def encode(start: int, step: int) -> None:
        patch = np.empty(patches.shape[1:], np.uint8)  # the kernels read one memory layout, whatever that of the batch
        for i in range(start, len(patches), step):
            patch[:] = patches[i]
            out[i] = _encode_patch(patch, mpp)

    workers = min(get_num_threads(), len(patches))
    if workers <= 1:
        encode(0, 1)
        return out
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(encode, range(workers), [workers] * workers))
    return out


class TextureEncoder:
    """The texture features as an :class:`~spade.encoders.Encoder`: any patch size from 32 pixels, any resolution."""

    name = "texture"
    id = "texture-1"
    dim = len(FEATURE_NAMES)
    input_px: int | None = None
    mpp: float | None = None

    def __repr__(self) -> str:
        return f"TextureEncoder: {described(self)}"

    def encode(self, patches: np.ndarray, mpp: float) -> np.ndarray:
        """Encode uint8 ``(n, px, px, 3)`` patches at ``mpp`` µm/px to float32 ``(n, dim)``."""
        return encode_texture(patches, mpp)


def _check(patches: np.ndarray, mpp: float) -> tuple[np.ndarray, float]:
    patches = np.asarray(patches)
    if patches.dtype != np.uint8:
        raise ValueError(
            f"patches has dtype {patches.dtype}; the texture encoder reads uint8 RGB values from 0 to 255. "
            "Convert them first, for example (255 * patches).round().astype('uint8') if they are between 0 and 1."
        )
    if patches.ndim != 4 or patches.shape[-1] != 3:
        raise ValueError(
            f"patches has shape {patches.shape}; expected (n, height, width, 3). "
            "Put channels last, and pass a single patch as patch[None]."
        )
    if min(patches.shape[1:3]) < SMALLEST_PX:
        raise ValueError(
            f"patches are {patches.shape[1]}×{patches.shape[2]} pixels; the texture encoder needs at least "
            f"{SMALLEST_PX}×{SMALLEST_PX}. Cut larger patches or resample them to more pixels."
        )
    if not isinstance(mpp, Real) or not 0.01 <= mpp <= 100:
        raise ValueError(
            f"mpp={mpp!r} is not a number between 0.01 and 100; pass the microns per pixel of the patches, "
            "for example mpp=0.5."
        )
    return patches, float(mpp)


def _encode_patch(patch: np.ndarray, mpp: float) -> np.ndarray:
    """Return the features of one patch, in the order of ``FEATURE_NAMES``."""
    stains, levels, tissue = stain_kernels.unmix(patch, DENSITY, UNMIXING, TISSUE_DENSITY)
    everywhere = np.ones_like(tissue)
    parts = [stain_kernels.describe(counts, DENSITY) for counts in levels]
    parts += [
        stain_kernels.describe(stain_kernels.count_values(stain, everywhere), _CONCENTRATIONS) for stain in stains
    ]
    parts.append(np.array([stain_kernels.correlation(stains[0], stains[1]), tissue.mean()]))
    edges, glcm, patterns = [], [], []
    for image, (low, high) in zip(stains, GLCM_RANGE.values(), strict=False):
        for scale in SCALES:
            image = pattern_kernels.halve(image) if scale else image
            edges.append(pattern_kernels.edges(image))
            glcm.append(pattern_kernels.cooccurrence(image, low, high))
            if scale in PATTERN_SCALES:
                patterns.append(pattern_kernels.binary_patterns(image))
    return np.concatenate([*parts, *edges, *glcm, *patterns, _nuclei(stains[0], tissue, mpp)])


def segment_nuclei(haematoxylin: np.ndarray, tissue: np.ndarray, mpp: float) -> tuple[np.ndarray, int]:
    """Label connected regions of strong haematoxylin ``(H, W)`` with numbers from 1, specks included."""
    sigma = NUCLEUS_BLUR_UM / mpp
    reach = min(math.ceil(3 * sigma), min(tissue.shape))
    weights = np.round(1024 * np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2))
    smooth = nucleus_kernels.blur(haematoxylin, weights)
    counts = stain_kernels.count_values(smooth, tissue)
    threshold = nucleus_kernels.nuclear_threshold(counts, _CONCENTRATIONS, NUCLEUS_CONCENTRATION, NUCLEUS_CONTRAST)
    return nucleus_kernels.label(tissue & (smooth >= threshold))


def _nuclei(haematoxylin: np.ndarray, tissue: np.ndarray, mpp: float) -> np.ndarray:
    """Return the features ``NUCLEI`` of one patch."""
    labels, number = segment_nuclei(haematoxylin, tissue, mpp)
    nuclei = nucleus_kernels.measure(labels, number, haematoxylin, max(NUCLEUS_UM2 / mpp**2, NUCLEUS_PX))
    if len(nuclei) == 0:
        return np.zeros(len(NUCLEI), np.float32)
    pixels, inside = nuclei[:, 0], nuclei[:, 4]
    area, patch_um2 = pixels * mpp**2, tissue.size * mpp**2
    centres = nuclei[:, 1:3] * mpp
    distance = KDTree(centres).query(centres, k=2)[0][:, 1] if len(nuclei) > 1 else np.zeros(1)
    covered, stain = pixels.sum(), pixels @ inside
    other = haematoxylin[tissue].sum(dtype=np.float64) - stain
    contrast = stain / covered - other / max(tissue.sum() - covered, 1)
    return np.array(
        [
            np.log1p(len(nuclei) / (patch_um2 * 1e-6)),
            covered / tissue.size,
            np.log1p(area.mean()),
            np.log1p(area.std()),
            *np.log1p(np.quantile(area, nucleus_kernels.NUCLEUS_QUANTILES)),
            nuclei[:, 3].mean(),
            nuclei[:, 3].std(),
            inside.mean(),
            inside.std(),
            contrast,
            np.log1p(distance.mean()),
            np.log1p(distance.std()),
        ]
    )
