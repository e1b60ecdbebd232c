"""How certain the routing of every patch is, and how far the patch lies from the training data."""

from __future__ import annotations

import numpy as np

from spade import _keys
from spade._checks import plural
from spade._said.lines import speaks, wrote
from spade._samples.model_features import check_spade, features_key, read_model_features
from spade._samples.open import Samples, iter_samples
from spade._samples.sample import Sample
from spade.core.experts.routing import routing_entropy
from spade.models import SpadeModel


@speaks
def routing_scores(
    samples: Samples,
    model: SpadeModel,
    *,
    key_added: str = _keys.STEM,
    use_rep: str | None = None,
    table_key: str | None = None,
) -> None:
    r"""Write how uncertain the routing of every patch is, and how far the patch lies from the training data.

    The entropy says how many experts share a patch: 0 nats for a single one, log E for all alike; exp(entropy) is their
    effective number. The distance is an out-of-distribution score: from the features of the patch to the nearest
    prototype of the training data, in the scaled coordinates that the model routes in.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these, with image features; expression is not
        needed.
    model
        From :func:`train_spade` or :meth:`spade.models.SpadeModel.load`.
    key_added
        Stem of the keys written.
    use_rep
        ``obsm`` key of the image features; None: those that the model was trained on.
    table_key
        Table; may be left out when there is one.

    Returns
    -------
    None
        Writes ``obs["spade_entropy"]`` (nats) and ``obs["spade_distance"]``, NaN where there is no valid patch.
        Prototypes of experts that were never trained do not count, because those experts embed nothing.

    Raises
    ------
    KeyError
        Features or a table that do not exist.
    ValueError
        Features of another width or encoder, or a stem with the embeddings of another model.

    Notes
    -----
    With ``feature_scaling="standard"`` the distance is :math:`\sqrt{\frac1D \sum_j (z_j - c_j)^2}` over the z-scores z
    of the features by training mean and deviation: the root of the mean squared z-score difference. The training data
    as a whole lie at 1 (root mean square) from their own mean, so training patches usually lie below 1 from a
    prototype; a distance of several times that is unlike anything in training (another stain, artefacts, background).
    Choose the cutoff from the training samples: score them as well, and distrust patches beyond, say, their 99th
    percentile. With ``"none"`` the distance is in the units of the encoder.

    A distant patch is not always undecided: the softmax over distances may be sharp far from every prototype. The two
    scores measure different things.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> panel = sp.pp.select_genes(samples)
    >>> sizes = {"n_prototypes": 4, "n_experts": 2, "n_epochs": 2}
    >>> model = sp.tl.train_spade(samples, use_rep="X_texture", genes=panel, **sizes)
    >>> sp.tl.routing_scores(samples, model)
    >>> bool((samples[0]["table"].obs["spade_distance"] < 2).all())
    True
    """
    check_spade(model)
    stem = _keys.check_key(key_added)
    use_rep = features_key(model, use_rep)
    for sample in iter_samples(samples, table_key=table_key, writes=True):
        _check_model(sample, stem, model)
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
        _keys.write_parts(sample.table.uns, _keys.distance(stem), _keys.entropy(stem))
        sample.save()
        n_missing = int(np.isnan(distance).sum())
        keys = (f"obs[{key!r}]" for key in (_keys.entropy(stem), _keys.distance(stem)))
        detail = f"{plural(n_missing, 'spot')} without a valid patch are NaN" if n_missing else ""
        wrote(sample.name, *keys, detail=detail)


def _check_model(sample: Sample, stem: str, model: SpadeModel) -> None:
    """Raise if the embeddings and experts of a stem are of another model: scores of two would stand side by side."""
    embedded = _keys.read_provenance(sample.table.uns, _keys.joint(stem))
    if _keys.expert(stem) in sample.table.obs and embedded.get("model_id", model.id) != model.id:
        raise ValueError(
            f"{sample.name}: key_added={stem!r} has the experts of another model ({embedded['model_id']}, written by "
            f"sp.{embedded.get('function')}); this one is {model.id}. Embed with this model first, or choose another "
            "name."
        )
