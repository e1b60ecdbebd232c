"""Encoders of timm: features, weights that fit, and settings that make no sense."""

from __future__ import annotations

import json
import socket
from typing import ClassVar

import huggingface_hub
import numpy as np
import pytest
import torch
from helpers.hub import running, use
from helpers.networks import ARCHITECTURE, FILES, PX, random
from helpers.sections import pixels, warns_here
from safetensors.torch import save

import spade as sp
from spade.encoders._timm import load_strict


@pytest.fixture(scope="module")
def batch():
    return pixels(3, (4, PX, PX, 3))


@pytest.mark.parametrize("file", FILES)
def test_weights_from_any_kind_of_file_are_the_same_encoder(file, tmp_path, network, encoder, batch):
    FILES[file](network.state_dict(), tmp_path / file)
    loaded = sp.encoders.get(ARCHITECTURE, weights=str(tmp_path / file))
    assert loaded.id == encoder.id
    np.testing.assert_array_equal(loaded.encode(batch, 0.5), encoder.encode(batch, 0.5))


def test_features_are_those_of_the_bare_network(network, encoder, batch):
    config = network.pretrained_cfg
    x = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(config["std"]).view(3, 1, 1)
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(x), pre_logits=True)
    assert (encoder.dim, encoder.input_px, encoder.name) == (64, PX, ARCHITECTURE)
    np.testing.assert_allclose(encoder.encode(batch, 0.5), expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.encode(batch[2:3], 0.5)[0], expected[2].numpy(), atol=1e-5)


def test_an_own_mean_and_deviation_are_used(batch):
    inception, imagenet = (random(name) for name in ("test_resnet", "test_efficientnet"))
    assert inception._mean.flatten().tolist() == [127.5] * 3
    np.testing.assert_allclose(imagenet._std.flatten(), np.array([0.229, 0.224, 0.225]) * 255, rtol=1e-6)
    assert inception.encode(batch, 0.5).shape == (4, inception.dim)


def test_class_token_beside_mean_of_the_patch_tokens(batch):
    from dataclasses import replace

    from spade.encoders._spec import EncoderSpec
    from spade.encoders._timm import TimmEncoder

    spec = EncoderSpec(
        "like virchow", ARCHITECTURE, ARCHITECTURE, 128, PX, pool="cls+mean", kwargs=lambda: {"reg_tokens": 2}
    )
    with warns_here("random weights"):
        both = TimmEncoder(spec, weights="random")
    with torch.no_grad():
        tokens = both.model.forward_features((torch.from_numpy(batch).permute(0, 3, 1, 2) - both._mean) / both._std)
    assert tokens.shape[1] == 1 + 2 + (PX // 16) ** 2
    expected = torch.cat([tokens[:, 0], tokens[:, 3:].mean(1)], dim=1)
    np.testing.assert_allclose(both.encode(batch, 0.5), expected.numpy(), atol=1e-5)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="gives 128 features, but is known to give 100"):
        TimmEncoder(replace(spec, dim=100), weights="random")


def test_random_weights_follow_the_seed_and_leave_torch_alone(batch):
    state = torch.random.get_rng_state()
    one, same, other, drawn = random(rng=1), random(rng=1), random(rng=2), random(rng=np.random.default_rng(1))
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(one.encode(batch, 0.5), same.encode(batch, 0.5))
    assert one.id == same.id
    assert len({one.id, other.id, drawn.id}) == 3


def test_half_precision_is_close_and_not_the_same(network, encoder, batch, tmp_path):
    torch.save(network.state_dict(), tmp_path / "w.pth")
    half = sp.encoders.get(ARCHITECTURE, weights=tmp_path / "w.pth", precision="bf16")
    got, exact = half.encode(batch, 0.5), encoder.encode(batch, 0.5)
    assert got.dtype == np.float32
    assert not np.array_equal(got, exact)
    np.testing.assert_allclose(got, exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("norm.weight"), r"1 keys missing \['norm\.weight'\], 0 keys too many \[\], 0 of other"),
        (lambda s: s.update(extra=torch.zeros(1)), r"0 keys missing \[\], 1 keys too many \['extra'\]"),
        (
            lambda s: s.update({"norm.weight": torch.zeros(3)}),
            r"1 of other shape \['norm\.weight \(3,\) for \(64,\)'\]",
        ),
    ],
)
def test_weights_must_fit_key_by_key(change, said, network, tmp_path):
    state = dict(network.state_dict())
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=rf"does not fit encoder='test_vit': .*{said}.*Is the file of another architecture"
    ):
        sp.encoders.get(ARCHITECTURE, weights=tmp_path / "w.pth")


def test_a_prefix_of_the_classifier_is_no_classifier():
    class Headed(torch.nn.Module):
        pretrained_cfg: ClassVar = {"classifier": "head"}

        def __init__(self):
            super().__init__()
            self.head_norm = torch.nn.LayerNorm(2)

    state = {"head_norm.weight": torch.full((2,), 3.0), "head_norm.bias": torch.zeros(2), "head.bias": torch.zeros(9)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spade.encoders._timm.read_state", lambda path: state)
        load_strict(module := Headed(), "w.pth", "headed")
    assert module.head_norm.weight.tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("encoder", "options", "error", "said"),
    [
        ("test_vit", {"weights": "no/such.pth"}, FileNotFoundError, r"weights: there is no file 'no/such\.pth'"),
        ("test_vit", {"weights": __file__}, ValueError, r"expected a file ending in \.safetensors, \.pth, \.pt, \.bin"),
        (
            "test_vit",
            {"weights": "random", "precision": "fp16"},
            ValueError,
            r"precision='fp16': expected one of 'fp32', 'bf16'",
        ),
        ("test_vit", {"weights": "random", "device": "gpu"}, ValueError, r"device='gpu' is not a torch device"),
        (
            "hf-hub:me/mine",
            {"weights": "w.pth"},
            ValueError,
            r"hub id names weights, not an architecture.*encoder=, such as 'vit",
        ),
        ("hf-hub:me/mine", {"weights": "random"}, ValueError, r"give the timm architecture as encoder="),
    ],
)
def test_what_cannot_be_built_is_refused(encoder, options, error, said):
    with pytest.raises(error, match=said):
        sp.encoders.get(encoder, **options)


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        (
            "test_vit",
            r"published weights of 'test_vit' could not be downloaded .*\. Download the file elsewhere and pass",
        ),
        ("hf-hub:me/mine", r"published weights of 'hf-hub:me/mine' could not be downloaded"),
        ("hf-hub:not an id", r"could not be downloaded \(Repo id must use"),
        (
            "uni",
            r"'hf-hub:MahmoodLab/UNI' .*Request access on the model's page \(licence: "
            r"CC BY-NC-ND 4\.0\) and log in, or downl",
        ),
        ("hf-hub:paige-ai/Virchow2", r"encoder='virchow2': .*Request access"),  # known by its hub id too
        ("test_vit4", r"No pretrained weights exist.*weights='random' gives untrained"),
    ],
)
def test_published_weights_that_cannot_be_had_say_what_to_do(encoder, said, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RuntimeError, match=said):
        sp.encoders.get(encoder)


def test_weights_that_were_changed_after_the_download_are_refused(network, encoder, batch, monkeypatch, tmp_path):
    facts = {name: network.pretrained_cfg[name] for name in ("input_size", "fixed_input_size", "mean", "std")}
    config = {"architecture": ARCHITECTURE, "num_classes": 0, "pretrained_cfg": facts}
    with running() as hub:
        use(hub, monkeypatch, tmp_path)
        state = {name: value for name, value in network.state_dict().items() if not name.startswith("head.")}
        files = {"config.json": json.dumps(config).encode(), "model.safetensors": save(state)}
        hub.make("me/mine", **files)
        first = sp.encoders.get("hf-hub:me/mine")
    np.testing.assert_array_equal(first.encode(batch, 0.5), encoder.encode(batch, 0.5))
    path = sp.encoders.check("hf-hub:me/mine").cached
    assert path.is_symlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert sp.encoders.get("hf-hub:me/mine").id == first.id
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # one bit of one weight
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"'hf-hub:me/mine': model\.safetensors was changed after the download"):
        sp.encoders.get("hf-hub:me/mine")


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch, tmp_path):
    with socket.socket() as taken:  # bound, but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        for name, value in {
            "ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path),
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it is asked again"))
        with pytest.raises(RuntimeError, match=r"'hf-hub:me/mine' could .* \(http://127.0.0.1:\d+ cannot be reached: "):
            sp.encoders.get("hf-hub:me/mine")
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize(
    ("patches", "said"),
    [
        (
            np.zeros((2, 224, 224, 3), np.uint8),
            r"patches are uint8 of shape \(2, 224, 224, 3\); encoder 'test_vit' reads uint8",
        ),
        (
            np.zeros((2, PX, PX, 3)),
            r"patches are float64 of shape .*RGB values from 0 to 255 of shape \(n, 160, 160, 3\)",
        ),
        (np.zeros((2, PX, PX, 4), np.uint8), r"of shape \(2, 160, 160, 4\)"),
    ],
)
def test_pixels_of_the_wrong_kind_are_refused(encoder, patches, said):
    with pytest.raises(ValueError, match=said):
        encoder.encode(patches, 0.5)
