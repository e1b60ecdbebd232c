"""Weights in the form in which the authors publish them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.sections import GENES, featured, said_of
from torch import nn

import spade as sp
from spade.models import GenePanel, SpadeModel, read_published_spade

D, G, DIM = 8, 20, 6


class Projection(nn.Module):
    """A head as it is written in the paper."""

    def __init__(self, width):
        super().__init__()
        self.projection, self.fc = nn.Linear(width, DIM), nn.Linear(DIM, DIM)
        self.layer_norm = nn.LayerNorm(DIM)

    def forward(self, x):
        h = self.projection(x)
        return self.layer_norm(self.fc(nn.functional.gelu(h)) + h)


class Expert(nn.Module):
    def __init__(self, width=D):
        super().__init__()
        self.image_projection, self.spot_projection = Projection(width), Projection(G)


@pytest.fixture
def release(tmp_path):
    """Three experts and five centroids, with the names that the files have."""
    torch.manual_seed(0)
    experts = [Expert().eval() for _ in range(3)]
    for e, expert in enumerate(experts):
        state = (
            expert.state_dict() if e == 1 else {"model": expert.state_dict(), "epoch": 99, "optimizer": {"lr": 1e-4}}
        )
        torch.save(state, tmp_path / f"best_UNI_proto{e}_epoch99.pt")
    rng = np.random.default_rng(0)
    centroids, assignment = rng.normal(size=(5, D)) * 2, np.array([0, 1, 2, 0, 1])
    np.save(tmp_path / "centroids.npy", centroids)
    np.save(tmp_path / "assignment.npy", assignment)
    return tmp_path, experts, centroids, assignment


def read(release, **options):
    folder, _, centroids, assignment = release
    return read_published_spade(folder, **{"centroids": centroids, "assignment": assignment, **options})


def test_the_model_is_that_of_the_files(release):
    folder, experts, centroids, assignment = release
    model = read(release)
    x = np.random.default_rng(1).normal(size=(7, D)).astype(np.float32)
    g = np.random.default_rng(2).gamma(1, size=(7, G)).astype(np.float32)
    distances = np.linalg.norm(x[:, None] - centroids, axis=2)
    soft = np.exp(-distances / 0.1 + distances.min(1, keepdims=True) / 0.1)
    soft /= soft.sum(1, keepdims=True)
    weights = np.stack([soft[:, assignment == e].sum(1) for e in range(3)], 1)
    np.testing.assert_allclose(model.route(x), weights, atol=1e-9)
    with torch.no_grad():
        wanted = sum(
            weights[:, e : e + 1] * expert.image_projection(torch.from_numpy(x)).numpy()
            for e, expert in enumerate(experts)
        )
        spots = sum(expert.spot_projection(torch.from_numpy(g)).numpy() for expert in experts) / 3
    np.testing.assert_allclose(model.encode_image(x), wanted, atol=1e-5)
    np.testing.assert_allclose(model.encode_expression(g, "uniform"), spots, atol=1e-5)
    assert (model.genes, model.config.feature_scaling, model.n_experts) == (None, "none", 3)
    from_files = read_published_spade(folder, folder / "centroids.npy", str(folder / "assignment.npy"))
    assert from_files.id == model.id


def test_it_embeds_with_names_given_and_is_saved_as_any_model(release, tmp_path):
    model = read(release, use_rep="X_f", encoder="uni")
    model.save(tmp_path / "saved")
    sample, again = featured(), featured()
    sp.tl.embed(sample, model, genes=GENES[:G])
    sp.tl.embed(again, SpadeModel.load(tmp_path / "saved"), genes=GENES[:G])
    np.testing.assert_array_equal(sample["table"].obsm["X_spade"], again["table"].obsm["X_spade"])
    with pytest.raises(ValueError, match=r"genes=None, and the model does not know its gene panel"):
        sp.tl.embed(featured(), model)
    with pytest.raises(ValueError, match=r"use_rep=None, and the model does not know the key of its features: name it"):
        sp.tl.embed(featured(), read(release), genes=GENES[:G])
    sp.tl.embed(featured(), read(release), genes=GENES[:G], use_rep="X_f")
    with pytest.raises(ValueError, match="does not know the mean expression of its experts"):
        model.encode_expression(np.zeros((1, G)))


def test_features_of_another_known_encoder_are_refused_by_name(release):
    """The files say no id of the encoder, so its name decides; names of networks of one's own say nothing."""
    model = read(release, use_rep="X_f", encoder="uni2_h", genes=GENES[:G])
    for facts in ({"encoder": "texture", "encoder_id": "t"}, {"encoder": "gigapath"}):
        sample = featured()
        said_of(sample, **facts)
        with pytest.raises(ValueError, match=rf"encoder '{facts['encoder']}'.*but the model's features .*'uni2_h'"):
            sp.tl.embed(sample, model)
    for name in ("uni2_h", "uni_v2", "mine"):
        sample = featured()
        said_of(sample, encoder=name, encoder_id="u")
        sp.tl.embed(sample, model)


def test_names_and_scale_of_the_genes_can_be_given(release, tmp_path):
    """The authors' notebook saves raw counts; the experts then read them as they are."""
    sample = featured()
    model = read(release, use_rep="X_f", genes=GenePanel(GENES[:G], scale="counts"))
    model.save(tmp_path / "saved")
    sp.tl.embed(sample, SpadeModel.load(tmp_path / "saved"))
    table = sample["table"]
    spots = model.encode_expression(table.X.toarray()[:, :G], table.obsm["spade_expert_weights"])
    np.testing.assert_allclose(table.obsm["X_spade_expression"], spots, atol=1e-5)
    with pytest.raises(ValueError, match=r"genes: got 3 names, but the experts in .* read 20; name each"):
        read(release, genes=GENES[:3])


class Trap:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (self.marker, "w")


def resave(path, change):
    state = torch.load(path, weights_only=True)
    inner = state.get("model", state)
    change(inner)
    torch.save(state, path)


FC = "spot_projection.fc.weight"
FIRST = "best_UNI_proto0_epoch99.pt"


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (
            lambda f: (f / "last_proto1.pth").write_bytes((f / "best_UNI_proto1_epoch99.pt").read_bytes()),
            ValueError,
            r"has 2 files for expert 1: best_UNI_proto1_epoch99\.pt, last_proto1\.pth\. Keep one",
        ),
        (
            lambda f: (f / FIRST).unlink(),
            FileNotFoundError,
            r"no file …proto\{e\}….pt for experts \[0\] of the 3.*\[1, 2\]",
        ),
        (
            lambda f: torch.save({}, f / "x_proto3.pt"),
            ValueError,
            r"has files for experts \[3\], but assignment names only 3",
        ),
        (
            lambda f: resave(f / FIRST, lambda s: s.pop(FC)),
            ValueError,
            r"proto0.*keys \['spot_projection\.fc\.weight'\] are mis",
        ),
        (
            lambda f: resave(f / FIRST, lambda s: s.update(more=torch.ones(1))),
            ValueError,
            r"\['more'\] are not expected",
        ),
        (lambda f: resave(f / FIRST, lambda s: s.update({FC: s[FC][:2]})), ValueError, r"files do not fit together"),
        (
            lambda f: resave(f / FIRST, lambda s: s.update({FC: s[FC][0]})),
            ValueError,
            r"are not floating-point arrays of the",
        ),
        (
            lambda f: torch.save(Expert(5).state_dict(), f / FIRST),
            ValueError,
            r"reads 5 image features, but the centroids have 8",
        ),
        (
            lambda f: torch.save(Expert(), f / FIRST),
            ValueError,
            r"Only tensors are read, never code: save model\.state_dict\(\)",
        ),
        (
            lambda f: (f / FIRST).write_bytes((f / FIRST).read_bytes()[:500]),
            ValueError,
            r"proto0.* (cannot be read|is damaged)",
        ),
    ],
)
def test_files_that_are_not_of_that_form_are_refused(release, damage, error, said):
    damage(release[0])
    with pytest.raises(error, match=said):
        read(release)


def test_code_in_a_file_is_never_run(release, tmp_path):
    marker = tmp_path / "ran"
    torch.save({"model": Trap(str(marker))}, release[0] / FIRST)
    with pytest.raises(ValueError, match="never code"):
        read(release)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"assignment": [0, 1, 2]}, ValueError, r"centroids has shape \(5, 8\) and assignment \(3,\)"),
        ({"assignment": [0, 1, 2, -1, 0]}, ValueError, r"assignment: expected whole numbers from 0"),
        ({"assignment": [0, 1, 2, 0.5, 0]}, ValueError, r"assignment: expected whole numbers from 0"),
        ({"centroids": np.full((5, D), np.nan)}, ValueError, r"centroids has NaN"),
        ({"centroids": "nowhere.npy"}, FileNotFoundError, r"centroids: there is no file 'nowhere\.npy'"),
        ({"centroids": __file__}, ValueError, r"cannot be read as a \.npy file of numbers"),
        ({"folder": "nowhere"}, FileNotFoundError, r"folder='nowhere' is not a folder"),
    ],
)
def test_arguments_are_checked(release, options, error, said):
    folder, _, centroids, assignment = release
    arguments = {"folder": folder, "centroids": centroids, "assignment": assignment} | options
    with pytest.raises(error, match=said):
        read_published_spade(**arguments)
