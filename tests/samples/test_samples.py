"""What a user may pass as samples, and what is read from them."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from geopandas import GeoDataFrame
from helpers.sections import GENES, circles, featured, picture, square_lattice, table, tiny
from scipy.sparse import csc_matrix, csr_array, csr_matrix
from shapely import box
from spatialdata import SpatialData

import spade as sp
from spade._samples.counts import has_counts, read_counts
from spade._samples.features import read_features
from spade._samples.obs import categorical, group_labels, obs_column, value_strings
from spade._samples.open import iter_samples
from spade._samples.sample import check_names
from spade.pl._attention import attention_keys


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    for name in ("left", "right"):
        sp.io.write(tiny(6, name=""), folder / f"{name}.zarr")
    return folder / "left.zarr", folder / "right.zarr"


def opened(samples, **kwargs):
    return list(iter_samples(samples, **kwargs))


def one(sdata):
    return next(iter_samples(sdata))


FORMS = {
    "object": lambda a, b: a,
    "list": lambda a, b: [a, b],
    "tuple": lambda a, b: (a, b),
    "generator": lambda a, b: (item for item in (a, b)),
    "dict values": lambda a, b: {"x": a, "y": b}.values(),
}


@pytest.mark.parametrize("form", FORMS)
def test_objects_in_any_form_stay_the_same_objects(form):
    a, b = tiny(6, name="a"), tiny(6, name="b")
    found = opened(FORMS[form](a, b))
    assert [sample.sdata for sample in found] == ([a] if form == "object" else [a, b])
    assert all(sample.path is None for sample in found)


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_paths_are_opened_and_named_by_their_store(stores, kind):
    left, right = (kind(path) for path in stores)
    assert [sample.name for sample in opened(left)] == ["left"]
    found = opened(path for path in (left, right))
    assert [sample.name for sample in found] == ["left", "right"]
    assert [sample.path for sample in found] == list(stores)


def test_objects_and_paths_may_be_mixed_and_are_opened_one_at_a_time(stores):
    iterator = iter_samples([tiny(6), stores[0]])
    assert [next(iterator).name, next(iterator).name] == ["tiny", "left"]
    with pytest.raises(FileNotFoundError, match=r"no store at 'no/such.zarr'"):
        next(iter_samples([tiny(6), "no/such.zarr"]))  # before the first is worked on
    with pytest.raises(ValueError, match="listed more than once"):
        opened([stores[0], stores[0].parent / "." / "left.zarr"])


def test_names_are_recorded_ones_or_stores_or_come_from_the_content(stores):
    one_spot, another = (SpatialData(tables={"table": table([name])}) for name in ("a", "b"))
    first, second = (sample.name for sample in opened([one_spot, another]))
    assert first != second
    assert re.fullmatch("sample [0-9a-f]{6}", first)
    assert [sample.name for sample in opened([another, one_spot])] == [second, first]
    assert one(one_spot).name == first
    assert one(tiny(6, name="biopsy")).name == "biopsy"
    with pytest.raises(ValueError, match=f"two samples are named '{first}'"):
        check_names([first, one(SpatialData(tables={"table": table(["a"])})).name])


def test_a_name_from_the_content_is_kept_once_something_was_written():
    sdata = tiny(6, name="")
    name = one(sdata).name
    sp.pp.patches(sdata, mpp=0.5, size_um=20)
    sdata.tables["table"] = sdata["table"][:3].copy()
    assert one(sdata).name == sdata.attrs["spade"]["sample"] == name


@pytest.mark.parametrize(
    ("samples", "error", "said"),
    [
        (
            lambda: tiny(6)["table"],
            TypeError,
            r"got AnnData; expected a SpatialData, a path \(of a \.zarr store, a folder",
        ),
        (lambda: [tiny(6), tiny(6)["table"]], TypeError, r"item 1 is AnnData; expected a SpatialData"),
        (lambda: None, TypeError, r"got NoneType; expected a SpatialData"),
        (lambda: 3, TypeError, r"got int; expected"),
        (lambda: [np.zeros(3)], TypeError, r"item 0 is ndarray"),
        (lambda: [], ValueError, r"samples is empty; expected a SpatialData"),
        (lambda: iter(()), ValueError, r"samples is empty"),
        (lambda: 2 * [tiny(6)], ValueError, r"same object or path is listed more than once"),
        (lambda: __file__, ValueError, r"test_samples\.py' is not a zarr store. Expected a SpatialData"),
    ],
)
def test_anything_else_is_refused(samples, error, said):
    with pytest.raises(error, match=said):
        opened(samples())


def test_the_table_is_found_or_named():
    sdata = tiny(6)
    assert one(sdata).table_key == "table"
    sdata.tables["other"] = table(list(sdata["spots"].index), GENES[:3])
    with pytest.raises(
        ValueError, match=r"tiny: there are several tables, 'other', 'table'|'table', 'other'; choose one w"
    ):
        opened(sdata)
    assert opened(sdata, table_key="other")[0].table.n_vars == 3
    with pytest.raises(KeyError, match=r"table_key='counts' is not there; tables: 'table', 'other'"):
        opened(sdata, table_key="counts")


@pytest.mark.parametrize(
    "verb",
    [
        lambda s: sp.pp.encode_patches(s),
        lambda s: sp.pp.select_genes(s),
        lambda s: sp.pp.split(s),
        lambda s: sp.tl.cluster_experts(s, use_rep="X_f"),
        lambda s: sp.tl.train_spade(s, use_rep="X_f", genes=["G00"]),
    ],
)
def test_an_object_without_table_says_how_to_get_one(verb):
    sdata = SpatialData(images={"image": picture()}, shapes={"spots": circles(square_lattice(6))})
    with pytest.raises(ValueError, match=r"there is no table.*pp\.patches\(samples, shapes_key=\.\.\.\) makes one"):
        verb(sdata)


def test_several_regions_are_several_sections():
    sdata = tiny(6, name="block")
    ids = [f"s{i:02d}" for i in range(6)]
    sdata.shapes["more"] = circles(square_lattice(6))
    sdata.tables["table"] = table(ids * 2, region=["spots"] * 6 + ["more"] * 6)  # the same ids in both regions
    sample = one(sdata)
    assert [(s.name, list(s.rows)) for s in sample.sections] == [
        ("block/more", list(range(6, 12))),
        ("block/spots", list(range(6))),
    ]
    assert list(sample.section_of_row()) == ["block/spots"] * 6 + ["block/more"] * 6


def test_duplicated_instance_ids_are_refused():
    sdata = tiny(6)
    sdata["table"].obs["spot_id"] = ["s00", "s01", "s00", "s03", "s04", "s01"]
    with pytest.raises(
        ValueError, match=r"tiny: .*'spot_id'\] has 2 instance ids more than once .*'s00', 's01'.*make them unique"
    ):
        sp.pp.patches(sdata)


def test_a_table_that_annotates_nothing_says_how_to_parse_it():
    sdata = SpatialData(tables={"table": AnnData(np.ones((3, 2), np.float32))})
    with pytest.raises(ValueError, match=r"annotates no shapes .*TableModel\.parse\(table, region="):
        sp.pp.split(sdata, groupby=None, fractions=(1, 0, 0))


COUNTS = np.array([[0, 2, 1], [3, 0, 0]])


def counted(matrix, **layers):
    genes = [f"g{i}" for i in range(3)]
    adata = table(["a", "b"], genes, counts=COUNTS)
    adata.X = matrix
    for key, value in layers.items():
        adata.layers[key] = value
    return one(SpatialData(tables={"table": adata}, attrs={"spade": {"sample": "tiny"}}))


@pytest.mark.parametrize(
    "kind",
    [
        np.asarray,
        csr_matrix,
        csc_matrix,
        csr_array,
        lambda x: x.astype(np.int64),
        lambda x: csr_matrix(x.astype(float)),
    ],
)
def test_counts_come_from_any_kind_of_matrix(kind):
    got = read_counts(counted(kind(COUNTS)))
    assert isinstance(got, csr_matrix)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.toarray(), COUNTS)
    np.testing.assert_array_equal(read_counts(counted(None, raw=kind(COUNTS)), "raw").toarray(), COUNTS)


@pytest.mark.parametrize(
    ("value", "said", "passes_as_normalised"),
    [
        (np.nan, r"tiny: X has 1 values that are NaN or infinite", False),
        (np.inf, r"tiny: X has 1 values that are NaN or infinite", False),
        (-1, r"X has negative values \(lowest -1\), but raw counts are expected.*layer=.*normalized=True", True),
        (0.5, r"X has values that are not whole numbers \(such as 0\.5\), but raw.*layer=.*normalized=True", True),
    ],
)
def test_what_cannot_be_counts_is_refused(value, said, passes_as_normalised):
    matrix = COUNTS.astype(np.float32)
    matrix[1, 0] = value
    for form in (matrix, csr_matrix(matrix)):
        with pytest.raises(ValueError, match=said):
            read_counts(counted(form))
        if passes_as_normalised:
            np.testing.assert_array_equal(read_counts(counted(form), normalized=True).toarray(), matrix)
        else:
            with pytest.raises(ValueError, match=said):
                read_counts(counted(form), normalized=True)


def test_a_layer_must_be_there():
    with pytest.raises(KeyError, match=r"tiny: layer='raw' is not there; layers: 'counts'"):
        read_counts(counted(COUNTS, counts=COUNTS), "raw")
    with pytest.raises(ValueError, match=r"X of tables\['table'\] is empty; name a layer="):
        read_counts(counted(None))


def test_duplicated_gene_names_are_refused():
    sample = counted(COUNTS)
    sample.table.var_names = ["g0", "g1", "g0"]
    with pytest.raises(ValueError, match=r"1 gene names occur more than once, such as 'g0'.*var_names_make_unique"):
        read_counts(sample)


@pytest.mark.parametrize(
    "kind", [lambda x: x, csr_matrix, lambda x: pd.DataFrame(x, index=[f"s{i:02d}" for i in range(6)])]
)
def test_features_come_from_any_kind_of_matrix(kind):
    sdata = featured(6)
    values = sdata["table"].obsm["X_f"].astype(np.float64)
    sdata["table"].obsm["X_f"] = kind(values)
    got = read_features(one(sdata), "X_f")
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, values.astype(np.float32))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda x: x[:, :0], ValueError, r"obsm\['X_f'\] has shape \(6, 0\); expected \(n_obs, d\)"),
        (
            lambda x: np.where(np.arange(8) == 3, np.inf, x),
            ValueError,
            r"has infinite values. Encode the patches again",
        ),
        (
            lambda x: np.where(np.eye(6, 8) > 0, np.nan, x),
            ValueError,
            r"has NaN in part of 6 rows, such as 's00', 's01', 's02'.*Only rows without a valid patch may be NaN",
        ),
    ],
)
def test_features_that_cannot_be_right_are_refused(change, error, said):
    sdata = featured(6)
    sdata["table"].obsm["X_f"] = change(sdata["table"].obsm["X_f"])
    with pytest.raises(error, match=said):
        read_features(one(sdata), "X_f")


def test_missing_keys_name_what_there_is():
    sample = one(featured(6))
    with pytest.raises(KeyError, match=r"use_rep='X_uni' is not in obsm; there is 'X_f'.*sp\.pp\.encode_patches"):
        read_features(sample, "X_uni")
    with pytest.raises(
        KeyError, match=r"groupby='donor' is not in obs; columns: 'region', 'spot_id', 'patient', 'organ'"
    ):
        obs_column(sample, "donor", "groupby")


def test_groups_must_be_known_for_every_spot():
    sample = one(tiny(6))
    sample.table.obs["patient"] = pd.Categorical(["a", None, "b", None, "a", "b"])
    with pytest.raises(ValueError, match=r"obs\['patient'\] is missing for 2 of 6 spots. Fill it in"):
        group_labels(sample, "patient")
    assert list(group_labels(sample, None)) == ["tiny"] * 6


def test_categoricals_have_missing_values_where_there_is_no_text():
    got = categorical(np.array(["b", "", "a"]), ["a", "b", "c"])
    assert list(got.categories) == ["a", "b", "c"]
    assert list(got.codes) == [1, -1, 0]


def test_stores_that_are_named_alike_are_told_apart_by_their_folder(tmp_path):
    for folder in "ab":
        sample = tiny(name="")
        sp.io.write(sample, tmp_path / folder / "data.zarr")
    both = [tmp_path / folder / "data.zarr" for folder in "ab"]
    assert [sample.name for sample in opened(both)] == ["a/data", "b/data"]
    assert [sample.name for sample in opened(both[0])] == ["data"]
    sp.pp.select_genes(both, min_genes=1)


def test_any_object_can_be_given_a_name():
    sample = tiny(name="")
    sample.attrs["spade"] = {"sample": "mine"}
    assert [one.name for one in opened(sample)] == ["mine"]
    sp.pp.patches(sample, mpp=1.0)


def test_x_can_be_named_like_a_layer():
    sample = tiny()
    (one,) = opened(sample)
    np.testing.assert_array_equal(read_counts(one, "X").toarray(), sample["table"].X.toarray())
    sample["table"].layers["X"] = sample["table"].X * 2
    np.testing.assert_array_equal(read_counts(one, "X").toarray(), 2 * sample["table"].X.toarray())


def test_values_that_cancel_out_are_values():
    counts = csr_matrix(np.array([[1.0, -1.0], [0.0, 0.0], [0.0, 2.0]]))
    assert has_counts(counts).tolist() == [True, False, True]


def test_whole_numbers_have_one_name_with_and_without_missing_values():
    assert value_strings(pd.Series([1, 12])).tolist() == ["1", "12"]
    assert value_strings(pd.Series([1, np.nan, 12])).tolist() == ["1", "", "12"]
    assert value_strings(pd.Series([1.5, np.nan])).tolist() == ["1.5", ""]


def test_what_is_written_beside_a_result_is_outdated_with_it(cohort, model):
    for sample in cohort:
        sample["table"].obs["mine"] = sample["table"].obs["domain"]
    drawn = GeoDataFrame({"label": ["tissue"]}, geometry=[box(0, 0, 5000, 5000)])
    genes = list(cohort[0]["table"].var_names[:5])
    sp.pp.label_patches(cohort, {one.attrs["spade"]["sample"]: drawn for one in cohort})
    sp.tl.cluster_experts(cohort, use_rep="X_texture", n_prototypes=3, n_experts=2, key_added="coarse")
    sp.tl.embed(cohort, model)
    sp.tl.routing_scores(cohort, model)
    sp.tl.annotate(cohort, label_key="mine", use_rep="X_texture")
    sp.tl.attention(cohort, label_key="organ", use_rep="X_texture", n_epochs=1, groupby=None)
    sp.tl.predict_expression(cohort[1], reference=cohort[:1], method="ridge", use_rep="X_texture", genes=genes)
    assert attention_keys(one(cohort[1])) == ["organ_attention"]
    beside = ["label_share", "coarse_prototype", "spade_expert_weights", "spade_entropy", "mine_predicted_uncertainty"]
    beside += ["mine_predicted_probability", "organ_attention_predicted", "X_predicted_deviation"]
    for key in beside:
        one(cohort[1]).check_current(key)
    sp.pp.patches(cohort, size_um=80)
    for key in beside:
        with pytest.raises(ValueError, match=f"'{key}' was made from .*which sp.pp.patches has written anew since"):
            one(cohort[1]).check_current(key)
