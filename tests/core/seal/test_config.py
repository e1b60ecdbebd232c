"""What settings of SEAL are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spade.core.seal.config import WEIGHTS, SealTraining


@pytest.mark.parametrize(
    ("options", "said"),
    [
        *[
            ({name: 0}, rf"{name}=0: expected a whole number of at least 1")
            for name in ("n_blocks", "rank", "dim", "hidden", "n_epochs")
        ],
        ({"batch_size": 1}, "batch_size=1: expected a whole number of at least 2"),
        ({"gene_lr": 1e-3}, "gene_lr=0.001 is the rate of the warm-up, but gene_warmup=0"),
        ({"gene_warmup": 1, "gene_lr": 0.0}, "gene_lr=0.0: expected a positive number"),
        ({"gene_warmup": -1}, "gene_warmup=-1: expected a whole number of at least 0"),
        ({"micro_batch_size": -1}, "micro_batch_size=-1: expected a whole number of at least 1"),
        *[
            ({name: value}, rf"{name}={value!r}: expected a whole number")
            for name, value in (("rank", 1.5), ("batch_size", True), ("n_epochs", "3"), ("gene_warmup", None))
        ],
        *[
            ({name: value}, rf"{name}={value!r}: expected a positive number")
            for name in ("alpha", "temperature", "lr")
            for value in (0.0, -1.0, math.inf, math.nan)
        ],
        *[
            ({name: value}, rf"{name}={value!r}: expected a number of at least 0")
            for name in (*WEIGHTS, "weight_decay")
            for value in (-0.1, math.nan, math.inf)
        ],
        *[
            ({name: value}, rf"{name}={value!r}: expected a number from 0 to below 1")
            for name in ("dropout", "stain_jitter")
            for value in (-0.1, 1.0, math.nan)
        ],
        ({"lr": "1e-3"}, "lr='1e-3': expected a number"),
        *[({name: 1}, rf"{name}=1: expected True or False") for name in ("flips", "rotations", "balance_sections")],
        ({"negatives": "sections"}, "negatives='sections': expected one of 'all', 'section'"),
        ({"precision": "fp16"}, "precision='fp16': expected one of 'fp32', 'bf16'"),
        ({"head": "deep"}, "head='deep': expected one of 'mlp', 'linear'"),
        ({"targets": ()}, r"targets=\(\): expected names of layers, such as \('qkv', 'proj'\)"),
        ({"targets": ("qkv", 3)}, r"targets=\('qkv', 3\): expected names of layers"),
        ({"targets": ("",)}, r"targets=\('',\): expected names of layers"),
        ({"contrastive": 0, "image_to_gene": 0}, "leave no loss for the image side"),
        ({"gene_warmup": 2, "gene_reconstruction": 0}, "gene_warmup=2 needs gene_reconstruction above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        SealTraining(**options)


def test_numbers_of_numpy_and_lists_become_plain():
    config = SealTraining(rank=np.int64(4), lr=np.float32(0.5), flips=np.bool_(False), targets=["qkv"])
    assert (config.rank, config.lr, config.flips, config.targets) == (4, 0.5, False, ("qkv",))
    assert [type(value) for value in (config.rank, config.lr, config.flips)] == [int, float, bool]
    assert SealTraining(targets="qkv").targets == ("qkv",)
