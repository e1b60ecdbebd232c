"""The model card, written as README.md into a model's directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spade._version import __version__

if TYPE_CHECKING:
    from spade.models._seal import SealModel
    from spade.models._spade import SpadeModel


def card(model: SpadeModel) -> str:
    """Say what the model is, what it was trained on and how it may be used."""
    config = model.config
    lines = [
        "# SPADE model",
        "",
        f"A mixture of {model.n_experts} data experts that puts H&E patches and spot expression into one space of "
        f"{model.dim} dimensions (SPADE, arXiv 2506.21857), written by spade {__version__}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| id | `{model.id}` |",
        f"| image features | `{config.use_rep}`: {model.n_features} features of encoder "
        f"{config.encoder or 'not recorded'} (id {config.encoder_id or 'not recorded'}) |",
        f"| patches | {f'{config.patch_um:g} µm at {config.patch_px} px' if config.patch_um else 'not recorded'} |",
        f"| gene panel | {model.n_genes} genes{'' if model.genes else ' (names not known)'} |",
        f"| prototypes | {model.routing.n_prototypes}, feature scaling `{config.feature_scaling}` |",
        f"| loss | `{config.loss}`, temperature {config.temperature:g} |",
        f"| optimiser | AdamW, lr {config.lr:g}, weight decay {config.weight_decay:g}, batch {config.batch_size}, "
        f"{config.n_epochs} epochs, seed {config.seed} |",
        *(f"| {name.replace('_', ' ')} | {value} |" for name, value in model.facts.items()),
        "",
        "The weights inherit the terms of the training data and of the image encoder; check both before sharing them.",
        "",
        "```python",
        "import spade as sp",
        "",
        'model = sp.models.SpadeModel.load("this directory")',
        "sp.tl.embed(samples, model)",
        "```",
        "",
    ]
    return "\n".join(lines)


def seal_card(model: SealModel) -> str:
    """Say what a fine-tuned encoder is, what it was trained on and how it may be used."""
    from spade.core.vision.lora import AdaptedStage

    config = model.config
    losses = ", ".join(f"{name.replace('_', ' ')} {weight:g}" for name, weight in config.loss_weights().items())
    if model.reads_pixels:
        images = f"patches of {model.input_px} px{f' ({config.patch_um:g} µm)' if config.patch_um else ''}"
        cnn = any(isinstance(part, AdaptedStage) for part in model.net.vision.modules())
        where = "last stage" if cnn else f"last {config.n_blocks} block(s), {', '.join(config.targets)}"
        tuned = f"{where}: rank {config.rank}, alpha {config.alpha:g}"
        use = "sp.pp.encode_patches(samples, encoder=model)"
    else:
        images, tuned = f"`{config.use_rep}`: {model.n_features} features", f"a head ({config.head}) on frozen features"
        use = "sp.tl.embed(samples, model)"
    lines = [
        "# SEAL model",
        "",
        f"Images and expression of tissue in one space of {model.dim} dimensions (SEAL, arXiv 2602.14177), written by spade "
        f"{__version__}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| id | `{model.id}` |",
        f"| encoder | {config.encoder or 'not recorded'} (weights {config.encoder_id or 'not recorded'}) |",
        f"| reads | {images} |",
        f"| trained | {tuned} |",
        f"| gene panel | {model.n_genes} genes |",
        f"| losses | {losses} |",
        f"| optimiser | AdamW, lr {config.lr:g}, weight decay {config.weight_decay:g}, batch {config.batch_size}, "
        f"{config.n_epochs} epochs, seed {config.seed} |",
        *(f"| {name.replace('_', ' ')} | {value} |" for name, value in model.facts.items()),
        "",
        "The weights inherit the terms of the training data and of the image encoder; check both before sharing them.",
        "",
        "```python",
        "import spade as sp",
        "",
        'model = sp.models.SealModel.load("this directory")',
        use,
        "```",
        "",
    ]
    return "\n".join(lines)
