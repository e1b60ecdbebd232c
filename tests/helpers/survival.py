"""Known survival data, slow references for it, and a table of results."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

#: Freireich et al. 1963: weeks of remission under 6-MP (0: censored) and placebo.
TREATED = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
SEEN = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def slow_cox(risk, time, event, ties):
    total, n = 0.0, 0
    for moment in sorted(set(time[event])):
        at_risk = [math.exp(r) for r, t in zip(risk, time, strict=True) if t >= moment]
        tied = [r for r, t, e in zip(risk, time, event, strict=True) if e and t == moment]
        for i, r in enumerate(tied):
            share = i / len(tied) if ties == "efron" else 0
            total += math.log(sum(at_risk) - share * sum(map(math.exp, tied))) - r
            n += 1
    return total / n


def slow_concordance(time, event, risk, strata=None):
    right = pairs = 0.0
    for i in range(len(time)):
        for j in range(len(time)):
            first = event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j]))
            if first and (strata is None or strata[i] == strata[j]):
                pairs += 1
                right += 1 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0
    return right / pairs if pairs else math.nan


def results(n=40, repeats=2, seed=0, noise=(0.5, 3.0)):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    time, event = rng.integers(1, 30, n) * np.exp(-z), rng.random(n) < 0.7
    parts = [
        pd.DataFrame(
            {
                "representation": name,
                "repeat": repeat,
                "fold": np.random.default_rng(repeat).permutation(n) % 4,
                "patient": [f"p{i}" for i in range(n)],
                "time": time,
                "event": event,
                "risk": z + s * rng.normal(size=n),
            }
        )
        for repeat in range(repeats)
        for name, s in zip(("good", "bad"), noise, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)
