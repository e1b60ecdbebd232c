"""How sure the routing is of every patch, and how far the patch is from all that the model has seen."""

from __future__ import annotations

import logging

import numpy as np

from spade import _keys
from spade._samples.model_features import check_spade, features_key, read_model_features
from spade._samples.open import Samples, iter_samples
from spade.core.experts.routing import routing_entropy
from spade.models import SpadeModel

logger = logging.getLogger("spade")


def routing_scores(
    samples: Samples,
    model: SpadeModel,
    *,
    key_added: str = _keys.STEM,
    use_rep: str | None = None,
    table_key: str | None = None,
) -> None:
    r"""Write how undecided the routing of every patch is, and how far the patch lies from the training data.

    The entropy says how many experts share a patch: 0 nats is one alone, log E all alike, exp(entropy) their effective number. The
    distance is an out-of-distribution score: that from the patch's features to the nearest prototype of the training data, in the
    scaled coordinates that the model routes in.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these, with image features; expression is not needed.
    model
        From :func:`train_spade` or :meth:`spade.models.SpadeModel.load`.
    key_added
        Stem of the keys written.
    use_rep
        ``obsm`` key of the image features; None: the one the model was trained on.
    table_key
        Table; may be left out when there is one.

    Returns
    -------
    None
        Writes ``obs["spade_entropy"]`` (nats) and ``obs["spade_distance"]``, NaN where there is no valid patch. Prototypes of
        experts that were never trained do not count, as they embed nothing.

    Raises
    ------
    KeyError
        Features or table that are not there.
    ValueError
        Features of another width or encoder.

    Notes
    -----
    With ``feature_scaling="standard"`` the distance is :math:`\sqrt{\frac1D \sum_j (z_j - c_j)^2}` over the features' z-scores z by
    training mean and deviation: the root of the mean squared z-score difference. The whole training data lie at 1 (root mean
    square) from their own mean, and so, as a rule, training patches lie below 1 from a prototype; several times that is unlike
    anything seen (another stain, artefacts, background). Where to cut is best read off the training samples: score them as well,
    and distrust what lies beyond, say, their 99th percentile. With ``"none"`` the distance is in units of the encoder.

    A far patch is not always undecided: the softmax over distances may be sharp far from every prototype. The two scores say
    different things.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> panel = sp.pp.select_genes(samples)
    >>> model = sp.tl.train_spade(samples, use_rep="X_texture", genes=panel, n_prototypes=4, n_experts=2, n_epochs=2)
    >>> sp.tl.routing_scores(samples, model)
    >>> bool((samples[0]["table"].obs["spade_distance"] < 2).all())
    True
    """
    check_spade(model)
    stem = _keys.check_key(key_added)
    use_rep = features_key(model, use_rep)
    for sample in iter_samples(samples, table_key=table_key):
        features = read_model_features(sample, use_rep, model)
        entropy = routing_entropy(model.route(features))
        distance = model.routing.nearest_distance(features)
        sample.table.obs[_keys.entropy(stem)] = entropy
        sample.table.obs[_keys.distance(stem)] = distance
        _keys.write_provenance(
            sample.table.uns,
            _keys.distance(stem),
            function="tl.routing_scores",
            model="SpadeModel",
            model_id=model.id,
            encoder=model.config.encoder,
            use_rep=use_rep,
            feature_scaling=model.config.feature_scaling,
            seed=model.config.seed,
        )
        sample.save()
        known = ~np.isnan(distance)
        logger.info(
            "%s: wrote obs[%r], obs[%r] of %d patches (%d without a valid one are NaN)",
            sample.name,
            _keys.entropy(stem),
            _keys.distance(stem),
            int(known.sum()),
            int((~known).sum()),
        )
