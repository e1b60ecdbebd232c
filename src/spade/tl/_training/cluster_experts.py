"""Two-stage clustering of image features into prototypes and experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from spade import _keys
from spade._checks import plural
from spade._said.lines import speaks, wrote
from spade._samples.features import read_features
from spade._samples.obs import categorical, group_labels, read_roles
from spade._samples.open import Item, Samples, as_list, iter_samples
from spade.core.checks import check_text
from spade.core.experts.clustering import two_stage
from spade.core.experts.routing import Routing
from spade.core.files import digest
from spade.core.recipes import cluster_recipe, given_settings
from spade.core.rng import as_seed
from spade.core.roles import TRAIN
from spade.models import SpadeConfig
from spade.tl._training.data import FeatureReader


@speaks
def cluster_experts(
    samples: Samples,
    *,
    use_rep: str,
    groupby: str | None = None,
    n_prototypes: int | None = None,
    n_experts: int | None = None,
    feature_scaling: str = SpadeConfig.feature_scaling,
    routing_temperature: float = SpadeConfig.routing_temperature,
    split_key: str | None = SpadeConfig.split_key,
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str = _keys.STEM,
) -> Routing:
    """Cluster image features into prototypes, and prototypes into experts.

    Stage 1: k-means (best of 5 k-means++ starts, 50 iterations) within each group. Stage 2: k-means over all groups'
    centroids. A spot belongs to the expert of its nearest prototype. (SPADE, arXiv 2506.21857.)

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    use_rep
        ``obsm`` key of the image features.
    groupby
        ``obs`` column of the groups of stage 1, such as ``"organ"``; None: one group.
    n_prototypes
        Fine centroids per group; a smaller group gets one per spot, with a warning. None: 16 (that of the paper), or
        as many as make two for every expert; at most half the spots of a group.
    n_experts
        Experts: coarse clusters of all prototypes. None: one per 1,000 training spots, from 1 to 16 (that of the
        paper).
    feature_scaling
        ``"standard"``: distances after subtracting the mean and dividing by deviation · √D; ``"none"``: as they are
        (the authors), where routing comes close to a hard choice.
    routing_temperature
        τ_r of the softmax over distances, kept in the routing.
    split_key
        ``obs`` column, as in :func:`train_spade`: only spots marked ``"train"`` shape the clusters, and all spots are
        then assigned. None: all spots do.
    table_key
        Table; may be left out when there is one.
    rng
        Seed. Starts of clusters follow the order of the rows: the same spots in another order may give other clusters.
    key_added
        Stem of the keys written.

    Returns
    -------
    Routing
        Prototypes and their experts, for ``train_spade(routing=…)``. Also writes ``obs["spade_prototype"]`` and
        ``obs["spade_cluster"]``, categoricals of strings, missing where a spot has no valid patch.

    Raises
    ------
    KeyError
        ``use_rep`` or ``groupby`` that is not there.
    ValueError
        More experts than prototypes, features of different widths or encoders, or no valid row.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> routing = sp.tl.cluster_experts(samples, use_rep="X_texture", groupby="organ", n_prototypes=4, n_experts=4)
    >>> routing.centroids.shape[0]
    8
    """
    given = given_settings(None, {"n_prototypes": n_prototypes, "n_experts": n_experts})
    config = SpadeConfig(
        use_rep=use_rep,
        groupby=groupby,
        feature_scaling=feature_scaling,
        routing_temperature=routing_temperature,
        split_key=split_key,
        seed=as_seed(rng),
        **given,
    )
    samples = as_list(samples, writes=True)
    _keys.check_key(key_added)
    for name, column in (("groupby", groupby), ("split_key", split_key)):
        if column is not None and check_text(name, column) in (_keys.prototype(key_added), _keys.cluster(key_added)):
            raise ValueError(
                f"key_added={key_added!r} would replace obs[{column!r}], which is read; choose another name."
            )
    features, groups, config = _read(samples, config, table_key)
    config = replace(config, **cluster_recipe(len(features), len(np.unique(groups)), given))
    with tqdm(total=len(np.unique(groups)), desc="clustering", unit="group") as bar:
        routing = two_stage(
            features,
            groups,
            n_prototypes=config.n_prototypes,
            n_experts=config.n_experts,
            feature_scaling=config.feature_scaling,
            temperature=config.routing_temperature,
            seed=config.seed,
            progress=lambda _: bar.update(),
        )
    routing = replace(routing, settings=config.of_routing())
    prototypes, experts = ([str(i) for i in range(n)] for n in (routing.n_prototypes, routing.n_experts))
    for sample in iter_samples(samples, table_key=table_key, writes=True):
        nearest = routing.assign(read_features(sample, use_rep))
        sample.table.obs[_keys.prototype(key_added)] = categorical(np.array([*prototypes, ""])[nearest], prototypes)
        sample.table.obs[_keys.cluster(key_added)] = categorical(
            np.where(nearest < 0, "", np.array(experts)[routing.assignment[nearest]]), experts
        )
        _keys.write_provenance(
            sample.table.uns,
            _keys.cluster(key_added),
            function="tl.cluster_experts",
            use_rep=use_rep,
            groupby=groupby,
            n_prototypes=routing.n_prototypes,
            n_experts=routing.n_experts,
            feature_scaling=feature_scaling,
            split_key=split_key,
            seed=config.seed,
            routing_id=digest(routing.centroids, routing.assignment),
        )
        _keys.write_parts(sample.table.uns, _keys.cluster(key_added), _keys.prototype(key_added))
        sample.save()
        wrote(sample.name, *(f"obs[{key!r}]" for key in (_keys.prototype(key_added), _keys.cluster(key_added))))
    return routing


def _read(
    samples: Sequence[Item], config: SpadeConfig, table_key: str | None
) -> tuple[NDArray[np.float32], NDArray[np.str_], SpadeConfig]:
    """Read the features that shape the clusters, their groups, and the origin of the features."""
    reader, groups, n_valid = FeatureReader(), [], 0
    for sample in iter_samples(samples, table_key=table_key, tables_only=True):
        images = reader.read(sample, config)
        config = replace(config, **images.origin)
        n_valid += int(images.valid.sum())
        rows = images.take(np.flatnonzero(images.valid & (read_roles(sample, config.split_key) == TRAIN)))
        groups.append(
            group_labels(sample, config.groupby)[rows] if config.groupby is not None else np.zeros(len(rows), "U1")
        )
    if not n_valid:
        raise ValueError(f"obsm[{config.use_rep!r}] has no valid row in any sample: all patches are off their images.")
    if not sum(map(len, groups)):
        left = plural(n_valid, "spot")
        raise ValueError(f"no spot is left to cluster among {left} with features (split_key={config.split_key!r}).")
    return reader.joined()[0], np.concatenate(groups), config
