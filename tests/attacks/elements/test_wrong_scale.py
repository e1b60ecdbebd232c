"""A stated µm/px that the object contradicts: bins tell it by their name, cells by their area in µm²."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from anndata import AnnData
from scipy.sparse import csr_matrix
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Scale

import spade as sp

RNG = np.random.default_rng(0)


def section(shapes, region, obs=None, size=600, image_scale=None):
    table = AnnData(
        csr_matrix(RNG.poisson(1.0, (len(shapes), 5)).astype(np.float32)),
        obs=pd.DataFrame(obs or {}, index=[f"c{i}" for i in range(len(shapes))]),
    )
    table.obs["region"], table.obs["id"] = pd.Categorical([region] * len(shapes)), shapes.index.to_numpy()
    pixels = RNG.integers(0, 255, (3, size, size), dtype=np.uint8)
    transformations = None if image_scale is None else {"global": Scale([image_scale] * 2, axes=("x", "y"))}
    return SpatialData(
        images={
            "he": Image2DModel.parse(
                pixels, dims=("c", "y", "x"), c_coords=["r", "g", "b"], transformations=transformations
            )
        },
        shapes={region: shapes},
        tables={"table": TableModel.parse(table, region=region, region_key="region", instance_key="id")},
    )


def bins(side_um, mpp, kind, n=12, keep=1.0):
    """Bins as spatialdata-io reads them: squares, circles of half their side, or circles of their area."""
    side = side_um / mpp
    grid = (np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2) + 2) * side
    grid = grid[RNG.random(len(grid)) < keep]
    if kind == "squares":
        half = side / 2
        return ShapesModel.parse(gpd.GeoDataFrame(geometry=shapely.box(*(grid - half).T, *(grid + half).T)))
    radius = side / 2 if kind == "circles" else side / np.sqrt(np.pi)
    return ShapesModel.parse(grid, geometry=0, radius=radius)


@pytest.mark.parametrize("kind", ["squares", "circles", "circles of the same area"])
@pytest.mark.parametrize(("side_um", "mpp"), [(16, 0.7), (8, 0.27), (2, 0.5)])
def test_bins_tell_the_scale(kind, side_um, mpp):
    region = f"Visium_HD_Mouse_Brain_square_{side_um:03}um"
    sdata = section(bins(side_um, mpp, kind, keep=0.9), region)
    sp.pp.patches(sdata, size_um=32, size_px=32)
    facts = sdata["table"].uns["spade"]["patches"]["regions"][region]
    assert facts["mpp"] == pytest.approx(mpp, rel=1e-3)
    assert facts["spot_diameter_um"] == side_um  # 9.03 for a circle of the area of an 8 µm bin
    sp.pp.patches(sdata, size_um=32, size_px=32, mpp=mpp * 1.03)
    with pytest.raises(ValueError, match=rf"mpp is {2 * mpp:.4g} .* bins of {side_um} µm by their name"):
        sp.pp.patches(sdata, size_um=32, size_px=32, mpp=2 * mpp)


def test_two_sizes_of_bins_on_one_image():
    """The case of 16 µm bins at 0.7 µm/px, of which 1.4 was believed."""
    for wrong in (1.4, 0.35, 0.7 * 1.06):
        sdata = section(bins(16, 0.7, "squares"), "square_016um")
        with pytest.raises(ValueError, match=r"have their size at 0\.7 µm/px"):
            sp.pp.patches(sdata, mpp=wrong)


def xenium(n=80, he_mpp=0.5, pixel=0.2125):
    """Cells as circles in µm; the H&E lies in the system of the morphology image by its transformation."""
    area = RNG.uniform(30, 120, n)
    circles = ShapesModel.parse(
        RNG.uniform(60, 240, (n, 2)), geometry=0, radius=np.sqrt(area / np.pi),
        transformations={"global": Scale([1 / pixel] * 2, axes=("x", "y"))},
    )  # fmt: skip
    return section(circles, "cell_circles", {"cell_area": area}, image_scale=he_mpp / pixel)


def test_cells_tell_the_scale_of_the_image_they_lie_on():
    sdata = xenium()
    sp.pp.patches(sdata, size_um=30, size_px=60)
    facts = sdata["table"].uns["spade"]["patches"]["regions"]["cell_circles"]
    assert facts["mpp"] == pytest.approx(0.5)
    side = np.sqrt(sdata["patches"].geometry.area.to_numpy())
    np.testing.assert_allclose(side, 60)
    with pytest.raises(ValueError, match=r"mpp is 0\.2125 .* cells whose area in µm² is in obs.* 0\.5 µm"):
        sp.pp.patches(sdata, size_um=30, size_px=60, mpp=0.2125)


def test_areas_that_do_not_belong_to_the_shapes_tell_nothing():
    sdata = xenium()
    sdata["table"].obs["cell_area"] = RNG.permutation(RNG.lognormal(4, 1, len(sdata["table"])))
    with pytest.raises(ValueError, match="are not known"):
        sp.pp.patches(sdata, size_um=30, size_px=60)
    sp.pp.patches(sdata, size_um=30, size_px=60, mpp=0.5)


def test_the_record_of_a_reader_is_held_against_the_bins_too():
    sdata = section(bins(8, 0.5, "squares"), "square_008um")
    sdata.attrs["spade"] = {"mpp": {"he": 0.25}}
    with pytest.raises(ValueError, match=r"mpp is 0\.25 .* 0\.5 µm/px"):
        sp.pp.patches(sdata, size_um=16, size_px=32)
