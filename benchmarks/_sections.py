"""Real sections: the olfactory bulb of two mice, breast cancer of two patients, and the spinal cord of two mice."""

from __future__ import annotations

import spade as sp

TUMOURS = {"B4": "BT10737_D2_HE.jpg", "C2": "5714_HE_BT_C2.jpg", "C3": "5714_HE_BT_D1.jpg"}


def read_bulb(folder, name):
    """Read a section by its number: image and labels; section 11, of another animal, also has expression."""
    section = folder / f"MOB_{name}"
    counts = section / "Rep11_MOB_count_matrix-1.tsv.gz" if name == "11" else None
    return sp.io.read_st(counts, section / f"{name}.jpg", labels=section / f"{name}_01.tsv", sample_id=f"MOB_{name}")


def read_tumour(folder, name, *, labels=False):
    """Read a section of patient B or C, with regions if asked for."""
    place = folder / name
    files = place / f"{name}.tsv.gz", place / TUMOURS[name], place / f"{name}_selection.tsv"
    regions = folder / "derived_labels" / f"{name}_transferred_labels.tsv" if labels else None
    return sp.io.read_st(*files, labels=regions, sample_id=name)


def read_cord(folder, name):
    """Read a section of spinal cord; two of them, of one animal, lie on one image."""
    slide = folder / name[:7]
    files = slide / f"{name}_stdata_aligned_counts_IDs.txt", slide / f"{slide.name}_HE.jpg"
    return sp.io.read_st(*files, sample_id=name, duplicated_genes="sum")
