"""The synthetic cohort: sections whose image and expression come from one hidden state."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from spade.core.checks import check_count, check_positive
from spade.io._recorded.scale import record_scale

if TYPE_CHECKING:
    import xarray as xr
    from anndata import AnnData
    from spatialdata import SpatialData

    from spade.datasets._tissue import Tissue

#: Diameter of a spot as a share of the pitch, as in Visium (55 and 100 µm).
DIAMETER = 0.55
#: From the outermost spot centres to the border of the image in µm.
MARGIN_UM = 120.0
#: Mean counts per gene and spot while no program is active.
DEPTH = 2.5
#: Largest side of an image in pixels.
MAX_SIDE = 60_000


def toy(
    n_samples: int = 4,
    n_spots: int = 400,
    n_genes: int = 500,
    n_domains: int = 4,
    *,
    mpp: float = 0.5,
    pitch_um: float = 100.0,
    rng: int | np.random.Generator = 0,
) -> list[SpatialData]:
    """Make a cohort of synthetic sections with rendered H&E-like images and spot counts.

    Each section comes from a different patient. Its tissue has contiguous domains and two continuous states, cell
    density and inflammation. Each of them shapes both the image (nuclei, glands, fibres, fat) and the expression (one
    gene program each), so the true relation of images and genes is known. Patients differ in stain, sequencing depth
    and gene batch effects. The two organs, which alternate, differ in architecture and have gene programs of their own.

    Parameters
    ----------
    n_samples
        Number of sections. Section ``i`` is the same for any number.
    n_spots
        Spots per section, on a hexagonal lattice as in Visium.
    n_genes
        Number of genes, at least ``n_domains + 5``: one for each program.
    n_domains
        Number of tissue domains. Each covers about the same share of every section.
    mpp
        Microns per pixel of the image at its finest level.
    pitch_um
        Distance of neighbouring spots in µm. The diameter of a spot is 0.55 of it.
    rng
        Seed, or a generator from which one is drawn.

    Returns
    -------
    list[SpatialData]
        One object per section, each with

        - ``images["image"]``: uint8 RGB, four levels
        - ``shapes["spots"]``: circles in pixels
        - ``tables["table"]``: raw counts in ``X``; ``obs`` has ``domain``, ``patient``, ``organ`` and, in [0, 1],
          ``cell_density`` and ``inflammation``; ``var["program"]`` names what drives the gene: a domain, an organ, a
          state, or ``"housekeeping"``

    Raises
    ------
    TypeError
        If ``rng`` is neither a seed nor a generator.
    ValueError
        If another argument is not a number of the right kind or is too small, or the image would be too large.

    Examples
    --------
    >>> import spade as sp
    >>> cohort = sp.datasets.toy(n_samples=2, n_spots=20, n_genes=30)
    >>> cohort[0]["table"].shape
    (20, 30)
    >>> sorted(cohort[0]["table"].obs["domain"].cat.categories)
    ['adipose', 'epithelium', 'stroma', 'tumour']
    """
    from spade.core.rng import as_seed

    for name, value in (("n_samples", n_samples), ("n_spots", n_spots), ("n_genes", n_genes), ("n_domains", n_domains)):
        check_count(name, value)
    if n_genes < n_domains + 5:
        raise ValueError(
            f"n_genes={n_genes}: expected a whole number of at least {n_domains + 5}, one for each gene program of "
            f"n_domains={n_domains}."
        )
    check_positive("mpp", mpp, "µm/px")
    check_positive("pitch_um", pitch_um, "µm")
    seed = as_seed(rng)
    lattice = hexagonal_lattice(n_spots, pitch_um)
    shape = _image_shape(lattice.size, mpp)
    if max(shape) > MAX_SIDE:
        raise ValueError(
            f"n_spots={n_spots} at pitch_um={pitch_um:g} and mpp={mpp:g} gives an image of {shape[1]} × {shape[0]} "
            f"pixels; a side may have {MAX_SIDE}. Choose fewer spots or a larger mpp."
        )
    programs = _draw_programs(np.random.default_rng([seed, 0]), n_genes, n_domains)
    plan = CohortPlan(seed, lattice, shape, programs, n_domains, mpp, pitch_um)
    return [_section(plan, i) for i in range(n_samples)]


@dataclass(frozen=True)
class Lattice:
    """Spot centres in µm, their row and column as Visium counts them, and the section's (width, height) in µm."""

    xy: np.ndarray
    row: np.ndarray
    column: np.ndarray
    size: tuple[float, float]


def hexagonal_lattice(n_spots: int, pitch: float) -> Lattice:
    """Return a lattice of roughly square outline, filled row by row."""
    n_columns = max(round(sqrt(n_spots * sqrt(3) / 2)), 1)
    row, column = np.divmod(np.arange(n_spots), n_columns)
    column = 2 * column + row % 2
    xy = np.stack([column * pitch / 2, row * pitch * sqrt(3) / 2], axis=1) + MARGIN_UM
    width, height = xy.max(axis=0) + MARGIN_UM
    return Lattice(xy, row, column, (float(width), float(height)))


@dataclass(frozen=True)
class Programs:
    """Gene programs: their names, the program of each gene, log rates at rest, and effects ``(programs, genes)``."""

    names: list[str]
    of_gene: np.ndarray
    log_rate: np.ndarray
    effects: np.ndarray


@dataclass(frozen=True)
class CohortPlan:
    """What all sections of a cohort share."""

    seed: int
    lattice: Lattice
    #: Height and width of the images in pixels.
    shape: tuple[int, int]
    programs: Programs
    n_domains: int
    mpp: float
    pitch_um: float

    @property
    def radius_um(self) -> float:
        """Radius of a spot in µm."""
        return DIAMETER * self.pitch_um / 2


def _draw_programs(rng: np.random.Generator, n_genes: int, n_domains: int) -> Programs:
    from spade.datasets._tissue import ORGANS, domain_names

    names = [*domain_names(n_domains), *ORGANS, "cell_density", "inflammation"]
    # two genes of five follow no program; the programs share the others evenly
    n_driven = max(round(0.6 * n_genes), len(names))
    of_gene = np.full(n_genes, len(names))
    of_gene[:n_driven] = np.arange(n_driven) % len(names)
    rng.shuffle(of_gene)
    effects = rng.normal(0, 0.1, (len(names), n_genes))
    driven = np.flatnonzero(of_gene < len(names))
    effects[of_gene[driven], driven] = rng.uniform(0.8, 2.2, len(driven))
    log_rate = rng.normal(0, 1.1, n_genes)
    log_rate += np.log(DEPTH) - np.log(np.mean(np.exp(log_rate)))
    return Programs([*names, "housekeeping"], of_gene, log_rate, effects)


def _section(plan: CohortPlan, i: int) -> SpatialData:
    """Draw section ``i`` of a cohort."""
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel

    from spade.datasets._render import render
    from spade.datasets._tissue import ORGANS, Tissue, build_scene, domain_names

    lattice, organ = plan.lattice, ORGANS[i % len(ORGANS)]
    tissue = Tissue.draw(np.random.default_rng([plan.seed, 1, i]), organ, plan.n_domains, lattice.size)
    scene = build_scene(tissue, np.random.default_rng([plan.seed, 2, i]), lattice.size, MARGIN_UM)
    image = render(scene, plan.shape, plan.mpp)

    ids = pd.Index([f"toy_{i}_{k:04d}" for k in range(len(lattice.xy))])
    density, inflammation = tissue.states_at(lattice.xy)
    obs = pd.DataFrame(
        {
            "domain": pd.Categorical.from_codes(
                np.argmax(tissue.domains_at(lattice.xy), axis=1), pd.Index(domain_names(plan.n_domains))
            ),
            "patient": pd.Categorical([f"patient_{i}"] * len(ids)),
            "organ": pd.Categorical([organ] * len(ids), categories=list(ORGANS)),
            "cell_density": density,
            "inflammation": inflammation,
            "array_row": lattice.row,
            "array_col": lattice.column,
        },
        index=ids,
    )
    rng = np.random.default_rng([plan.seed, 3, i])
    counts = _draw_counts(rng, tissue, lattice.xy, plan.radius_um, plan.programs)
    xy = lattice.xy / plan.mpp
    sdata = SpatialData(
        images={"image": _pyramid(image)},
        shapes={"spots": ShapesModel.parse(xy, geometry=0, radius=plan.radius_um / plan.mpp, index=ids)},
        tables={"table": _table(counts, obs, xy, plan.programs)},
    )
    record_scale(sdata, sample=f"toy_{i}", mpp={"image": plan.mpp}, pitch_um={"spots": plan.pitch_um})
    return sdata


def _draw_counts(
    rng: np.random.Generator, tissue: Tissue, xy: np.ndarray, radius: float, programs: Programs, block: int = 512
) -> sparse.csr_matrix:
    """Draw negative binomial counts with batch effects and dropout; log rates are sums over active programs."""
    from spade.datasets._tissue import ORGANS

    n_genes = len(programs.log_rate)
    batch = rng.normal(0, 0.2, n_genes)
    depth = np.exp(rng.normal(0, 0.2))
    activity = _activity(tissue, xy, radius, [organ == tissue.organ for organ in ORGANS])
    activity *= np.exp(rng.normal(0, 0.15, activity.shape))
    library = depth * np.exp(rng.normal(0, 0.25, len(xy))) * (0.6 + 0.8 * tissue.states_at(xy)[0])
    rows = []
    for start in range(0, len(xy), block):
        log_rate = activity[start : start + block] @ programs.effects + programs.log_rate + batch
        rate = np.exp(log_rate) * library[start : start + block, None]
        counts = rng.poisson(rate * rng.gamma(5.0, 1 / 5.0, rate.shape))
        counts[rng.random(rate.shape) < 0.05] = 0
        rows.append(sparse.csr_matrix(counts.astype(np.float32)))
    return sparse.csr_matrix(sparse.vstack(rows, format="csr"))


def _activity(tissue: Tissue, xy: np.ndarray, radius: float, is_organ: list[bool]) -> np.ndarray:
    """Return activities ``(spots, programs)`` in [0, 1], means over the disc of each spot."""
    turn = np.arange(6) * np.pi / 3
    disc = np.concatenate([[[0.0, 0.0]], 0.7 * radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)])
    domains = np.mean([tissue.domains_at(xy + offset) for offset in disc], axis=0)
    states = np.mean([tissue.states_at(xy + offset) for offset in disc], axis=0).T
    return np.hstack([domains, np.tile(np.asarray(is_organ, float), (len(xy), 1)), states])


def _table(counts: sparse.csr_matrix, obs: pd.DataFrame, xy: np.ndarray, programs: Programs) -> AnnData:
    from anndata import AnnData
    from spatialdata.models import TableModel

    names = [f"GENE{g:0{max(4, len(str(counts.shape[1])))}d}" for g in range(1, counts.shape[1] + 1)]
    var = pd.DataFrame({"program": pd.Categorical.from_codes(programs.of_gene, pd.Index(programs.names))}, index=names)
    obs = obs.assign(region=pd.Categorical(["spots"] * len(obs)), spot_id=obs.index.to_numpy())
    table = AnnData(counts, obs=obs, var=var, obsm={"spatial": xy})
    return TableModel.parse(table, region="spots", region_key="region", instance_key="spot_id")


def _pyramid(image: np.ndarray) -> xr.DataTree:
    """Return an image element of four levels, in memory."""
    import dask.array as da
    from spatialdata.models import Image2DModel

    from spade.datasets._render import halve

    chunks = (3, 512, 512)
    data = da.from_array(image, chunks=chunks, name=False)
    tree = Image2DModel.parse(
        data, dims=("c", "y", "x"), c_coords=["r", "g", "b"], scale_factors=[2, 2, 2], chunks=chunks
    )
    # parsed levels are lazy: they would average the level above at every access
    for level in range(1, 4):
        image = halve(image)
        tree[f"scale{level}"]["image"].variable.data = da.from_array(image, chunks=chunks, name=False)
    return tree


def _image_shape(size: tuple[float, float], mpp: float) -> tuple[int, int]:
    """Return height and width in pixels, rounded up to multiples of 8, so that every level halves exactly."""
    width, height = (8 * ceil(length / mpp / 8) for length in size)
    return height, width
