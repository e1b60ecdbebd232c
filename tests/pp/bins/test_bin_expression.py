"""Spot-like squares of points, cells and bins: exact sums, however they are held, and what does not fit."""

from __future__ import annotations

import dask.dataframe as dd
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from helpers.sections import picture, tiny
from scipy.sparse import csr_matrix
from spatialdata import SpatialData, read_zarr
from spatialdata.models import PointsModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, Scale

import spade as sp
from spade.core.spots.squares import SquareCounts, lattice_matrix, lattice_places, squares_of
from spade.io._recorded.scale import record_scale

RNG = np.random.default_rng(0)
N = 5_000


@pytest.fixture(scope="module")
def molecules():
    frame = pd.DataFrame(RNG.uniform(-20, 420, (N, 2)), columns=["x", "y"])
    frame["gene"] = pd.Categorical(RNG.choice([f"G{i:02d}" for i in range(30)], N))
    frame["n"] = RNG.integers(1, 5, N)
    return frame


def slide(frame, *, npartitions=1, mpp=1.0, **kwargs):
    """Molecules on an image of 400 × 400 px of 1 µm."""
    transformations = kwargs.pop("transformations", None)
    points = PointsModel.parse(
        frame if isinstance(frame, dd.DataFrame) else dd.from_pandas(frame, npartitions=npartitions, sort=False),
        feature_key="gene", coordinates={"x": "x", "y": "y"}, transformations=transformations,
    )  # fmt: skip
    sdata = SpatialData(images={"image": picture()}, points={"molecules": points}, **kwargs)
    if mpp:
        record_scale(sdata, mpp={"image": mpp})
    return sdata


def expected(frame, side, weights=None):
    """Counts by row, column and gene, with pandas."""
    keys = [np.floor(frame["y"] / side).astype(int), np.floor(frame["x"] / side).astype(int), frame["gene"].astype(str)]
    values = pd.Series(1, index=frame.index) if weights is None else frame[weights]
    return values.groupby(keys).sum().unstack(fill_value=0)


def counts(sdata, key="bins_table"):
    table = sdata[key]
    places = pd.MultiIndex.from_frame(table.obs[["array_row", "array_col"]])
    return pd.DataFrame(table.X.toarray(), index=places, columns=table.var_names).sort_index()


@pytest.mark.parametrize("npartitions", [1, 7])
def test_sums_are_exact_however_points_are_parted(molecules, npartitions):
    sdata = slide(molecules, npartitions=npartitions)
    sp.pp.bin_expression(sdata, size_um=50, from_="points")
    np.testing.assert_array_equal(counts(sdata), expected(molecules, 50))
    table = sdata["bins_table"]
    assert counts(sdata).columns.tolist() == sorted(set(molecules["gene"]))
    assert table.X.dtype == np.int32
    assert table.uns["spatialdata_attrs"]["region"] == "bins"
    np.testing.assert_allclose(sdata["bins"].geometry.area, 2500)
    centres = 50 * (table.obs[["array_col", "array_row"]].to_numpy() + 0.5)
    np.testing.assert_allclose(table.obsm["spatial"], centres)
    assert table.obs["array_row"].min() == -1  # molecules beyond the border of the image are counted, too
    with pytest.warns(UserWarning, match="off the image"):
        sp.pp.patches(sdata, table_key="bins", size_um=20, size_px=20)
    inside = ((centres >= 0) & (centres < 400)).all(1)
    np.testing.assert_array_equal(table.obs["spade_valid"], inside)


def test_molecules_at_one_place_and_genes_of_one_partition(molecules):
    """Columns of counts; categories that differ between partitions; names as bytes."""
    early = molecules["gene"].astype(str) < "G15"
    halves = [molecules[early], molecules[~early]]
    named = [half.assign(gene=half["gene"].astype(str).str.encode("utf-8")) for half in halves]
    frame = dd.concat([dd.from_pandas(half, npartitions=1, sort=False) for half in named])
    sdata = slide(molecules)
    points = PointsModel.parse(frame, coordinates={"x": "x", "y": "y"})
    sdata.points["parts"] = points
    sp.pp.bin_expression(sdata, size_um=80, from_="points", points_key="parts", feature_key="gene", count_key="n")
    np.testing.assert_array_equal(counts(sdata), expected(molecules, 80, "n"))


def test_molecules_without_a_place_or_a_gene_are_told(molecules):
    frame = molecules.copy()
    frame.loc[:9, "x"] = np.nan
    frame.loc[5:14, "gene"] = None
    sdata = slide(frame, npartitions=3)
    with pytest.warns(UserWarning, match=r"15 of 5,000 points\['molecules'\] have no gene or no position"):
        sp.pp.bin_expression(sdata, size_um=50, from_="points")
    np.testing.assert_array_equal(counts(sdata), expected(molecules.iloc[15:], 50))


def test_rare_squares_are_left_out(molecules):
    sdata = slide(molecules)
    sp.pp.bin_expression(sdata, size_um=50, from_="points", min_counts=60)
    whole = expected(molecules, 50)
    np.testing.assert_array_equal(counts(sdata), whole[whole.sum(axis=1) >= 60])
    with pytest.raises(ValueError, match=r"none of \d+ squares of 50 µm has min_counts=5000 counts"):
        sp.pp.bin_expression(sdata, size_um=50, from_="points", min_counts=5000)


def test_coordinates_of_merscope_are_microns(molecules):
    """Microns are mapped to pixels of 0.4 µm by the affine transformation that the reader sets."""
    matrix = [[2.5, 0, 30], [0, 2.5, 10], [0, 0, 1]]
    to_pixels = {"global": Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y"))}
    sdata = slide(molecules, mpp=None, attrs={"spatialdata_io_reader": "merscope"}, transformations=to_pixels)
    sdata.points["r_transcripts"] = sdata.points.pop("molecules")
    sp.pp.bin_expression(sdata, size_um=40, from_="points")
    moved = molecules.assign(x=molecules["x"] * 2.5 + 30, y=molecules["y"] * 2.5 + 10)
    np.testing.assert_array_equal(counts(sdata), expected(moved, 100))
    assert sdata.attrs["spade"]["mpp"]["image"] == pytest.approx(0.4)


def lattice_of_points(n=24, keep=0.8):
    """Bins whose centres are points on whole coordinates."""
    rng = np.random.default_rng(1)
    row, column = (axis.ravel() for axis in np.indices((n, n)))
    chosen = rng.permutation(np.flatnonzero(rng.random(n * n) < keep))
    row, column = row[chosen], column[chosen]
    points = PointsModel.parse(
        pd.DataFrame({"x": 100 + 50 * column, "y": 300 + 50 * row}, index=np.arange(len(row))),
        transformations={"global": Scale([0.2, 0.2], axes=("x", "y"))},
    )  # fmt: skip
    values = rng.poisson(1.0, (len(row), 12))
    obs = pd.DataFrame({"instance_id": np.arange(len(row)), "region": pd.Categorical(["lattice"] * len(row))})
    obs.index = obs.index.astype(str)
    table = TableModel.parse(
        AnnData(csr_matrix(values.astype(np.float32)), obs=obs), region="lattice", region_key="region",
        instance_key="instance_id",
    )  # fmt: skip
    sdata = SpatialData(images={"image": picture()}, points={"lattice": points}, tables={"lattice_table": table})
    record_scale(sdata, mpp={"image": 2.5})
    return sdata, row, column, values


def test_bins_that_are_points_on_a_lattice():
    """25 µm from bin to bin: 50 units of 0.2 px of 2.5 µm."""
    sdata, row, column, values = lattice_of_points()
    sp.pp.bin_expression(sdata, size_um=100, from_="bins")
    keys = [(row - row.min()) // 4, (column - column.min()) // 4]
    np.testing.assert_array_equal(counts(sdata), pd.DataFrame(values).groupby(keys).sum())
    np.testing.assert_allclose(sdata["bins"].geometry.area, 40**2)
    first = sdata["bins"].geometry.iloc[0].centroid
    assert (first.x, first.y) == pytest.approx((20 + 15, 60 + 15))  # the middle of bins 0 to 3
    with pytest.raises(ValueError, match=r"size_um=60: .* whole bins, which are 25 µm large here.*such as 50"):
        sp.pp.bin_expression(sdata, size_um=60, from_="bins")


def test_cells_are_no_bins():
    sdata = tiny()
    moved = sdata["spots"].geometry.translate(3, 0).where(np.arange(36) % 2 == 0, sdata["spots"].geometry)
    sdata["spots"]["geometry"] = moved.translate(0, 20).where(np.arange(36) % 5 == 0, moved)
    with pytest.raises(ValueError, match=r'do not lie on a square lattice.*from_="cells"'):
        sp.pp.bin_expression(sdata, size_um=100, from_="bins")


@pytest.mark.parametrize("shape", ["hexagonal", "oblong", "oblique"])
def test_lattices_of_other_shapes_are_no_bins(shape):
    """Visium counts the places of its hexagonal lattice by row and every other column."""
    sdata = tiny()
    row, column = np.arange(36) // 6, np.arange(36) % 6
    if shape == "hexagonal":
        column = 2 * column + row % 2
    scale = {"hexagonal": (5, 5 * np.sqrt(3)), "oblong": (10, 10.7), "oblique": (10, 10)}[shape]
    x, y = 10 + scale[0] * column + (row if shape == "oblique" else 0), 10 + scale[1] * row
    spots = gpd.GeoDataFrame({"radius": np.full(36, 2.0)}, geometry=gpd.points_from_xy(x, y))
    sdata["spots"] = ShapesModel.parse(spots.set_axis(sdata["spots"].index), transformations={"global": Identity()})
    sdata["table"].obs["array_row"], sdata["table"].obs["array_col"] = row, column
    with pytest.raises(ValueError, match=r'bins of .spots. do not lie on a square lattice.*from_="cells"'):
        sp.pp.bin_expression(sdata, size_um=20, from_="bins", mpp=1.0)


def test_a_store_is_written_and_written_again(tmp_path):
    store = tmp_path / "a.zarr"
    tiny().write(store)
    for size in (100, 150):
        sp.pp.bin_expression(store, size_um=size, from_="bins")
    back = read_zarr(store)
    values = tiny()["table"].X.toarray()
    keys = [np.arange(36) // 6 // 3, np.arange(36) % 6 // 3]
    np.testing.assert_array_equal(counts(back), pd.DataFrame(values).groupby(keys).sum())
    assert back["bins_table"].uns["spade"]["bins"]["size_um"] == 150
    assert back["table"].n_obs == 36


def test_names_that_are_in_use():
    sdata = tiny()
    sdata.shapes["bins"] = sdata["spots"].copy()
    with pytest.raises(ValueError, match=r"key_added='bins': shapes/bins is there, and sp.pp.bin_expression did not"):
        sp.pp.bin_expression(sdata, size_um=100, from_="bins")


def test_squares_do_not_replace_those_that_they_are_made_of():
    sdata = tiny()
    sp.pp.bin_expression(sdata, size_um=100, from_="cells")
    small = counts(sdata)
    with pytest.raises(
        ValueError, match=r"key_added='bins': the squares would replace tables\['bins_table'\], of which"
    ):
        sp.pp.bin_expression(sdata, size_um=200, from_="bins", table_key="bins_table")
    sp.pp.bin_expression(sdata, size_um=200, from_="bins", table_key="bins_table", key_added="large")
    pd.testing.assert_frame_equal(counts(sdata), small)
    assert counts(sdata, "large_table").to_numpy().sum() == small.to_numpy().sum()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size_um": 0}, ValueError, r"size_um=0: expected a positive number of µm"),
        ({"size_um": "50"}, ValueError, r"size_um='50'"),
        ({"from_": "spots"}, ValueError, r"from_='spots': expected one of 'points', 'cells', 'bins'"),
        ({"from_": "points", "layer": "counts"}, ValueError, r"layer='counts': with from_='points'"),
        ({"from_": "points", "table_key": "table"}, ValueError, r"table_key= is of no use with from_=.points."),
        ({"min_qv": 30}, ValueError, r"min_qv=30.* with from_='cells'"),
        ({"feature_key": "gene"}, ValueError, r"feature_key='gene': with from_='cells'"),
        ({"from_": "points", "points_key": "none"}, KeyError, r"points_key='none' is not there; points: none"),
        ({"from_": "points"}, ValueError, r"no points may be the transcripts"),
        ({"mpp": -1}, ValueError, r"mpp=-1"),
        ({"mpp": "0.5 µm"}, ValueError, r"mpp='0.5 µm'"),
        ({"min_counts": 0}, ValueError, r"min_counts=0"),
        ({"key_added": "my key"}, ValueError, r"key_added='my key'"),
        ({"key_added": "mpp"}, ValueError, r"key_added='mpp': the name is in use"),
        ({"image_key": "he"}, KeyError, r"image_key='he' is not there; images: 'image'"),
        ({"table_key": "none"}, KeyError, r"table_key='none' is not there; tables: 'table'"),
        ({"layer": "none"}, KeyError, r"layer='none' is not there"),
    ],
)
def test_arguments_that_make_no_sense(options, error, message):
    sdata = tiny()
    with pytest.raises(error, match=message):
        sp.pp.bin_expression(sdata, **{"size_um": 100, "from_": "cells", **options})
    assert list(sdata.tables) == ["table"]


def test_columns_and_counts_of_points_that_make_no_sense(molecules):
    sdata = slide(molecules)
    with pytest.raises(KeyError, match=r"feature_key='name' is not among the columns: 'x', 'y', 'gene', 'n'"):
        sp.pp.bin_expression(sdata, size_um=50, from_="points", feature_key="name")
    with pytest.raises(KeyError, match=r"min_qv=30 reads a column 'qv', which is not among the columns: 'x', 'y'"):
        sp.pp.bin_expression(sdata, size_um=50, from_="points", min_qv=30)
    with pytest.raises(ValueError, match=r"count_key= holds -?\d+\.\d+, but counts are whole numbers"):
        sp.pp.bin_expression(sdata, size_um=50, from_="points", count_key="x")


def test_sums_by_square_are_those_of_a_loop():
    """Thousands of pieces, squares on both sides of 0."""
    squares, genes = RNG.integers(-30, 30, (3_000, 2)), RNG.integers(0, 9, 3_000)
    sums, truth = SquareCounts(), {}
    for start in range(0, 3_000, 100):
        sums.add(squares[start : start + 100], genes[start : start + 100])
    for (row, column), gene in zip(squares.tolist(), genes.tolist(), strict=True):
        truth[row, column, gene] = truth.get((row, column, gene), 0) + 1
    places, matrix = sums.sums(9)
    found = matrix.tocoo()
    listed = zip(places[found.row].tolist(), found.col.tolist(), found.data.tolist(), strict=True)
    assert {(*place, gene): n for place, gene, n in listed} == truth
    with pytest.raises(ValueError, match="away from the corner of the image"):
        sums.add(np.array([[2**21, 0]]), np.array([0]))


def test_lattices_with_gaps_are_recognised():
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(30)), -1).reshape(-1, 2)
    kept = grid[RNG.random(len(grid)) < 0.5]
    kept = np.vstack([[0, 0], kept[1:]])
    points = 7.3 * kept + [11, -40]
    places = lattice_places(points)
    np.testing.assert_array_equal(places, kept[:, ::-1])
    np.testing.assert_allclose(lattice_matrix(places, points), [[7.3, 0], [0, 7.3], [11, -40]], atol=1e-9)
    assert lattice_places(RNG.uniform(0, 100, (500, 2))) is None
    assert lattice_matrix(np.zeros((5, 2), int), np.zeros((5, 2))) is None
    np.testing.assert_array_equal(squares_of(np.array([[-0.5, 10.0], [9.99, 20.0]]), 10.0), [[1, -1], [2, 0]])
