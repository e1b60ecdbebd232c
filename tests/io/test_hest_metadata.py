"""The table of HEST-1k and the samples that the authors of SPADE chose: the real table, and damaged ones."""

from __future__ import annotations

import csv
import logging

import pandas as pd
import pytest

import spade as sp

HEADER = "id,organ,species,st_technology,nb_genes"
ROWS = """A1,Skin,Homo sapiens,Visium,17943
A2,Skin,Homo sapiens,Visium HD,17943
A3,Skin,Mus musculus,Visium,17943
A4,Brain,Homo sapiens,Visium,17943
A5,Lung/Brain,Homo sapiens,Visium,17943
A6,Embryo,Homo sapiens,Visium,17943
A7,Lung,Homo sapiens,Visium,10000
A8,Lung,Homo sapiens,Visium,10001
INT17,Kidney,Homo sapiens,Visium,17943
A9,,Homo sapiens,Visium,17943
007,Lung,Homo sapiens,Visium,20000"""


def written(folder, text, name="HEST_v1_1_0.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.realdata
def test_the_real_table_gives_the_samples_of_the_authors(data_dir):
    path = data_dir / "hest" / "HEST_v1_1_0.csv"
    if not path.is_file():
        pytest.skip("the table of HEST-1k is not there")
    frame = sp.io.read_hest_metadata(path)
    assert frame.shape == (1229, 28)
    assert list(frame)[:2] == ["dataset_title", "id"]  # without the byte order mark of the file
    assert sp.io.read_hest_metadata(path.parent).equals(frame)
    chosen = sp.io.spade_samples(frame)
    with path.open(encoding="utf-8-sig", newline="") as file:  # counted by hand, without pandas
        wanted = [
            row["id"]
            for row in csv.DictReader(file)
            if row["species"] == "Homo sapiens" and row["st_technology"] == "Visium"
            and row["organ"] not in ("Brain", "Embryo") and int(row["nb_genes"]) > 10_000
            and row["id"] not in ("INT17", "NCBI854", "NCBI855", "TENX28")
        ]  # fmt: skip
    assert chosen["id"].tolist() == wanted
    assert (len(wanted), chosen["organ"].nunique()) == (374, 15)  # as many organs as the paper names
    test = chosen[chosen["split"] == "test"]["organ"].value_counts().to_dict()
    tenths = {"Bowel": 7, "Skin": 6, "Kidney": 6, "Heart": 4, "Lung": 4, "Prostate": 4, "Uterus": 2}
    assert test == tenths | {"Liver": 1, "Breast": 1, "Eye": 1}


def test_every_clause_leaves_out_its_sample(tmp_path):
    frame = sp.io.read_hest_metadata(written(tmp_path, f"\ufeff{HEADER}\n{ROWS}\n"))
    assert sp.io.spade_samples(frame)["id"].tolist() == ["A1", "A8", "007"]


def many(**columns):
    frame = pd.DataFrame({"id": [f"S{i:02d}" for i in range(40)], "organ": ["Skin", "Lung"] * 20})
    return frame.assign(species="Homo sapiens", st_technology="Visium", nb_genes=18_000, **columns)


def test_a_tenth_of_every_organ_whatever_the_order_of_rows(caplog):
    frame = many(patient=["a", "b"] * 20)
    with caplog.at_level(logging.INFO, logger="spade"):
        dealt = sp.io.spade_samples(frame)
    assert "40 of 40 samples, 4 of them test; patients in both parts: 2" in caplog.text
    assert dealt[dealt["split"] == "test"]["organ"].value_counts().to_dict() == {"Skin": 2, "Lung": 2}
    assert "split" not in frame
    again = sp.io.spade_samples(frame[::-1])
    assert again.set_index("id")["split"].sort_index().equals(dealt.set_index("id")["split"])
    draws = {tuple(sp.io.spade_samples(frame, rng=seed)["split"]) for seed in range(5)}
    assert len(draws) > 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,organ\nA,B\n", r"HEST_v1_1_0\.csv': the columns \['species', 'st_technology', 'nb_genes'\] are missing"),
        (f"{HEADER}\n{ROWS}\nA1,Skin,Homo sapiens,Visium,2\n", r"every sample has one row and an id, but .*'A1'"),
        (f"{HEADER}\n{ROWS}\n,Skin,Homo sapiens,Visium,2\n", "1 rows have no id"),
        (f"{HEADER}\nA1,Skin,Homo sapiens,Visium,many\n", "nb_genes is not a number everywhere, but also 'many'"),
        ("", r"HEST_v1_1_0\.csv.* cannot be read as a table of samples"),
    ],
    ids=["columns", "twice", "no id", "genes", "empty"],
)
def test_damaged_tables_are_named(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        sp.io.read_hest_metadata(written(tmp_path, text))


def test_where_the_table_is_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no table HEST_v\*\.csv"):
        sp.io.read_hest_metadata(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        sp.io.read_hest_metadata(tmp_path / "a.csv")
    for name in ("HEST_v1_0_0.csv", "HEST_v1_1_0.csv"):
        written(tmp_path, f"{HEADER}\n{ROWS}\n", name)
    with pytest.raises(ValueError, match=r"several tables, 'HEST_v1_0_0\.csv', 'HEST_v1_1_0\.csv'; name one file"):
        sp.io.read_hest_metadata(tmp_path)


def test_what_cannot_be_chosen_from():
    with pytest.raises(TypeError, match="metadata: got list; expected the table that"):
        sp.io.spade_samples([{"id": "A"}])
    with pytest.raises(ValueError, match="already has a column 'split'"):
        sp.io.spade_samples(many(split="train"))
    with pytest.raises(ValueError, match="none of 40 samples is human, Visium"):
        sp.io.spade_samples(many().assign(nb_genes=9))
