"""Training: only what should be read is read, nothing is written, and the same call gives the same model."""

from __future__ import annotations

import copy
import re

import numpy as np
import pandas as pd
import pytest
from conftest import fresh
from helpers.sections import (
    FAST,
    GENES,
    arrays,
    assert_same,
    cohort,
    empty_rows,
    featured,
    no_warning,
    said_of,
    split,
    spoil,
    tiny,
    train,
    warns_here,
)

import spade as sp
from spade.core.expression.normalise import log_normalise
from spade.models import GenePanel

# --- what comes out


def test_the_model_knows_what_it_was_trained_on(trained):
    assert (trained.n_experts, trained.n_features, trained.n_genes, trained.dim) == (2, 8, 20, 8)
    assert trained.genes.names == GENES[:20]
    assert (trained.config.use_rep, trained.config.n_epochs, trained.config.seed) == ("X_f", 2, 0)
    assert trained.facts["samples"] == "a, b"
    assert (trained.facts["training_spots"], trained.facts["validation_spots"]) == (72, 0)
    history = trained.history
    assert history[["expert", "epoch"]].to_numpy().tolist() == [["0", 0], ["0", 1], ["1", 0], ["1", 1]]
    assert history.groupby("expert")["n_spots"].first().sum() == 72
    assert history["val_loss"].isna().all()
    assert np.isfinite(history["train_loss"]).all()


def test_losses_fall_where_image_and_expression_go_together():
    samples = cohort()
    for sample in samples:
        table = sample["table"]
        table.obsm["X_f"] = np.log1p(table.X[:, 40:48].toarray())
    for loss in ("soft_clip", "clip"):
        history = train(samples, n_epochs=40, loss=loss, learn_temperature=loss == "clip").history
        first, last = (history[history["epoch"] == epoch]["train_loss"].mean() for epoch in (0, 39))
        assert last < 0.85 * first


def test_samples_are_not_modified():
    samples = split(cohort())
    sp.pp.select_genes(samples, min_genes=1, n_top_genes=9)
    spoil(samples[0], "X_f", [12])
    empty_rows(samples[1], [13])
    before = [fresh(sample) for sample in samples]
    counts = [copy.deepcopy(sample["table"].X) for sample in samples]
    with pytest.warns(UserWarning, match="left out of training"):
        train(samples, genes=None, groupby="organ", split_key="fold")
    for sample, old, matrix in zip(samples, before, counts, strict=True):
        assert_same(sample, old)
        for name in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(sample["table"].X, name), getattr(matrix, name))


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(trained):
    assert arrays(train(cohort())) == arrays(trained)
    assert train(cohort()).id == trained.id
    assert train(cohort(), rng=1).id != trained.id
    drawn = [train(cohort(), rng=np.random.default_rng(5)) for _ in range(2)]
    assert drawn[0].id == drawn[1].id != trained.id
    assert train(cohort(), rng=drawn[0].config.seed).id == drawn[0].id  # what is recorded repeats it


def test_stores_and_generators_give_the_same_model(trained, tmp_path):
    samples = cohort()
    paths = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    for sample, path in zip(samples, paths, strict=True):
        sp.io.write(sample, path)
    assert train(path for path in paths).id == trained.id
    assert train(sample for sample in samples).id == trained.id


# --- which rows


def test_held_out_rows_are_never_read():
    samples, other = split(cohort()), split(cohort())
    for sample in other:
        spoil(sample, "X_f", [0, 1, 2, 3], 77.0)
        counts = sample["table"].X.tolil()
        counts[:4] = 9
        sample["table"].X = counts.tocsr()
    one, two = (train(each, split_key="fold", n_epochs=4) for each in (samples, other))
    assert one.id == two.id
    assert (one.facts["training_spots"], one.facts["validation_spots"]) == (52, 12)
    assert one.history["val_loss"].notna().all()
    # validation rows choose the epoch and nothing else
    for sample in other:
        spoil(sample, "X_f", [4, 5, 6, 7, 8, 9], sample["table"].obsm["X_f"][4:10][::-1] + 0.1)
    three = train(other, split_key="fold", n_epochs=4)
    np.testing.assert_array_equal(three.history["train_loss"], one.history["train_loss"])
    assert not three.history["val_loss"].equals(one.history["val_loss"])


def test_the_epoch_with_the_lowest_validation_loss_is_kept():
    model = train(split(cohort()), split_key="fold", n_epochs=6, lr=0.1)
    best = model.history.loc[model.history.groupby("expert")["val_loss"].idxmin(), "epoch"]
    assert model.facts["best_epochs"] == ", ".join(map(str, best))


@pytest.mark.parametrize("stored", [False, True])
def test_unusable_spots_are_left_out_and_counted(stored):
    samples, clean = cohort(), cohort()
    spoil(samples[0], "X_f", [1, 2])
    empty_rows(samples[0], [2, 5, 8], stored)
    clean[0].tables["table"] = clean[0]["table"][[i for i in range(36) if i not in (1, 2, 5, 8)]].copy()
    with (
        warns_here(r"2 spots without a valid patch are left out of training"),
        warns_here("2 spots without counts are left"),
    ):
        model = train(samples)
    assert arrays(model) == arrays(train(clean))


def test_values_may_be_normalised_already(trained):
    samples = cohort()
    for sample in samples:
        sample["table"].layers["log"] = log_normalise(sample["table"].X)
        sample["table"].X = sample["table"].X * 0.5
    with pytest.raises(ValueError, match=r"a: X has values that are not whole numbers.*layer=.*normalized=True"):
        train(samples)
    model = train(samples, layer="log", normalized=True)
    assert arrays(model) == arrays(trained)
    assert (model.config.layer, model.config.normalized) == ("log", True)


def test_a_spot_or_two_per_expert_is_enough():
    model = train(featured(5), n_prototypes=4, n_experts=4)
    assert np.isfinite(model.encode_image(featured(5)["table"].obsm["X_f"])).all()


# --- genes


def test_marked_genes_are_used():
    samples = cohort()
    panel = sp.pp.select_genes(samples, min_genes=1, n_top_genes=9)
    assert train(samples, genes=None).genes.names == panel.names
    samples[1]["table"].var["spade_gene"] = ~samples[1]["table"].var["spade_gene"]
    with pytest.raises(
        ValueError, match=rf"var\['spade_gene'\] differs between samples \(a: {len(panel)}, b: {60 - len(panel)}\)"
    ):
        train(samples, genes=None)


def test_a_dropped_sample_is_left_out_of_training_too(trained):
    mouse = featured(name="mouse", genes=[name.lower() for name in GENES])
    samples = [*cohort(), mouse]
    with pytest.warns(UserWarning, match="mouse: left out of gene selection"):
        panel = sp.pp.select_genes(samples, on_few_common="drop", min_genes=20, n_top_genes=9)
    with warns_here(r"mouse: left out of training, as when the genes were selected"):
        model = train(samples, genes=panel)
    assert model.facts["samples"] == "a, b"
    assert arrays(model) == arrays(train(samples[:2], genes=panel))
    with pytest.raises(ValueError, match="none is left to train on; all were dropped"):
        train(mouse, genes=panel)


@pytest.mark.parametrize("given", [True, False])
def test_a_dropped_sample_is_left_out_even_if_it_has_the_genes_chosen(given):
    """The third lacks most genes, but none of those that vary most."""
    samples = [*cohort(), featured(name="c")]
    panel = sp.pp.select_genes(samples[:2], min_genes=1, n_top_genes=9)
    few = samples[2]["table"][:, sorted({*panel.names, *GENES[:5]})].copy()
    del samples[2].tables["table"]
    samples[2].tables["table"] = few
    with pytest.warns(UserWarning, match="c: left out of gene selection and training"):
        panel = sp.pp.select_genes(samples, on_few_common="drop", min_genes=50, n_top_genes=9)
    assert set(panel.names) <= set(few.var_names)
    with warns_here(r"c: left out of training, as when the genes were selected"):
        model = train(samples, genes=panel if given else None)
    assert model.facts["samples"] == "a, b"
    assert train(samples, genes=panel.names).facts["samples"] == "a, b, c"  # names alone drop nothing


@pytest.mark.parametrize(
    ("genes", "error", "said"),
    [
        (
            None,
            ValueError,
            r"no sample has var\['spade_gene'\]: choose genes with sp\.pp\.select_genes\(samples\), or pass a list",
        ),
        ([], ValueError, "the gene panel is empty"),
        (["G01", "G01"], ValueError, r"occur more than once in the panel, such as \['G01'\]"),
        ("G01", TypeError, "expected a GenePanel or a list of gene names, got one string"),
        (
            ["G01", "g02", "G99"],
            ValueError,
            r"every sample, but a lacks 2 of 3, b lacks 2 of 3. Names are matched "
            r"exactly. Are the samples of different spec",
        ),
        (GenePanel(("Sox2",)), ValueError, r"a lacks 1 of 1.*sp\.pp\.select_genes"),
    ],
)
def test_genes_must_be_there(genes, error, said):
    with pytest.raises(error, match=said):
        train(cohort(), genes=genes)


# --- wrong input


@pytest.mark.parametrize(
    ("spoiled", "error", "said"),
    [
        (lambda s: s[1]["table"].obsm.pop("X_f"), KeyError, r"b: use_rep='X_f' is not in obsm; there is nothing"),
        (lambda s: spoil(s[1], "X_f", (3, 2)), ValueError, r"b: .* has NaN in part of 1 rows, such as 's03'"),
        (lambda s: spoil(s[1], "X_f", (3, 2), np.inf), ValueError, r"b: obsm\['X_f'\] has infinite values"),
        (
            lambda s: s[1]["table"].obsm.update(X_f=np.ones((36, 5), np.float32)),
            ValueError,
            r"differs in width between samples \(a: 8, b: 5\). Encode all of them alike",
        ),
        (lambda s: s[1].attrs.update(s[0].attrs), ValueError, r"two sections are named 'a'; give each its own name"),
        (
            lambda s: s.append(tiny(name="c", genes=())),
            ValueError,
            r"c: has no expression \(table of width 0\).*leave it out",
        ),
        (
            lambda s: [spoil(one, "X_f", slice(None)) for one in s],
            ValueError,
            r"no spot is left to train on among 0 usable",
        ),
    ],
)
def test_samples_that_cannot_be_trained_on_are_refused(spoiled, error, said):
    samples = cohort()
    spoiled(samples)
    with pytest.raises(error, match=said), np.testing.suppress_warnings() as sup:
        sup.filter(UserWarning)
        train(samples)


def test_features_of_another_encoder_are_refused():
    samples = cohort()
    said_of(samples[0], encoder="uni", encoder_id="abc")
    said_of(samples[1], encoder="virchow2", encoder_id="def")
    said = (
        r"b: obsm\['X_f'\] comes from encoder 'virchow2' \(id def\), but .* from "
        r"encoder 'uni' \(id abc\). Encode .*same encoder"
    )
    with pytest.raises(ValueError, match=said):
        train(samples)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"loss": "infonce"}, ValueError, r"loss='infonce': expected one of 'soft_clip', 'clip'"),
        ({"learn_temperature": True}, ValueError, r"learn_temperature=True needs loss=\"clip\""),
        ({"temperature": 0}, ValueError, r"temperature=0: expected a positive number"),
        ({"n_epochs": 0}, ValueError, r"n_epochs=0: expected a whole number of at least 1"),
        ({"batch_size": 0}, ValueError, r"batch_size=0"),
        ({"lr": -1e-3}, ValueError, r"lr=-0\.001: expected a positive number"),
        ({"weight_decay": -1}, ValueError, r"weight_decay=-1"),
        ({"dropout": 1.0}, ValueError, r"dropout=1\.0: expected a number from 0 to below 1"),
        ({"dim": 0}, ValueError, r"dim=0"),
        ({"precision": "fp16"}, ValueError, r"precision='fp16': expected one of 'fp32', 'bf16'"),
        ({"device": "tpu9000"}, ValueError, r"device='tpu9000' is not a torch device"),
        ({"n_experts": 0}, ValueError, r"n_experts=0"),
        ({"n_experts": 9}, ValueError, r"n_experts=9 is more than the number of prototypes, 4"),
        ({"feature_scaling": "max"}, ValueError, r"feature_scaling='max'"),
        ({"routing_temperature": -1}, ValueError, r"routing_temperature=-1: expected a positive number"),
        ({"layer": "raw"}, KeyError, r"a: layer='raw' is not there; layers: none"),
        ({"groupby": "donor"}, KeyError, r"a: groupby='donor' is not in obs"),
        ({"split_key": "fold"}, KeyError, r"a: split_key='fold' is not in obs; columns: "),
        (
            {"split_key": "patient"},
            ValueError,
            r"a: obs\['patient'\] has the values 'p_a'; expected 'train', 'val' and 'test'",
        ),
        ({"rng": 1.5}, TypeError, r"rng=1\.5"),
        ({"lr": 1e30}, FloatingPointError, r"expert 0: the loss is nan in epoch 0. Lower lr=1e\+30"),
    ],
)
def test_settings_are_checked(options, error, said):
    with pytest.raises(error, match=said):
        train(cohort(), **options)


def test_a_split_without_training_rows_is_refused():
    samples = cohort()
    for sample in samples:
        sample["table"].obs["fold"] = pd.Categorical(["test"] * 36)
    with pytest.raises(ValueError, match=r"no spot is left to train on among 72 usable spots \(split_key='fold'\)"):
        train(samples, split_key="fold")


def test_half_precision_trains_close_by(trained):
    with no_warning():
        half = train(cohort(), precision="bf16")
    assert half.config.precision == "bf16"
    assert arrays(half) != arrays(trained)
    np.testing.assert_allclose(half.history["train_loss"], trained.history["train_loss"], rtol=0.05)


def test_defaults_are_those_of_the_settings():
    import inspect

    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(sp.tl.train_spade).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    config = sp.models.SpadeConfig()
    by_spots = {"n_prototypes", "n_experts", "n_epochs", "batch_size", "lr", "warm_start"}
    for name in set(defaults) & set(vars(config)) - {"precision", "use_rep"}:
        assert defaults[name] == (None if name in by_spots else getattr(config, name)), name
    assert set(FAST) <= set(defaults)


def test_the_card_names_licence_and_losses(tmp_path):
    samples = split(cohort())
    for sample in samples:
        said_of(sample, encoder="virchow2", encoder_id="def")
    model = train(samples, split_key="fold")
    model.save(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"| licence of the encoder | {sp.encoders.available()['virchow2'].licence} |" in card
    assert re.search(r"\| loss of the best epochs \| train \d\.\d+ / \d\.\d+, val \d\.\d+ / \d\.\d+ \|", card)


def test_numbers_of_numpy_are_numbers(trained, tmp_path):
    settings = {"n_epochs": np.int64(2), "n_prototypes": np.int32(4), "lr": np.float64(1e-2), "dim": np.uint8(8)}
    model = train(cohort(), **settings)
    assert model.id == trained.id
    model.save(tmp_path / "model")
    assert sp.models.SpadeModel.load(tmp_path / "model").id == trained.id
    for name, value in (("n_epochs", 2.0), ("n_prototypes", 4.5), ("batch_size", "16"), ("n_experts", True)):
        with pytest.raises(ValueError, match=rf"{name}={value!r}: expected a whole number"):
            train(cohort(), **{name: value})


def test_a_dropped_name_does_not_leave_out_a_sample_that_fits(trained):
    mouse = featured(name="", genes=[name.lower() for name in GENES])
    one, two = featured(name=""), featured(name="", seed=1)
    with pytest.warns(UserWarning, match="sample [0-9a-f]{6}: left out of gene selection"):
        panel = sp.pp.select_genes([mouse, one, two], on_few_common="drop", min_genes=20, n_top_genes=9)
    assert train([one, two], genes=panel).facts["training_spots"] == 72
    with warns_here("sample [0-9a-f]{6}: left out of training"):
        assert train([mouse, one, two], genes=None).facts["training_spots"] == 72


def test_species_are_not_mixed_over_the_few_names_they_share():
    human = featured(name="human", genes=[f"H{i}" for i in range(600)])
    mouse = featured(name="mouse", genes=[f"H{i}" if i < 6 else f"m{i}" for i in range(600)])
    said = (
        r"only 6 gene names in common, fewer than 50 \(human: 600 genes such as H0.*mouse: "
        r"600 .*different species.*Train them apart"
    )
    with pytest.raises(ValueError, match=said):
        train([human, mouse], genes=[f"H{i}" for i in range(6)])


def test_features_on_disk_give_the_same_model_and_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    samples = [featured(name="a"), featured(name="b", seed=1, n=24)]
    for sdata in samples:
        spoil(sdata, "X_f", [3])
    with pytest.warns(UserWarning, match="without a valid patch"):
        there, on_disk = (train(samples, on_disk=on_disk) for on_disk in (False, True))
    assert there.id == on_disk.id  # a digest of all weights
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="on_disk='yes'"):
        train(samples, on_disk="yes")
