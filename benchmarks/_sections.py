"""Real sections: the olfactory bulb of two mice, breast cancer of two patients, and the spinal cord of two mice."""

from __future__ import annotations

import os
from unittest.mock import patch

import spade as sp

TUMOURS = ("B4", "C2", "C3")


def read_bulb(folder, name):
    """Read a section by its number: image and labels; section 11, of another animal, also has expression."""
    section = folder / f"MOB_{name}"
    counts = section / "Rep11_MOB_count_matrix-1.tsv.gz" if name == "11" else None
    return sp.io.read_st(counts, section / f"{name}.jpg", labels=section / f"{name}_01.tsv", sample_id=f"MOB_{name}")


def read_tumour(folder, name, *, labels=False):
    """Read a section of patient B or C, with regions if asked for."""
    with patch.dict(os.environ, {"SPADE_DATA_DIR": str(folder.parent)}):
        (section,) = sp.datasets.her2st(name, labels=labels)
    return section


def read_cord(folder, name):
    """Read a section of spinal cord; two of them, of one animal, lie on one image."""
    slide = folder / name[:7]
    files = slide / f"{name}_stdata_aligned_counts_IDs.txt", slide / f"{slide.name}_HE.jpg"
    return sp.io.read_st(*files, sample_id=name, duplicated_genes="sum")
