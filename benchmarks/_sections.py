"""Real sections: the olfactory bulb of two mice, and breast cancer of two patients."""

from __future__ import annotations

import spade as sp

TUMOURS = {"B4": "BT10737_D2_HE.jpg", "C2": "5714_HE_BT_C2.jpg", "C3": "5714_HE_BT_D1.jpg"}


def read_bulb(folder, name):
    """Read a section by its number: image and labels; section 11, of another animal, also has expression."""
    section = folder / f"MOB_{name}"
    counts = section / "Rep11_MOB_count_matrix-1.tsv.gz" if name == "11" else None
    return sp.io.read_st(counts, section / f"{name}.jpg", labels=section / f"{name}_01.tsv", sample_id=f"MOB_{name}")


def read_tumour(folder, name):
    """Read a section of patient B or C."""
    place = folder / name
    return sp.io.read_st(
        place / f"{name}.tsv.gz", place / TUMOURS[name], place / f"{name}_selection.tsv", sample_id=name
    )
