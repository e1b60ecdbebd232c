"""A folder in the layout of HEST-1k for the tutorial, of sections whose public sources need no consent.

HEST-1k holds these sections too, under the names that they get here. Rows of its table are copied, so what the tutorial
does is what it does with the dataset itself.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import anndata as ad
import pandas as pd
import tifffile

import spade as sp

TABLE = "HEST_v1_1_0.csv"
#: Names in HEST-1k, and in :mod:`spade.datasets`.
BREAST, BULB = {"SPA145": "B4", "SPA141": "C2", "SPA140": "C3"}, {"SPA5": "MOB_11"}


def write_hest_folder(folder: Path) -> None:
    """Write the table and all files of the samples, unless they are there; results of earlier runs are removed."""
    for results in ("spade_stores", "both_species"):
        shutil.rmtree(folder / results, ignore_errors=True)
    if (folder / TABLE).is_file():
        return
    table = pd.read_csv(Path(os.environ["SPADE_DATA_DIR"]) / "hest" / TABLE, encoding="utf-8-sig")
    for kind in ("wsis", "st", "metadata"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    sections = sp.datasets.her2st([*BREAST.values()]) + sp.datasets.mob([*BULB.values()])
    for name, section in zip([*BREAST, *BULB], sections, strict=True):
        facts = json.loads(table.loc[table["id"] == name].iloc[0].to_json())
        image = section.images["image"]["scale0"]["image"].to_numpy().transpose(1, 2, 0)
        # these pictures are not those of HEST-1k, whose pixels have another size
        facts |= {"pixel_size_um_estimated": section.attrs["spade"]["mpp"]["image"]}
        facts |= {"fullres_px_height": image.shape[0], "fullres_px_width": image.shape[1]}
        tifffile.imwrite(folder / "wsis" / f"{name}.tif", image, tile=(512, 512), photometric="rgb")
        (folder / "metadata" / f"{name}.json").write_text(json.dumps(facts))
        spots = section.tables["table"]
        spots = ad.AnnData(
            spots.X, pd.DataFrame(index=spots.obs_names), spots.var[[]], obsm={"spatial": spots.obsm["spatial"]}
        )
        spots.write_h5ad(folder / "st" / f"{name}.h5ad")
    table.to_csv(folder / TABLE, index=False, encoding="utf-8-sig")
