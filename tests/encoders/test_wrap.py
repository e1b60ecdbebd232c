"""Networks and functions of the user's own as encoders."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from helpers.networks import PX
from helpers.sections import pixels, tiny
from spatialdata import read_zarr
from torch import nn

import spade as sp


@pytest.fixture(scope="module")
def batch():
    return pixels(4, (3, 32, 32, 3))


@pytest.fixture
def sdata():
    sample = tiny()
    sp.pp.patches(sample, size_um=32, size_px=32)
    return sample


def brightness(patches):
    return patches.mean((1, 2))


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 5, 8, 8), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten())


FACTS = {"input_px": 32, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.1)}


def as_tensor(picture):
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    return (x - torch.tensor(FACTS["mean"]).view(3, 1, 1)) / torch.tensor(FACTS["std"]).view(3, 1, 1)


def test_a_timm_model_is_an_encoder_by_itself(network, encoder, sdata):
    import timm

    bare = timm.create_model("test_vit", num_classes=0)
    bare.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("head.")})
    bare.train()
    wrapped = sp.encoders.wrap(bare)
    assert (wrapped.name, wrapped.dim, wrapped.input_px) == ("test_vit", 64, PX)
    assert wrapped.id != encoder.id, "nobody knows that it is the network of that name"
    patches = pixels(3, (2, PX, PX, 3))
    np.testing.assert_array_equal(wrapped.encode(patches, 0.5), encoder.encode(patches, 0.5))
    sp.pp.encode_patches(sdata, bare)
    given = sdata["table"].obsm["X_test_vit"].copy()
    sp.pp.encode_patches(sdata, encoder)
    np.testing.assert_array_equal(given, sdata["table"].obsm["X_test_vit"])
    assert bare.training, "the user's own network is left alone"


def test_a_function_is_an_encoder_by_itself(sdata):
    seen = []

    class Probe:
        name, id, dim, input_px, mpp = "probe", "1", 3, None, None

        def encode(self, patches, mpp):
            seen.append(len(patches))
            return brightness(patches)

    sp.pp.encode_patches(sdata, brightness)
    sp.pp.encode_patches(sdata, Probe())
    obsm, uns = sdata["table"].obsm, sdata["table"].uns["spade"]
    np.testing.assert_array_equal(obsm["X_brightness"], obsm["X_probe"])
    assert obsm["X_brightness"].std() > 0
    assert uns["X_brightness"]["encoder_id"] == f"{__name__}.brightness"


def test_facts_and_transform_say_the_same(batch):
    by_facts = sp.encoders.wrap(small(), name="ours", **FACTS)
    by_transform = sp.encoders.wrap(small(), name="ours", transform=as_tensor)
    by_function = sp.encoders.wrap(small().eval(), name="ours", **FACTS)
    expected = small().eval()(torch.stack([as_tensor(patch) for patch in batch])).detach().numpy()
    for encoder in (by_facts, by_transform, by_function):
        np.testing.assert_allclose(encoder.encode(batch, 0.5), expected, atol=1e-5)
    assert by_facts.id == by_function.id != sp.encoders.wrap(small(1), **FACTS).id
    assert (by_facts.input_px, by_transform.input_px, by_facts.mpp) == (32, None, None)
    assert sp.encoders.wrap(small(), transform=as_tensor, input_px=32, mpp=0.25).mpp == 0.25


class Shift:
    """A transform that Python writes with its setting, as those of torchvision."""

    def __init__(self, by):
        self.by = by

    def __repr__(self):
        return f"Shift({self.by})"

    def __call__(self, picture):
        return as_tensor(picture) + self.by


def test_the_id_of_a_network_covers_its_weights_structure_and_input():
    import timm

    def wrapped(model=None, **changed):
        return sp.encoders.wrap(small() if model is None else model, **changed)

    def all_kinds():
        return [
            wrapped(**FACTS),
            wrapped(**FACTS | {"mean": (0.4, 0.5, 0.7)}),
            wrapped(**FACTS | {"std": (0.2, 0.3, 0.2)}),
            wrapped(**FACTS | {"input_px": 64}),
            wrapped(transform=as_tensor),
            wrapped(transform=as_tensor, input_px=32),
            wrapped(transform=Shift(0.1)),
            wrapped(transform=Shift(0.2)),
            wrapped(nn.Sequential(*small(), nn.ReLU()), **FACTS),
            *(wrapped(pooled(pool), **FACTS) for pool in ("avg", "max")),
        ]

    def pooled(pool):
        torch.manual_seed(0)
        return timm.create_model("test_resnet", num_classes=0, global_pool=pool)

    ids = [encoder.id for encoder in all_kinds()]
    assert len(set(ids)) == len(ids)
    assert [encoder.id for encoder in all_kinds()] == ids


def test_other_moments_of_one_network_replace_the_features_of_a_store(sdata, tmp_path):
    sdata.write(path := tmp_path / "a.zarr")
    half, right = (sp.encoders.wrap(small(), name="ours", **FACTS | {"mean": mean}) for mean in ((0, 0, 0), (1, 1, 1)))
    sp.pp.encode_patches(path, half)
    first = read_zarr(path)["table"].obsm["X_ours"]
    sp.pp.encode_patches(path, right)
    second = read_zarr(path)["table"].obsm["X_ours"]
    assert not np.allclose(first, second)


def test_the_id_of_a_function_covers_its_arguments_and_input():
    def of(function, **options):
        return sp.encoders.wrap(function, name="f", **options).id

    kinds = [
        of(partial(np.mean, axis=(1, 2))),
        of(partial(np.max, axis=(1, 2))),
        of(brightness),
        of(brightness, input_px=32),
    ]
    assert len(set(kinds)) == len(kinds)
    assert of(partial(np.max, axis=(1, 2))) == kinds[1]
    assert of(brightness) == f"{__name__}.f", "a plain function is known by its module and name"


def test_a_function_gets_what_a_transform_made(batch):
    network = small().eval()
    encoder = sp.encoders.wrap(lambda x: network(x), name="ours", id="v2", transform=as_tensor)
    expected = sp.encoders.wrap(network, **FACTS).encode(batch, 0.5)
    np.testing.assert_allclose(encoder.encode(batch, 0.5), expected, atol=1e-5)
    assert (encoder.id, encoder.dim) == ("v2", 5)


def test_what_happens_to_a_network_later_changes_nothing(batch):
    network = small()
    encoder = sp.encoders.wrap(network, **FACTS)
    before = encoder.encode(batch, 0.5)
    with torch.no_grad():
        network[0].weight.zero_()
    np.testing.assert_array_equal(encoder.encode(batch, 0.5), before)
    assert encoder.to("cpu") is encoder


def test_bf16_is_close_and_not_the_same(batch):
    full, half = (sp.encoders.wrap(small(), **FACTS, precision=precision) for precision in ("fp32", "bf16"))
    exact, near = full.encode(batch, 0.5), half.encode(batch, 0.5)
    assert not np.array_equal(exact, near)
    np.testing.assert_allclose(near, exact, atol=0.05)


class Tokens(nn.Module):
    def forward(self, x):
        return x.flatten(2).mT


class Output(nn.Module):
    def forward(self, x):
        return {"last_hidden_state": x}


@pytest.mark.parametrize(
    ("given", "options", "error", "said"),
    [
        (nn.Linear, {}, TypeError, r"model=<class Linear>: expected a network .*make an object of this class"),
        (3, {}, TypeError, r"model=3: expected a network \(torch\.nn\.Module\) or a function"),
        (
            small(),
            {},
            ValueError,
            r"encoder 'Sequential' \(Sequential\) does not say what its input is: pass sp\.encoders\.wrap\(model, "
            r"input_px=…, mean=…, std=…\), or wrap\(model, transform=…\)",
        ),
        (small(), {"input_px": 32}, ValueError, r"wrap\(model, mean=…, std=…\)"),
        (small(), FACTS | {"transform": as_tensor}, ValueError, r"mean= and std= beside transform="),
        (small(), FACTS | {"id": "1"}, ValueError, r"id='1': the identity of a network is that of its weights"),
        (
            small(),
            FACTS | {"std": (0.2, 0, 0.1)},
            ValueError,
            r"std=\(0\.2, 0, 0\.1\): expected three positive numbers",
        ),
        (small(), FACTS | {"mean": 0.5}, ValueError, r"mean=0\.5: expected three numbers"),
        (small(), FACTS | {"mpp": 0}, ValueError, r"mpp=0: expected a positive number of µm/px"),
        (
            small(),
            FACTS | {"input_px": 4},
            TypeError,
            r"cannot encode one black patch \(RuntimeError: .*: a network gets",
        ),
        (small(), {"transform": 3}, TypeError, r"transform=3: expected a function from a PIL image"),
        (
            small(),
            {"transform": np.array},
            TypeError,
            r"encoder 'Sequential' cannot encode one black patch \(TypeError",
        ),
        (Tokens(), FACTS, ValueError, r"encoder 'Tokens' .*returned features of shape \(1, 1024, 3\)"),
        (Output(), FACTS, TypeError, r"encoder 'Output' .*returned dict of object; expected real numbers"),
        (brightness, {"mean": (0.5,) * 3}, ValueError, r"a function gets the patches as they are"),
        (brightness, {"device": "cpu"}, ValueError, "device='cpu', precision='fp32': a function runs where it is"),
        (brightness, {"precision": "bf16"}, ValueError, "precision='bf16': a function runs where it is"),
        (lambda x: x.nothing, {}, TypeError, r"cannot encode one black patch \(AttributeError: .*uint8 patches"),
        (lambda x: None, {}, TypeError, r"returned NoneType of object"),
        (lambda x: x.mean(), {}, ValueError, r"returned features of shape \(\)"),
    ],
)
def test_what_cannot_be_an_encoder_is_refused_in_a_sentence(given, options, error, said):
    with pytest.raises(error, match=said):
        sp.encoders.wrap(given, **options)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (small(), ValueError, r"'Sequential' \(Sequential\) does not say what its input is"),
        (nn.Linear, TypeError, r"make an object of this class"),
        (lambda x: x.nothing, TypeError, r"cannot encode one black patch"),
        (object(), TypeError, r"expected the name of an encoder, .*a network \(torch\.nn\.Module\) or a function"),
    ],
)
def test_and_so_does_encode_patches_before_a_sample_is_opened(given, error, said):
    with pytest.raises(error, match=said):
        sp.pp.encode_patches("no/such/store.zarr", given)
