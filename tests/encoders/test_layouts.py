"""Published weights in the layouts of other programs give the same features in the networks here."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from timm.layers import SwiGLUPacked

import spade as sp
from spade.encoders import _architectures
from spade.encoders._architectures import Conch, ConvStem, PlainQueryPool, QueryPool
from spade.encoders._spec import SPECS, EncoderSpec
from spade.encoders._timm import load_strict

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SWIGLU = {"mlp_ratio": 176 / 32, "mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU}
SIDE = 56


def drawn(model, seed=0):
    """Give all weights values that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.2 * torch.randn(value.shape, generator=generator))
    return model.eval()


def image(side=SIDE):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def network(architecture, **options):
    return drawn(timm.create_model(architecture, num_classes=0, **SMALL | options), seed=9)


@pytest.mark.parametrize(
    ("kind", "facts", "architecture", "options"),
    [
        ("Dinov2", {"image_size": 98, "use_swiglu_ffn": True}, "vit_giant_patch14_dinov2", {"mlp_ratio": 176 / 32}),
        ("Dinov2WithRegisters", {"image_size": SIDE, "use_swiglu_ffn": True}, "vit_base_patch14_reg4_dinov2", SWIGLU),
        ("Dinov2WithRegisters", {"image_size": 98}, "vit_base_patch14_reg4_dinov2", {}),
        ("ViT", {"image_size": SIDE, "intermediate_size": 128}, "vit_base_patch16_224", {"patch_size": 14}),
    ],
)
def test_files_of_the_transformers_library(kind, facts, architecture, options, tmp_path):
    """Of Midnight (positions for another size), Hibou, and Phikon; the library itself computes what is expected."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=14, **facts
    )
    published = drawn(getattr(transformers, f"{kind}Model")(config))
    published.save_pretrained(tmp_path)
    own = network(architecture, img_size=SIDE, **options)
    if kind == "ViT":
        torch.save({k: v for k, v in _file(tmp_path).items() if "pooler" not in k}, tmp_path / "pytorch_model.bin")
    load_strict(own, tmp_path / ("pytorch_model.bin" if kind == "ViT" else "model.safetensors"), "tiny")
    with torch.no_grad():
        expected = published(pixel_values=image()).last_hidden_state
        torch.testing.assert_close(own.forward_features(image()), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1


def _file(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("chunk", ["", "0."])
def test_files_of_the_authors_of_dinov2(chunk, tmp_path):
    own = network("vit_base_patch14_reg4_dinov2", img_size=SIDE, **SWIGLU)
    first = torch.randn(1, 1, 32)
    state = {
        key.replace("blocks.", f"blocks.{chunk}").replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): value
        for key, value in own.state_dict().items()
    }
    state["register_tokens"] = state.pop("reg_token")
    state["cls_token"] = state["cls_token"] - first  # theirs has a position, which timm adds beforehand
    state["pos_embed"] = torch.cat([first, state["pos_embed"]], dim=1)
    state["mask_token"] = torch.zeros(1, 32)
    torch.save({"teacher": {f"backbone.{key}": value for key, value in state.items()}}, tmp_path / "dino.pth")
    again = network("vit_base_patch14_reg4_dinov2", img_size=SIDE, **SWIGLU)
    drawn(again, seed=3)
    load_strict(again, tmp_path / "dino.pth", "tiny")
    with torch.no_grad():
        torch.testing.assert_close(again(image()), own(image()))


def test_files_of_earlier_swin_transformers(tmp_path):
    options = {"embed_layer": ConvStem, "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4), "img_size": 112}
    own, again = (
        drawn(timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, **options), seed) for seed in (1, 2)
    )
    state = {key.replace("layers.1.downsample", "layers.0.downsample"): v for key, v in own.state_dict().items()}
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 49, 49)
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    torch.save({"model": state}, tmp_path / "swin.pth")
    load_strict(again, tmp_path / "swin.pth", "tiny")
    with torch.no_grad():
        torch.testing.assert_close(again(image(112)), own(image(112)))
        tokens = own.patch_embed(image(112))
    assert tokens.shape == (2, 28, 28, 32)


def conch(pool, **options):
    return drawn(Conch(16, pool, img_size=64, **SMALL | options))


@pytest.mark.parametrize("pool", [QueryPool, PlainQueryPool])
def test_the_query_of_conch_attends_to_all_tokens(pool):
    model = conch(pool)
    with torch.no_grad():
        found = model(image(64))
        tokens = model.attn_pool_contrast.ln_k(model.trunk.forward_features(image(64)))
        own = model.attn_pool_contrast
        query = own.ln_q(own.query)
        if pool is QueryPool:
            attention, zero = own.attn, torch.zeros(16)
            biases = (zero if attention.in_proj_bias is None else attention.in_proj_bias).chunk(3)
            weights = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
            q, k, v = (x @ w.T + b for x, w, b in zip((query, tokens, tokens), weights, biases, strict=True))
        else:
            q, (k, v) = own.to_q(query), own.to_kv(tokens).chunk(2, -1)
        parts = []
        for head in range(8):
            at = slice(2 * head, 2 * head + 2)
            share = torch.softmax(torch.einsum("qd,ntd->nqt", q[:, at], k[..., at]) / 2**0.5, -1)
            parts.append(torch.einsum("nqt,ntd->nqd", share, v[..., at]))
        out = own.attn.out_proj if pool is QueryPool else own.to_out
        expected = model.ln_contrast(out(torch.cat(parts, -1))[:, 0])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.fixture
def small_conch(monkeypatch):
    monkeypatch.setitem(_architectures.OWN, "small_conch", lambda spec: conch(QueryPool))
    spec = EncoderSpec("small", None, "small_conch", 16, 64, mean=(0.5,) * 3, std=(0.2,) * 3)
    monkeypatch.setitem(SPECS, "small", spec)
    return conch(QueryPool)


def whole(tower):
    """The file of CONCH: captions and text beside the tower."""
    state = {f"visual.{key}": value for key, value in tower.state_dict().items()}
    others = {"visual.proj_contrast": (16, 16), "visual.attn_pool_caption.query": (4, 8), "text.cls_emb": (8,)}
    return state | {key: torch.zeros(shape) for key, shape in others.items()}


def test_the_file_of_conch_holds_more_than_its_image_side(small_conch, tmp_path):
    drawn(small_conch, seed=5)
    torch.save(whole(small_conch), tmp_path / "pytorch_model.bin")
    encoder = sp.encoders.get("small", weights=tmp_path / "pytorch_model.bin", device="cpu")
    patches = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    x = (torch.from_numpy(patches).permute(0, 3, 1, 2) / 255 - 0.5) / 0.2
    with torch.no_grad():
        np.testing.assert_allclose(encoder.encode(patches, 0.5), small_conch(x).numpy(), atol=1e-4)


def test_positions_of_another_size_keep_their_place(small_conch, tmp_path):
    """A gradient over the image is still that gradient on a finer grid, but for the outermost positions."""
    state = small_conch.state_dict()
    rows = torch.linspace(0, 1, 2).view(2, 1, 1).expand(2, 2, 32).reshape(1, 4, 32)
    state["trunk.pos_embed"] = torch.cat([torch.full((1, 1, 32), 7.0), rows], dim=1)
    torch.save(state, tmp_path / "w.pth")
    encoder = sp.encoders.get("small", weights=tmp_path / "w.pth", device="cpu")
    first, grid = encoder.model.trunk.pos_embed.split((1, 16), dim=1)
    assert first.unique().tolist() == [7.0]
    grid = grid.view(4, 4, 32)
    assert (grid.diff(dim=0) > 0).all()
    torch.testing.assert_close(grid[:, :1].expand_as(grid), grid)


def test_a_file_of_another_network_is_still_refused(tmp_path):
    state = {
        "embeddings.cls_token": torch.zeros(1, 1, 32),
        "encoder.layer.0.attention.attention.query.weight": torch.zeros(2, 2),
    }
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"does not fit encoder='test_vit': \d+ keys missing .*, 1 keys too many"):
        sp.encoders.get("test_vit", weights=tmp_path / "w.pth")
