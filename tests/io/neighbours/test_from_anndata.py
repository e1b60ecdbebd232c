"""Objects of scanpy and squidpy: where spots lie on the pictures, which µm/px are known, and what does not fit."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
from anndata import AnnData, read_h5ad
from helpers.sections import warns_here
from PIL import Image
from scipy.sparse import csr_matrix
from spatialdata import read_zarr

import spade as sp
from spade._samples.placement import place

SIDE, FACTOR = 2000, 0.25
FULL = np.full((SIDE, SIDE, 3), 200, np.uint8)


def lattice(n_rows=8, n_columns=9, pitch=200.0):
    """A Visium lattice in full-resolution pixels, and its array positions."""
    rows, columns = np.divmod(np.arange(n_rows * n_columns), n_columns)
    array = np.column_stack([rows, 2 * columns + rows % 2])
    return array[:, ::-1] * [pitch / 2, pitch * np.sqrt(3) / 2] + 100, array


def picture(centres, size=SIDE, factor=FACTOR):
    """Glass with a dark dot at every spot, as scanpy holds it: shares of white."""
    image = np.ones((round(size * factor), round(size * factor), 3), np.float32)
    for x, y in np.round(centres * factor).astype(int):
        image[y - 2 : y + 3, x - 2 : x + 3] = [0.4, 0.2, 0.6]
    return image


def visium(name="A1", *, pitch=200.0, diameter=0.65, seed=0):
    centres, array = lattice(pitch=pitch)
    counts = csr_matrix(np.random.default_rng(seed).poisson(1, (len(centres), 5)).astype(np.float32))
    adata = AnnData(counts)
    adata.obs_names = [f"{name}-{i}" for i in range(len(centres))]
    adata.obs["array_row"], adata.obs["array_col"] = array.T
    adata.obsm["spatial"] = centres
    images = {"hires": picture(centres), "lowres": picture(centres, factor=0.1)}
    scales = {"tissue_hires_scalef": FACTOR, "tissue_lowres_scalef": 0.1, "spot_diameter_fullres": diameter * pitch}
    adata.uns["spatial"] = {name: {"images": images, "scalefactors": scales, "metadata": {}}}
    return adata


def two():
    """Two sections in one object, as squidpy and scanpy concatenate them."""
    import anndata

    parts = {name: visium(name, seed=i) for i, name in enumerate(("A1", "B 2"))}
    joined = anndata.concat(parts, label="library", index_unique=None)
    joined.uns["spatial"] = {name: part.uns["spatial"][name] for name, part in parts.items()}
    return joined


def test_spots_lie_on_the_dots_of_every_picture():
    adata = visium()
    sdata = sp.io.from_anndata(adata)
    assert sorted(sdata.images) == ["A1_hires_image", "A1_lowres_image"]
    for key, factor in (("A1_hires_image", FACTOR), ("A1_lowres_image", 0.1)):
        placed = place(sdata, "A1", "A1", ["A1"], key)
        np.testing.assert_allclose(placed.centres, adata.obsm["spatial"] * factor)
        np.testing.assert_allclose(placed.radii, 65 * factor)
        pixels = sdata[key]["scale0"]["image"].to_numpy()
        x, y = placed.centres.round().astype(int).T
        assert (pixels[:, y, x] == [[102], [51], [153]]).all()
    assert sdata.attrs["spade"]["sample"] == "A1"


def test_the_table_is_that_of_the_object_and_the_object_is_left_alone():
    adata = visium()
    adata.layers["raw"] = adata.X.copy()
    adata.uns["pca"] = {"variance": np.arange(3.0)}
    before = copy.deepcopy(adata)
    table = sp.io.from_anndata(adata)["table"]
    assert (table.X != before.X).nnz == 0
    assert table.X.dtype == before.X.dtype
    assert table.obs_names.equals(before.obs_names)
    assert "raw" in table.layers
    assert set(table.uns) == {"pca", "spatialdata_attrs"}
    assert table.obs[["region", "spot_id"]].iloc[0].tolist() == ["A1", "A1-0"]
    assert "spatial" in adata.uns
    assert list(adata.obs) == ["array_row", "array_col"]


@pytest.mark.parametrize("diameter", [0.55, 0.65])
def test_visium_tells_its_scale(diameter, tmp_path):
    adata = visium(diameter=diameter)
    sdata = sp.io.from_anndata(adata)
    record = sdata.attrs["spade"]
    assert record["mpp"]["A1_hires_image"] == pytest.approx(0.5 / FACTOR)
    assert record["pitch_um"] == {"A1": 100}
    with warns_here("coarser than twice the wanted"):
        sp.pp.patches(sdata)
    assert sdata["table"].uns["spade"]["patches"]["regions"]["A1"]["mpp"] == pytest.approx(0.5 / FACTOR)
    sp.io.write(sdata, tmp_path / "a.zarr")
    assert read_zarr(tmp_path / "a.zarr").attrs["spade"]["pitch_um"] == {"A1": 100}


def test_other_spots_have_no_scale_unless_it_is_stated():
    adata = visium(diameter=0.95)
    assert not sp.io.from_anndata(adata).attrs["spade"]["mpp"]
    with pytest.raises(ValueError, match="are not known"):
        sp.pp.patches(sp.io.from_anndata(adata))
    assert sp.io.from_anndata(adata, mpp=0.3).attrs["spade"]["mpp"]["A1_lowres_image"] == pytest.approx(3)
    with pytest.raises(ValueError, match="platform states 100 µm"):
        sp.io.from_anndata(visium(), mpp=0.3)


@pytest.mark.parametrize("kind", ["array", "floats", "rgba", "element", "png", "tif"])
def test_the_full_image_in_every_form(kind, tmp_path):
    import tifffile
    from spatialdata.models import Image2DModel

    adata = visium()
    del adata.uns["spatial"]["A1"]["images"]
    shares = picture(adata.obsm["spatial"], factor=1)
    pixels = np.round(255 * shares).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "he.png")
    tifffile.imwrite(tmp_path / "he.tif", pixels, tile=(256, 256), photometric="rgb")
    forms = {
        "array": pixels,
        "floats": shares,
        "rgba": np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]),
        "element": Image2DModel.parse(np.moveaxis(pixels, -1, 0), dims=("c", "y", "x"), c_coords=[*"rgb"]),
        "png": tmp_path / "he.png",
        "tif": str(tmp_path / "he.tif"),
    }
    sdata = sp.io.from_anndata(adata, image=forms[kind])
    assert list(sdata.images) == ["A1_full_image"]
    np.testing.assert_array_equal(sdata["A1_full_image"]["scale0"]["image"].to_numpy(), np.moveaxis(pixels, -1, 0))
    sp.pp.patches(sdata)
    sp.pp.encode_patches(sdata)
    assert np.isfinite(sdata["table"].obsm["X_texture"]).all()


def test_the_finest_image_is_used():
    adata = visium()
    sdata = sp.io.from_anndata(adata, image=FULL)
    sp.pp.patches(sdata)
    assert sdata["table"].uns["spade"]["patches"]["regions"]["A1"]["image"] == "A1_full_image"


def test_several_libraries_lie_apart():
    adata = two()
    sdata = sp.io.from_anndata(adata, library_key="library", sample_id="both")
    assert sorted(sdata.shapes) == ["A1", "B_2"]
    assert sorted(sdata.coordinate_systems) == ["A1", "B_2"]
    assert sdata["table"].uns["spatialdata_attrs"]["region"] == ["A1", "B_2"]
    assert sdata["B_2"].index.tolist() == adata.obs_names[adata.obs["library"] == "B 2"].tolist()
    with warns_here("coarser than twice the wanted"):
        sp.pp.patches(sdata)
    regions = sdata["table"].uns["spade"]["patches"]["regions"]
    assert {name: facts["image"] for name, facts in regions.items()} == {
        "A1": "A1_hires_image",
        "B_2": "B_2_hires_image",
    }
    sdata = sp.io.from_anndata(adata, library_key="library", image={"B 2": FULL})
    assert "B_2_full_image" in sdata.images
    assert "A1_full_image" not in sdata.images
    with pytest.raises(ValueError, match=r"library_key=, such as 'library'"):
        sp.io.from_anndata(adata)
    with pytest.raises(ValueError, match="give a dict from library to image"):
        sp.io.from_anndata(adata, library_key="library", image=FULL)
    with pytest.raises(KeyError, match=r"image= names 'C3'"):
        sp.io.from_anndata(adata, library_key="library", image={"C3": FULL})
    adata.obs["library"] = adata.obs["library"].where(adata.obs["library"] != "A1")
    with pytest.raises(ValueError, match="is missing for 72 of 144 spots"):
        sp.io.from_anndata(adata, library_key="library")


def changed(what, value):
    def change(adata):
        facts = adata.uns["spatial"]["A1"]
        if what == "obsm":
            adata.obsm["spatial"] = value(adata.obsm["spatial"])
        elif what == "names":
            adata.obs_names = ["twice", "twice", *adata.obs_names[2:]]
        elif what == "image":
            facts["images"]["hires"] = value
        elif value is None:
            del facts["scalefactors"][what]
        else:
            facts["scalefactors"][what] = value

    return change


def first_nan(values):
    return np.where(np.arange(len(values))[:, None] == 0, np.nan, values)


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (lambda a: a.obsm.pop("spatial"), {}, KeyError, r"obsm\['spatial'\], the pixels of the spots"),
        (lambda a: None, {"spatial_key": "no"}, KeyError, "Name another with spatial_key="),
        (changed("obsm", lambda v: v[:, :1]), {}, ValueError, r"has shape \(72, 1\)"),
        (changed("obsm", lambda v: v.astype(str)), {}, ValueError, "expected two numbers"),
        (changed("obsm", first_nan), {}, ValueError, "NaN or infinite for 1 of 72 spots, such as 'A1-0'"),
        (changed("obsm", lambda v: v + 1e5), {}, ValueError, "all 72 spots lie outside the image"),
        (changed("names", 0), {}, ValueError, "obs_names occur more than once, such as 'twice'"),
        (
            changed("tissue_hires_scalef", None),
            {},
            ValueError,
            r"images\['hires'\] has no scale: 'tissue_hires_scalef' is",
        ),
        (changed("tissue_lowres_scalef", 0), {}, ValueError, "'tissue_lowres_scalef' is 0"),
        (changed("spot_diameter_fullres", None), {}, ValueError, "with spot_diameter_px="),
        (changed("image", np.zeros((3, 10, 10), np.uint8)), {}, ValueError, r"array of shape \(3, 10, 10\)"),
        (changed("image", np.zeros((10, 10), np.uint8)), {}, ValueError, r"array of shape \(10, 10\)"),
        (changed("image", np.full((10, 10, 3), 900, np.uint16)), {}, ValueError, "array of uint16 from 900 to 900"),
        (changed("image", np.full((10, 10, 3), np.nan)), {}, ValueError, "array of float64 from nan"),
        (lambda a: a.uns.pop("spatial"), {"spot_diameter_px": 9}, ValueError, "Give one with image="),
        (
            lambda a: None,
            {"image": FULL[:1500]},
            ValueError,
            r"full of 2000 × 1500 and hires of 2000 × 2000 .* Is image=",
        ),
        (lambda a: None, {"image": FULL[::2, ::2]}, ValueError, r"full of 1000 × 1000 and hires of 2000 × 2000"),
        (changed("tissue_lowres_scalef", 0.11), {}, ValueError, r"lowres of 1818 × 1818 .* Check the scalefactors"),
        (lambda a: a.uns.update(spatial=3), {}, ValueError, r"uns\['spatial'\] is no dict"),
        (changed("obsm", lambda v: v / 2), {}, ValueError, r"130 px would overlap, as neighbours are 100 apart.*µm\?"),
        (lambda a: None, {"library_key": "no"}, KeyError, "library_key='no' is not in obs"),
        (lambda a: None, {"mpp": 0}, ValueError, "mpp=0: expected a positive number"),
        (lambda a: None, {"spot_diameter_px": "9"}, ValueError, "spot_diameter_px='9'"),
        (lambda a: None, {"image": 3}, TypeError, "image: got int"),
        (lambda a: None, {"image": "no.tif"}, FileNotFoundError, "there is no file 'no.tif'"),
    ],
)
def test_what_does_not_fit_is_refused(change, options, error, match):
    adata = visium()
    change(adata)
    with pytest.raises(error, match=match):
        sp.io.from_anndata(adata, **options)


def test_one_library_of_two_sections_is_refused():
    import anndata

    sections = [visium("A1"), visium("A1", seed=1)]
    joined = anndata.concat(sections, label="patient", index_unique="-", uns_merge="first")
    with pytest.raises(ValueError, match=r"72 of 144 spots have the array_row and array_col of another.*library_key="):
        sp.io.from_anndata(joined)
    joined.uns["spatial"] |= {"0": joined.uns["spatial"]["A1"], "1": joined.uns["spatial"].pop("A1")}
    assert sorted(sp.io.from_anndata(joined, library_key="patient").shapes) == ["0", "1"]


def test_the_layout_of_cellxgene():
    adata = visium()
    facts = adata.uns["spatial"]["A1"]
    facts["images"] = {"hires": facts["images"]["hires"], "fullres": FULL}
    del facts["scalefactors"]["tissue_lowres_scalef"]
    adata.uns["spatial"]["is_single"] = np.bool_(True)
    sdata = sp.io.from_anndata(adata)
    assert sorted(sdata.images) == ["A1_fullres_image", "A1_hires_image"]
    assert sdata.attrs["spade"]["mpp"]["A1_fullres_image"] == pytest.approx(0.5)


def test_masks_are_left_out_with_a_word():
    adata = visium()
    adata.uns["spatial"]["A1"]["images"]["segmentation"] = np.arange(100).reshape(10, 10)
    with warns_here(r"images\['segmentation'\] is a mask and no picture; it is left out"):
        sdata = sp.io.from_anndata(adata)
    assert sorted(sdata.images) == ["A1_hires_image", "A1_lowres_image"]


def test_no_spots_and_other_objects_are_refused():
    with pytest.raises(ValueError, match="adata has no spots"):
        sp.io.from_anndata(visium()[:0])
    with pytest.raises(TypeError, match="adata: got dict; expected an AnnData"):
        sp.io.from_anndata({})


def test_some_spots_off_the_image_warn():
    adata = visium()
    adata.obsm["spatial"][0] = [5000, 10]
    with warns_here("1 of 72 spots lie outside the image"):
        sp.io.from_anndata(adata)


def test_an_object_in_its_file_and_a_view_of_one(tmp_path):
    adata = visium()
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = sp.io.from_anndata(read_h5ad(tmp_path / "a.h5ad", backed="r"))
    assert (backed["table"].X != adata.X).nnz == 0
    part = sp.io.from_anndata(adata[10:40])
    assert part["A1"].index.tolist() == adata.obs_names[10:40].tolist()


@pytest.mark.realdata
def test_real_visium_as_scanpy_reads_it(data_dir, tmp_path):
    import scanpy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy's reader is deprecated, gene names repeat
        adata = scanpy.read_visium(data_dir / "visium/scanpy_v1", library_id="V1")
    adata.var_names_make_unique()
    sdata = sp.io.from_anndata(adata)
    hires = adata.uns["spatial"]["V1"]["images"]["hires"]
    pixels = sdata["V1_hires_image"]["scale0"]["image"].to_numpy()
    np.testing.assert_array_equal(pixels, np.moveaxis(np.round(255 * hires[..., :3]).astype(np.uint8), -1, 0))
    assert (sdata["table"].X != adata.X).nnz == 0
    placed = place(sdata, "V1", "V1", ["V1"], "V1_hires_image")
    scale = adata.uns["spatial"]["V1"]["scalefactors"]["tissue_hires_scalef"]
    np.testing.assert_allclose(placed.centres, adata.obsm["spatial"] * scale)
    sp.io.write(sdata, tmp_path / "v1.zarr")
