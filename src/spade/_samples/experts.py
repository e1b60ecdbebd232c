"""Experts of spots, as ``embed`` and ``cluster_experts`` wrote them, and their colours; errors list what there is."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade import _keys
from spade._checks import shorten
from spade._samples.given.origins import Origins
from spade._samples.open import Samples, iter_samples
from spade._samples.sample import Sample, check_names
from spade.io._files.matrices import to_dense

#: Colours that are distinct with the common colour vision deficiencies as well; the same in every plot.
COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c1ff9", "#6c1313", "#cece7e", "#5c2353",
    "#301b98", "#a3dcb6", "#9783fc", "#e0064e", "#40136c", "#ae0404", "#67e4e4", "#a63f73", "#235c36", "#84a63f",
)  # fmt: skip


def expert_series(sample: Sample, key: str) -> pd.Series:
    """Return the experts of all spots: those of ``embed``, else the clusters of ``cluster_experts``."""
    obs = sample.table.obs
    for name in (_keys.expert(key), _keys.cluster(key)):
        if name in obs:
            sample.check_current(name)
            return obs[name]
    columns = [name for name in obs if str(name).endswith((_keys.expert(""), _keys.cluster("")))]
    raise KeyError(
        f"{sample.name}: key={key!r}: obs has neither {_keys.expert(key)!r} nor {_keys.cluster(key)!r}; experts there: "
        f"{shorten(columns) or 'none'}. Run sp.tl.cluster_experts(samples, use_rep=...) or sp.tl.embed(samples, model)."
    )


def expert_weights(sample: Sample, key: str) -> NDArray[np.float32]:
    """Return the routing weights ``(n_obs, E)``; raise with the weights there are."""
    name = _keys.weights(key)
    if name not in sample.table.obsm:
        weights = [other for other in sample.table.obsm if str(other).endswith(_keys.weights(""))]
        raise KeyError(
            f"{sample.name}: key={key!r}: the routing weights obsm[{name!r}] are not there; weights there: "
            f"{shorten(weights) or 'none'}. Run sp.tl.embed(samples, model)."
        )
    sample.check_current(_keys.expert(key))
    return to_dense(sample.table.obsm[name], f"{sample.name}: obsm[{name!r}]")


def iter_experts(samples: Samples, key: str, table_key: str | None) -> Iterator[tuple[Sample, NDArray[np.object_]]]:
    """Yield every sample with the expert of each spot as a string, ``""`` where it has none; names must differ."""
    columns: dict[str, str] = {}
    origins = Origins()
    for sample in iter_samples(samples, table_key=table_key):
        check_names([*columns, sample.name])
        series = expert_series(sample, key)
        columns[sample.name] = str(series.name)
        if len(set(columns.values())) > 1:
            first = next(iter(columns))
            raise ValueError(
                f"key={key!r}: {first} has obs[{columns[first]!r}], but {sample.name} has obs[{series.name!r}]. Run "
                "sp.tl.embed on all samples or on none."
            )
        origins.check(sample, _keys.joint(key) if series.name == _keys.expert(key) else str(series.name), "experts")
        yield sample, np.where(series.isna(), "", series.astype(str)).astype(object)


def by_number(experts: NDArray[np.object_]) -> list[str]:
    """Return the experts that occur, in the order of their numbers."""
    return sorted(set(experts.tolist()) - {""}, key=int)


def need_experts(experts: NDArray[np.object_], key: str) -> None:
    """Raise if no spot has an expert."""
    if not (experts != "").any():
        raise ValueError(
            f"key={key!r}: none of {len(experts)} spots has an expert, as no patch is valid. Check "
            "sp.pl.patches(samples)."
        )


def palette(n: int) -> NDArray[np.str_]:
    """Return ``n`` colours as hex strings; beyond 20, hues follow the golden angle."""
    extra = (
        colorsys.hls_to_rgb((0.618034 * i) % 1, 0.35 + 0.3 * (i % 2), 0.7) for i in range(max(0, n - len(COLOURS)))
    )
    return np.array([*COLOURS[:n], *("#" + "".join(f"{round(255 * c):02x}" for c in rgb) for rgb in extra)])
