"""What a training needs and samples lack: patches, image features and a gene panel."""

from __future__ import annotations

import logging

from spade import _keys, pp
from spade._samples.listed import Listed
from spade._samples.open import Item, Samples, as_list, iter_samples
from spade._samples.sample import Sample
from spade.core.checks import check_text
from spade.core.distributed.ranks import torchrun_ranks
from spade.encoders import Encoder
from spade.encoders._output import check_encoder
from spade.models import SpadeConfig

logger = logging.getLogger("spade")


def features_key(encoder: str | Encoder | None, use_rep: str | None) -> str | None:
    """Return the key of the features to train on: ``use_rep``, else that of the encoder."""
    if encoder is None:
        return use_rep
    name = check_text("encoder", encoder) if isinstance(encoder, str) else check_encoder(encoder).name
    return _keys.features(name) if use_rep is None else use_rep


def prepared(
    samples: Samples,
    encoder: str | Encoder | None,
    config: SpadeConfig,
    *,
    choose: bool,
    table_key: str | None,
    on: tuple[str, int],
) -> Listed[Item]:
    """Return the samples; with an encoder, make what is missing there.

    The samples that lack the features to train on get patches and features, ``on`` a device or several of them; genes
    are chosen (``choose``) if not all samples have a panel. What is there is not made again.
    """
    listed = as_list(samples, writes=encoder is not None)
    if encoder is None or config.use_rep is None:
        return listed
    with torchrun_ranks() as ranks:
        if not ranks.alone:
            raise ValueError(
                "encoder= under torchrun: lay patches, encode them and choose genes first (sp.pp.patches, "
                "encode_patches, select_genes), then train without it."
            )
    use_rep, name = config.use_rep, encoder if isinstance(encoder, str) else encoder.name
    gene_key = _keys.gene(_keys.STEM)
    lacks_patches, lacks_features, unmarked = [], [], False
    for sample in iter_samples(listed, table_key=table_key, tables_only=True):
        unmarked |= sample.has_expression and gene_key not in sample.table.var
        lacks_features.append(use_rep not in sample.table.obsm)
        lacks_patches.append(lacks_features[-1] and not _keys.read_provenance(sample.table.uns, _keys.PATCHES))
        if not lacks_features[-1]:
            _check_encoder(sample, use_rep, name)
    without_features = [item for item, lacks in zip(listed.readable, lacks_features, strict=True) if lacks]
    without_patches = [item for item, lacks in zip(listed.readable, lacks_patches, strict=True) if lacks]
    if without_features:
        logger.info("obsm[%r] is made for %d of %d samples", use_rep, len(without_features), len(listed))
    if without_patches:
        pp.patches(without_patches, table_key=table_key)
    if without_features:
        device = on[0] if isinstance(encoder, str) else "auto"  # others have one of their own
        pp.encode_patches(
            without_features, encoder, key_added=use_rep, table_key=table_key, device=device, devices=on[1]
        )
    if choose and unmarked:
        pp.select_genes(listed, split_key=config.split_key, layer=config.layer, table_key=table_key)
    return listed


def _check_encoder(sample: Sample, use_rep: str, name: str) -> None:
    """Raise if the features that are there are those of another encoder."""
    made_by = _keys.read_provenance(sample.table.uns, use_rep).get("encoder")
    if made_by != name:
        raise ValueError(
            f"{sample.name}: obsm[{use_rep!r}] is there, but of encoder {made_by!r}, not {name!r}. Name another key "
            "with use_rep=, or leave encoder= out to train on what is there."
        )
