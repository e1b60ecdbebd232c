"""The genes that a panel may be chosen from: those that all samples have in common."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

from spade._checks import shorten
from spade._samples.sample import Sample
from spade.core.errors import warn
from spade.models._gene_names import few_common, fold_names

logger = logging.getLogger("spade")
#: Control probes of Xenium, CosMx and MERSCOPE. Whole names are matched: NEGR1 and the fly's ``blanks`` are genes.
CONTROLS = re.compile(
    r"NegControl.*|(Unassigned|Deprecated)Codeword_.*|Intergenic_Region_.*|antisense_.*|BLANK[-_]?\d+|"
    r"NegPrb\w*|Negative([-_ ]?Control.*|[-_]?\d+)|SystemControl.*|FalseCode.*",
    re.IGNORECASE,
)


def is_control(name: str) -> bool:
    """Whether a name is that of a control probe."""
    return CONTROLS.fullmatch(name) is not None


def usable_names(sample: Sample, *, fold_case: bool, drop_controls: bool) -> list[str]:
    """Return the names that a sample's genes are matched by; dropped genes are left out and reported."""
    own = sample.table.var_names.astype(str).tolist()
    names = fold_names(own) if fold_case else own
    if equal := [name for name, folded in zip(own, names, strict=True) if not folded]:
        warn(
            f"{sample.name}: {len(equal)} genes are dropped because their names are equal in upper case: "
            f"{shorten(equal)}."
        )
    controls = {name for name in own if drop_controls and is_control(name)}
    if controls:
        logger.info("%s: %d control probes dropped: %s", sample.name, len(controls), shorten(sorted(controls)))
    return [folded for name, folded in zip(own, names, strict=True) if folded and name not in controls]


def enough_common(
    usable: Mapping[str, Sequence[str]], min_genes: int, on_few_common: str, *, fold_case: bool
) -> tuple[list[str], list[str]]:
    """Return the samples that are kept and those that are dropped."""
    sets = {name: set(genes) for name, genes in usable.items()}
    dropped: list[str] = []
    while len(common := set.intersection(*sets.values())) < min_genes:
        if on_few_common == "error" or len(sets) == 1:
            names = {name: usable[name] for name in sets}
            reason = few_common(names, len(common), f"min_genes={min_genes}", fold_case=fold_case)
            raise ValueError(
                f'{reason} Train them separately, rename the genes, or leave samples out with on_few_common="drop".'
            )
        worst = max(sets, key=lambda name: len(set.intersection(*(s for other, s in sets.items() if other != name))))
        del sets[worst]
        dropped.append(worst)
    if dropped:
        warn(
            f"{', '.join(dropped)}: left out of gene selection and training, because with them fewer than "
            f"min_genes={min_genes} genes are common; {len(common)} are common to {', '.join(sets)}."
        )
    return list(sets), dropped
