"""The output folder of Space Ranger for Visium: one section of some spots, and its image at full resolution."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from helpers.technologies.tenx import picture, rates, write_matrix

COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
#: Microns per pixel of the image, and rows and columns of spots.
MPP, N = 0.5, 9


def write_visium(folder: Path, image: Path) -> None:
    """Write the folder, and the image at full resolution."""
    spatial = folder / "spatial"
    spatial.mkdir(parents=True)
    row, step = np.divmod(np.arange(N * N), N)
    column, half = 2 * step + row % 2, 50 / MPP
    x, y = 200 + column * half, 200 + row * half * np.sqrt(3)
    side = int(max(x.max(), y.max())) + 200
    pixels = picture(side, side)
    tifffile.imwrite(image, pixels, photometric="rgb")
    for name, factor in (("hires", 0.25), ("lowres", 0.1)):
        Image.fromarray(pixels).resize((int(side * factor),) * 2).save(spatial / f"tissue_{name}_image.png")
    facts = {"tissue_hires_scalef": 0.25, "tissue_lowres_scalef": 0.1, "spot_diameter_fullres": 65 / MPP}
    (spatial / "scalefactors_json.json").write_text(json.dumps(facts | {"fiducial_diameter_fullres": 105 / MPP}))
    barcodes = np.array([f"SPOT{i:04d}-1" for i in range(N * N)])
    positions = pd.DataFrame(dict(zip(COLUMNS, (barcodes, 1, row, column, y, x), strict=True)))
    positions.to_csv(spatial / "tissue_positions.csv", index=False)
    counts = np.random.default_rng(0).poisson(2 * rates(step / N, row / N))
    write_matrix(folder / "filtered_feature_bc_matrix.h5", counts, barcodes)
