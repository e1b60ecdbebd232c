"""Augmentation: symmetries move pixels and nothing else, stains change within bounds, and draws can be repeated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spade.core.seal.augment import STAINS, Augment, augment

MOVES = {"flips": True, "rotations": True, "stain": 0.0}
STAIN = {"flips": False, "rotations": False}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def patches(n=64, side=6, seed=1):
    return torch.rand(n, 3, side, side, generator=seeded(seed))


def symmetries(patch):
    """The 8 symmetries of the square, as turns of a patch and of its mirror image."""
    return [torch.rot90(p, k, (1, 2)) for p in (patch, patch.flip(2)) for k in range(4)]


def of_symmetry(out, patch):
    """Number of the symmetry that made each patch."""
    equal = torch.stack([(out == s).flatten(1).all(1) for s in symmetries(patch)], dim=1)
    assert (equal.sum(1) == 1).all(), "not one exact permutation of the pixels"
    return equal.int().argmax(1)


def density(x):
    return -torch.log(x.double().clamp_min(1e-9))


@pytest.mark.parametrize(
    ("flips", "rotations", "allowed"),
    [(True, True, range(8)), (True, False, (0, 2, 4, 6)), (False, True, range(4)), (False, False, (0,))],
)
def test_every_symmetry_is_as_likely_as_any_other(flips, rotations, allowed):
    patch, n = patches(1, side=5)[0], 8_000
    out = augment(patch.expand(n, -1, -1, -1), Augment(flips, rotations, stain=0.0), seeded())
    counts = torch.bincount(of_symmetry(out, patch), minlength=8)
    assert set(torch.nonzero(counts).flatten().tolist()) == set(allowed)
    share = n / len(allowed)
    chi2 = float(((counts[list(allowed)] - share) ** 2 / share).sum())
    assert chi2 < 25  # of 7 degrees of freedom: p < 0.001, of a draw that never changes


def test_patches_keep_their_place():
    x = patches()
    out = augment(x, Augment(**MOVES), seeded())
    assert not torch.equal(out, x)
    for before, after in zip(x, out, strict=True):
        of_symmetry(after[None], before)


def test_nothing_to_do_gives_the_same_object():
    x, generator = patches(), seeded()
    assert augment(x, Augment(flips=False, rotations=False, stain=0.0), generator) is x


def test_the_input_is_left_as_it_is():
    x = patches()
    before = x.clone()
    augment(x, Augment(stain=0.2), seeded())
    assert torch.equal(x, before)


def test_a_batch_can_be_repeated_and_another_draw_is_another():
    x = patches()
    one, same, other = (augment(x, Augment(), seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    generator = seeded(3)
    assert not torch.equal(augment(x, Augment(), generator), augment(x, Augment(), generator))


@pytest.mark.parametrize("n", [1, 15, 16, 17, 33])
def test_a_draw_depends_on_the_place_alone(n):
    x = patches()
    torch.testing.assert_close(augment(x[:n], Augment(), seeded()), augment(x, Augment(), seeded())[:n])
    moved = augment(x, Augment(**MOVES), seeded())
    stained = augment(x, Augment(**STAIN), seeded())
    both = augment(x, Augment(), seeded())
    for i in range(n):
        k = of_symmetry(moved[i][None], x[i])
        torch.testing.assert_close(both[i], symmetries(stained[i])[k])


def test_global_random_state_is_left_alone():
    state = torch.random.get_rng_state()
    augment(patches(), Augment(), seeded())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_jitter_of_no_strength_changes_nothing():
    eight_bit = torch.arange(256).repeat(3, 1).view(1, 3, 16, 16) / 255
    x = torch.cat([eight_bit, eight_bit.flip(3), patches(14, 16)])
    x[2, :, 3, 3] = 0
    out = augment(x, Augment(**STAIN, stain=1e-12), seeded())
    assert out is not x
    torch.testing.assert_close(out, x, atol=1e-6, rtol=0)


def test_densities_of_stains_are_scaled_and_shifted_once_per_patch():
    strength, n = 0.1, 200
    stains = torch.nn.functional.normalize(torch.tensor(STAINS, dtype=torch.float64), dim=1)
    amounts = torch.rand(n, 50, 3, generator=seeded(), dtype=torch.float64) * 0.6 + 0.2
    x = torch.exp(-amounts @ stains).mT.reshape(n, 3, 5, 10).float()
    out = augment(x, Augment(**STAIN, stain=strength), seeded(2))
    after = density(out).flatten(2).mT @ torch.linalg.inv(stains)
    found = []
    for before, changed in zip(amounts.unbind(), after.unbind(), strict=True):
        for s in range(3):
            slope, offset = np.polyfit(before[:, s].numpy(), changed[:, s].numpy(), 1)
            np.testing.assert_allclose(changed[:, s], slope * before[:, s] + offset, atol=1e-4)
            found.append((slope - 1, offset))
    found = np.array(found)
    assert (np.abs(found) <= strength + 1e-3).all()
    np.testing.assert_allclose(found.mean(0), 0, atol=0.1 * strength)
    np.testing.assert_allclose(found.std(0), strength / np.sqrt(3), rtol=0.1)
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.15


def test_white_stays_about_white_and_black_stays_black():
    ends = torch.cat([torch.ones(50, 3, 4, 4), torch.zeros(50, 3, 4, 4)])
    white, black = augment(ends, Augment(), seeded()).split(50)
    assert white.min() > 0.88
    assert white.max() <= 1
    assert not black.any()


@pytest.mark.parametrize("strength", [0.05, 0.5, 0.99])
def test_any_colour_stays_a_colour(strength):
    grey = torch.linspace(0, 1, 64).view(64, 1, 1, 1).expand(64, 3, 4, 4)
    pure = torch.tensor([[float(b) for b in f"{i:03b}"] for i in range(8)]).view(8, 3, 1, 1).expand(8, 3, 4, 4)
    out = augment(torch.cat([grey, pure]), Augment(stain=strength), seeded())
    assert torch.isfinite(out).all()
    assert out.min() >= 0
    assert out.max() <= 1


def test_the_type_is_kept_and_an_empty_batch_is_none():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        out = augment(patches().to(dtype), Augment(), seeded())
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), augment(patches(), Augment(), seeded()), atol=0.01, rtol=0)
    assert augment(patches(0), Augment(), seeded()).shape == (0, 3, 6, 6)


def test_patches_need_not_be_squares_to_be_mirrored():
    x = torch.rand(40, 3, 4, 7, generator=seeded())
    out = augment(x, Augment(rotations=False), seeded())
    assert out.shape == x.shape
    with pytest.raises(ValueError, match=r"x has shape \(40, 3, 4, 7\); expected \(n, 3, h, w\) with h = w"):
        augment(x, Augment(), seeded())
    with pytest.raises(ValueError, match=r"x has shape \(3, 4, 7\)"):
        augment(x[0], Augment(), seeded())


@pytest.mark.parametrize("stain", [-0.1, 1.0, float("nan")])
def test_the_strength_is_checked(stain):
    with pytest.raises(ValueError, match=r"stain=.*: expected a number from 0 to below 1"):
        Augment(stain=stain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives():
    x = patches(32, 32)
    on_gpu = augment(x.cuda(), Augment(stain=0.2), seeded())
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), augment(x, Augment(stain=0.2), seeded()), atol=1e-5, rtol=0)
