"""What slides in TIFF state of their scale and objective."""

from __future__ import annotations

import pytest
from helpers.scans.wsi import plain_slide

import spade as sp


@pytest.mark.parametrize(
    ("options", "mpp"),
    [
        ({"resolution": (50_800, 50_800), "resolutionunit": "INCH"}, 0.5),
        ({"resolution": (40_000, 40_400), "resolutionunit": "CENTIMETER"}, (0.25 + 1 / 4.04) / 2),
        ({"description": '<OME><Pixels PhysicalSizeX="0.34" PhysicalSizeY="0.34"/></OME>'}, 0.34),
        (
            {"description": '<OME><Pixels PhysicalSizeX="3.4E2" PhysicalSizeXUnit="nm" PhysicalSizeY="0.34"/></OME>'},
            0.34,
        ),
        ({"description": '<OME><Pixels PhysicalSizeX="5E-5" PhysicalSizeXUnit="cm" PhysicalSizeY="0.5"/></OME>'}, 0.5),
        ({"description": "ImageJ=1.53t\nunit=\\u00B5m\n", "resolution": (4, 4), "resolutionunit": "NONE"}, 0.25),
    ],
    ids=["inch", "nearly square", "OME", "OME in nm", "OME in cm", "ImageJ"],
)
def test_stated_units_count(tmp_path, options, mpp):
    path = plain_slide(tmp_path / "a.tif", **options)
    assert sp.io.read_wsi(path).attrs["spade"]["mpp"]["he"] == pytest.approx(mpp)
    given = sp.io.read_wsi(path, mpp=mpp * 1.04)
    assert given.attrs["spade"]["mpp"]["he"] == pytest.approx(mpp * 1.04)


OBJECTIVES = "".join(f'<Objective ID="Objective:0:{i}" NominalMagnification="{x}"/>' for i, x in enumerate([40, 1]))
UNITLESS = {"resolution": (1, 1), "resolutionunit": "NONE"}
MACRO = '<Image ID="Image:1"><Pixels PhysicalSizeX="10" PhysicalSizeY="10"/></Image>'


def ome(first: str, inside: str = "") -> str:
    namespace = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
    images = f'<Image ID="Image:0">{inside}<Pixels {first}/></Image>{MACRO}'
    return f"<?xml version='1.0' encoding='UTF-8'?><OME {namespace}><Instrument>{OBJECTIVES}</Instrument>{images}</OME>"


def test_ome_speaks_of_the_first_image_alone(tmp_path):
    used = '<ObjectiveSettings ID="Objective:0:1"/>'
    path = plain_slide(tmp_path / "a.tif", description=ome('PhysicalSizeX="0.5" PhysicalSizeY="0.5"', used))
    sdata = sp.io.read_wsi(path)
    assert sdata.attrs["spade"]["mpp"]["he"] == 0.5
    assert float(sdata.attrs["spade"]["slides"]["he"]["objective"]) == 1
    unknown = sp.io.read_wsi(plain_slide(tmp_path / "b.tif", description=ome('SizeC="3"'), **UNITLESS), mpp=0.3)
    assert "objective" not in unknown.attrs["spade"]["slides"]["he"]
    with pytest.raises(ValueError, match="states no µm/px of a microscope"):
        sp.io.read_wsi(tmp_path / "b.tif")


@pytest.mark.parametrize(
    "description",
    [
        '<!DOCTYPE a [<!ENTITY b "0.5">]><OME><Pixels PhysicalSizeX="&b;" PhysicalSizeY="&b;"/></OME>',
        '<OME><Pixels PhysicalSizeX="0.5" PhysicalSizeY="0.5">',
    ],
)
def test_odd_ome_says_nothing(tmp_path, description):
    path = plain_slide(tmp_path / "a.tif", description=description, **UNITLESS)
    with pytest.raises(ValueError, match="states no µm/px of a microscope"):
        sp.io.read_wsi(path)
