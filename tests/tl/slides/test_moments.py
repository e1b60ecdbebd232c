"""Mean and deviation over the patches of slides."""

from __future__ import annotations

import numpy as np

from spade.tl._slides.heads import Moments


def test_the_scale_of_slides_is_that_of_their_patches():
    rng = np.random.default_rng(0)
    slides = [rng.normal(mean, 1 + mean, (50, 3)) for mean in (0.0, 2.0, 5.0)]
    moments = Moments(np.array([x.mean(0) for x in slides]), np.array([x.var(0) for x in slides]))
    for chosen in ([0, 1, 2], [1, 2], [0]):
        mean, deviation = moments.scale(np.array(chosen))
        patches = np.concatenate([slides[i] for i in chosen])
        np.testing.assert_allclose(mean, patches.mean(0))
        np.testing.assert_allclose(deviation, patches.std(0))
