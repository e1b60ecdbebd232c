"""What ``embed`` and ``cluster_experts`` wrote of experts, read with errors that say what there is."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade import _keys
from spade._checks import shorten
from spade._samples import Sample


def expert_series(sample: Sample, key: str) -> pd.Series:
    """Return the experts of all spots: those of ``embed``, else the clusters of ``cluster_experts``."""
    obs = sample.table.obs
    for name in (_keys.expert(key), _keys.cluster(key)):
        if name in obs:
            return obs[name]
    there = [name for name in obs if str(name).endswith((_keys.expert(""), _keys.cluster("")))]
    raise KeyError(
        f"{sample.name}: key={key!r}: obs has neither {_keys.expert(key)!r} nor {_keys.cluster(key)!r}; experts there: "
        f"{shorten(there) or 'none'}. Run sp.tl.cluster_experts(samples, use_rep=...) or sp.tl.embed(samples, model)."
    )


def expert_weights(sample: Sample, key: str) -> NDArray[np.float32]:
    """Return the routing weights ``(n_obs, E)``, or raise with what there is."""
    name = _keys.weights(key)
    if name not in sample.table.obsm:
        there = [other for other in sample.table.obsm if str(other).endswith(_keys.weights(""))]
        raise KeyError(
            f"{sample.name}: key={key!r}: the routing weights obsm[{name!r}] are not there; weights there: "
            f"{shorten(there) or 'none'}. Run sp.tl.embed(samples, model)."
        )
    return np.asarray(sample.table.obsm[name], dtype=np.float32)
