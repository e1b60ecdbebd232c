"""Predicted clusters and programs as a representation."""

from __future__ import annotations

from spade import _keys
from spade._said.lines import wrote
from spade._samples.model_features import read_program_features
from spade._samples.open import Samples, as_list, iter_samples
from spade.models import ProgramModel


def embed_programs(samples: Samples, model: ProgramModel, stem: str, table_key: str | None) -> None:
    """Write what a model predicts of every spot, section by section."""
    key = _keys.joint(stem)
    if key in model.config.keys:
        raise ValueError(f"key_added={stem!r} would replace the image features obsm[{key!r}] that the model reads.")
    listed = as_list(samples, writes=True)
    for sample in iter_samples(listed, table_key=table_key):  # nothing is written unless all can be
        read_program_features(sample, model)
        _keys.check_parts(sample.table.uns, sample.name, stem, "tl.embed", key)
    for sample in iter_samples(listed, table_key=table_key, writes=True):
        features = read_program_features(sample, model)
        sample.table.obsm[key] = model.encode_image(features, sample.section_of_row())
        _keys.write_provenance(
            sample.table.uns,
            key,
            function="tl.embed",
            model="ProgramModel",
            model_id=model.id,
            encoder=model.config.encoder,
            seed=model.config.seed,
            n_programs=model.n_programs,
            use_rep=model.config.use_rep,
        )
        sample.save()
        wrote(sample.name, f"obsm[{key!r}]")
