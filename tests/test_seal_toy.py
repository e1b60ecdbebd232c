"""On the synthetic cohort: an encoder tuned against expression beats itself as it was, on patients that nothing was learned from."""

from __future__ import annotations

import pytest
from _small_vit import ARCHITECTURE, by_ridge, in_joint_space, pretrain

import spade as sp

TUNE = {"n_epochs": 8, "batch_size": 40, "lr": 5e-3, "n_blocks": 3, "gene_warmup": 20}
KEY = f"X_{ARCHITECTURE}"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Six patients to train on and two to measure on, a panel, and weights of a network that has seen the patches of the six."""
    weights = tmp_path_factory.mktemp("weights") / "vit.pth"
    samples = sp.datasets.toy(8, 100, n_genes=300)
    sp.pp.patches(samples)
    train, test = samples[:6], samples[6:]
    pretrain(train, weights, 2)
    genes = sp.pp.select_genes(train)
    sp.pp.encode_patches(samples, ARCHITECTURE, weights=weights)
    return train, test, genes, weights, by_ridge(train, test, genes, KEY)


def tuned(cohort, folder, seed, **options):
    """Pearson and rank by the features of a tuned encoder, and rank and chance in its joint space."""
    train, test, genes, weights, _ = cohort
    model = sp.tl.train_seal(
        train, encoder=ARCHITECTURE, weights=weights, genes=genes, cache_dir=folder, rng=seed, **TUNE, **options
    )
    for sample in (train, test):
        sp.tl.embed(sample, model)
    return (*by_ridge(train, test, genes, "X_seal_image"), *in_joint_space(test, model))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_tuned_encoder_beats_itself_as_it_was_and_shuffled_pairs_do_not(cohort, tmp_path, seed):
    *_, (frozen, frozen_rank) = cohort
    pearson, rank, joint, chance = tuned(cohort, tmp_path, seed)
    control, control_rank, control_joint, _ = tuned(cohort, tmp_path, seed, shuffle_pairs=True)
    print(
        f"\nseed {seed}: Pearson {frozen:.3f} frozen, {pearson:.3f} tuned, {control:.3f} shuffled; rank {frozen_rank}, {rank}, "
        f"{control_rank}; joint space {joint}, {control_joint} shuffled, {chance} by chance"
    )
    assert pearson > frozen
    assert rank < frozen_rank
    assert joint < chance / 2
    assert control_joint > 0.8 * chance
    assert control < pearson
    assert control_rank > rank
