"""What an encoder returns is checked patch by patch: NaN means "no valid patch" and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.sections import tiny

import spade as sp
from spade.encoders._output import encode_batch


class Given:
    """An encoder that returns what a function makes of its patches."""

    name, id, dim, input_px, mpp = "given", "given-1", 4, None, None

    def __init__(self, make):
        self.make, self.calls = make, 0

    def encode(self, patches, mpp):
        self.calls += 1
        return self.make(len(patches))


@pytest.fixture
def sdata():
    sample = tiny()
    sp.pp.patches(sample, size_um=32, size_px=32)
    return sample


def one_bad(n, value):
    features = np.ones((n, 4), np.float32)
    features[n // 2, 1] = value
    return features


WRONG = {
    "NaN": (
        lambda n: one_bad(n, np.nan),
        ValueError,
        r"NaN or infinite features for 1 of 12 patches, the first in row 6",
    ),
    "infinite": (lambda n: one_bad(n, np.inf), ValueError, r"NaN or infinite features for 1 of 12"),
    "too large for float32": (lambda n: np.full((n, 4), 1e300), ValueError, r"NaN or infinite features for 12 of 12"),
    "one row": (lambda n: np.ones((1, 4)), ValueError, r"shape \(1, 4\) for 12 patches; expected \(12, 4\)"),
    "a vector": (lambda n: np.ones(4), ValueError, r"shape \(4,\) for 12 patches; expected \(12, 4\)"),
    "one column": (lambda n: np.ones((n, 1)), ValueError, r"shape \(12, 1\) for 12 patches"),
    "turned": (lambda n: np.ones((4, n)), ValueError, r"shape \(4, 12\)"),
    "tokens": (lambda n: np.ones((n, 4, 4)), ValueError, r"shape \(12, 4, 4\)"),
    "a number": (lambda n: 1.0, ValueError, r"shape \(\)"),
    "complex": (lambda n: np.ones((n, 4), complex), TypeError, r"ndarray of complex128; expected real numbers"),
    "text": (lambda n: np.full((n, 4), "1.5"), TypeError, r"ndarray of <U3"),
    "objects": (lambda n: np.full((n, 4), None), TypeError, r"ndarray of object"),
    "nothing": (lambda n: None, TypeError, r"NoneType of object"),
    "ragged": (lambda n: [[1.0] * (1 + i % 2) for i in range(n)], ValueError, r"not an array of numbers"),
    "masked": (lambda n: np.ma.masked_less(np.ones((n, 4)), 2), TypeError, r"a masked array"),
    "complex tensor": (lambda n: torch.ones(n, 4, dtype=torch.complex64), TypeError, r"Tensor of complex64"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_features_are_refused_with_the_name_of_the_encoder(case, sdata):
    make, error, said = WRONG[case]
    with pytest.raises(error, match=rf"encoder 'given' returned .*{said}"):
        sp.pp.encode_patches(sdata, Given(make), batch_size=12)
    assert "X_given" not in sdata["table"].obsm


@pytest.mark.parametrize("kind", ["float64", "float16", "int32", "bfloat16 tensor", "tensor with gradient", "lists"])
def test_numbers_of_any_kind_become_float32(kind, sdata):
    wanted = np.arange(36 * 4).reshape(36, 4) % 251  # exact in bfloat16

    def make(n):
        if kind == "lists":
            return wanted.tolist()
        if "tensor" in kind:
            tensor = torch.tensor(wanted, dtype=torch.bfloat16 if "bfloat16" in kind else torch.float64)
            return tensor if "bfloat16" in kind else tensor.requires_grad_()
        return wanted.astype(kind)

    sp.pp.encode_patches(sdata, Given(make), batch_size=36)
    features = sdata["table"].obsm["X_given"]
    assert features.dtype == np.float32
    assert sorted(map(tuple, features.tolist())) == sorted(map(tuple, wanted.tolist()))


def test_the_precision_is_named():
    encoder = Given(lambda n: np.full((n, 4), np.nan))
    encoder.precision = "bf16"
    with pytest.raises(ValueError, match=r"encoder 'given' in precision 'bf16' .*try precision='fp32'"):
        encode_batch(encoder, np.zeros((2, 8, 8, 3), np.uint8), 0.5)


@pytest.mark.parametrize(
    ("name", "value", "error", "said"),
    [
        ("id", "missing", TypeError, "lacks id"),
        ("dim", "missing", TypeError, "lacks dim"),
        ("input_px", "missing", TypeError, "lacks input_px"),
        ("id", None, ValueError, "encoder.id=None"),
        ("id", "", ValueError, "encoder.id=''"),
        ("name", 3, ValueError, "encoder.name=3"),
        ("name", "***", ValueError, r"encoder.name='\*\*\*'"),
        ("dim", 4.0, ValueError, "encoder.dim=4.0"),
        ("dim", 0, ValueError, "encoder.dim=0"),
        ("input_px", -8, ValueError, "encoder.input_px=-8"),
        ("input_px", "224", ValueError, "encoder.input_px='224'"),
    ],
)
def test_an_encoder_is_looked_at_before_its_first_patch(name, value, error, said, sdata):
    facts = {"name": "given", "id": "1", "dim": 4, "input_px": None, "mpp": None} | {name: value}
    calls = []
    facts = {key: fact for key, fact in facts.items() if fact != "missing"}
    facts["encode"] = lambda self, patches, mpp: calls.append(len(patches))
    with pytest.raises(error, match=said):
        sp.pp.encode_patches(sdata, type("Own", (), facts)())
    assert not calls


def test_a_model_that_overflows_does_not_write_nan(model, sample):
    features = sample["table"].obsm["X_texture"].copy()
    features[3] = np.nan  # no valid patch: stays NaN
    embedded = model.encode_image(features)
    assert np.isnan(embedded[3]).all()
    assert np.isfinite(np.delete(embedded, 3, 0)).all()
    features[5] = 3e38
    with pytest.raises(ValueError, match=r"output of 1 of 80 rows is NaN or infinite, although their input is not"):
        model.encode_image(features, np.full((80, 3), 1 / 3))


def test_a_seal_model_on_patches_is_checked_when_it_embeds(tuned, monkeypatch):
    from helpers.seal import pictures

    (sample, *_) = pictures()
    monkeypatch.setattr(type(tuned), "encode", lambda self, patches, mpp: np.ones((1, self.dim), np.float32))
    with pytest.raises(
        ValueError, match=r"encoder 'test_vit_seal' returned features of shape \(1, 64\) for \d+ patches"
    ):
        sp.tl.embed(sample, tuned)
