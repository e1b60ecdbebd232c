"""HEST samples without patient: each is a patient of its own, so that a split by patient works."""

from __future__ import annotations

import json
import logging
import math

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.sparse import csr_matrix

import spade as sp


def hest_folder(folder, name, **metadata):
    for part in ("wsis", "st", "metadata"):
        (folder / part).mkdir(exist_ok=True)
    Image.fromarray(np.full((300, 300, 3), 200, np.uint8)).save(folder / "wsis" / f"{name}.tif")
    facts = {"st_technology": "Xenium", "pixel_size_um_estimated": 1.0, **metadata}
    (folder / "metadata" / f"{name}.json").write_text(json.dumps(facts))
    x, y = np.meshgrid(np.arange(50, 300, 50), np.arange(50, 300, 50))
    adata = ad.AnnData(
        csr_matrix(np.ones((25, 3), dtype=np.float32)), obs=pd.DataFrame(index=[f"s{i}" for i in range(25)])
    )
    adata.obsm["spatial"] = np.column_stack([x.ravel(), y.ravel()]).astype(float)
    adata.write_h5ad(folder / "st" / f"{name}.h5ad")
    return folder


@pytest.mark.parametrize("patient", [{}, {"patient": None}, {"patient": ""}, {"patient": " NA"}, {"patient": math.nan}])
def test_a_sample_without_patient_is_its_own(tmp_path, patient, caplog):
    hest_folder(tmp_path, "A1", **patient)
    hest_folder(tmp_path, "B2", patient="Jane ")
    with caplog.at_level(logging.INFO, "spade"):
        samples = [sp.io.read_hest(tmp_path, name) for name in ("A1", "B2")]
    assert [set(sdata["table"].obs["patient"]) for sdata in samples] == [{"A1"}, {"Jane"}]
    assert "A1: the metadata names no patient" in caplog.text
    assert "B2" not in caplog.text
    sp.pp.split(samples, groupby="patient", fractions=(0.5, 0, 0.5))
    assert {part for sdata in samples for part in sdata["table"].obs["spade_split"].unique()} == {"train", "test"}
