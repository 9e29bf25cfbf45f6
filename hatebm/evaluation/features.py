"""Feature networks: what turns images as bytes into the vectors whose distributions are compared."""

import importlib
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hatebm.data import Images, to_pixels
from hatebm.errors import UsageError
from hatebm.evaluation.classifier import Classifier

FITTED = 4000  # images that the classifier learns from, at most
Features = Callable[[Tensor], Tensor]  # (n, channels, size, size) uint8 -> (n, d)

INCEPTION = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"


def inception(weights: str | Path | None = None, *, device: torch.device | str = "cpu") -> Features:
    """FID's own Inception-v3, whose 2,048 pooled features take images of any size as bytes; grey ones thrice.

    Args:
        weights: NVIDIA's TorchScript file inception-2015-12-05.pt (Karras et al. 2020), or the state dict
            pt_inception-2015-12-05-6726825d.pth of pytorch-fid, for which torch-fidelity must be installed; both are
            translations of the network of Heusel et al. 2017. None downloads the first into the user's cache.
        device: where the network runs.

    Raises:
        UsageError: the download fails, or the file is none of the two.

    A TorchScript file is a program: load only one that you trust.
    """
    path = Path(_downloaded() if weights is None else weights)
    if not path.is_file():
        raise UsageError(f"--weights: no file {path}")
    network = (_scripted if _is_torchscript(path) else _state_dict)(path, torch.device(device))

    def features(images: Tensor) -> Tensor:
        images = images.to(device)
        return network(images if images.shape[1] == 3 else images.expand(-1, 3, -1, -1))

    return features


def features_from(place: str) -> Features:
    """The features named "package.module:attribute": a module or function from bytes (n, channels, size, size).

    Raises:
        UsageError: there is no such module or attribute, or it cannot be called on images.
    """
    module, colon, attribute = place.partition(":")
    if not (module and colon and attribute):
        raise UsageError(f"--features: wanted package.module:attribute, got {place!r}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--features: cannot import {place}: {error}") from None
    except (Exception, SystemExit) as error:  # code of the user's, which may raise anything
        raise UsageError(f"--features: cannot import {place}: {type(error).__name__}: {error}") from error
    if isinstance(found, type) or not callable(found):
        raise UsageError(f"--features: {place} must be a module or a function of images, got {type(found).__name__}")
    return _Named(found, name=f"--features: {place}")


class _Named(partial):
    """Features of which whatever they raise is named."""

    def __call__(self, images: Tensor) -> Tensor:
        try:
            return self.func(images)
        except (Exception, SystemExit) as error:
            raise UsageError(f"{self.keywords['name']} raised {type(error).__name__}: {error}") from error


def classifier_features(images: Images) -> Features:
    """The 32 features of a small classifier fitted on labelled training images, here and now."""
    if images.train_labels is None:
        raise UsageError("--features: a classifier needs data with labels")
    images = images.thinned(FITTED)
    return of_bytes(Classifier.fit(to_pixels(images.train), images.train_labels).features)


def of_bytes(function: Callable[[Tensor], Tensor]) -> Features:
    """Features of bytes from features of pixels in [-1, 1]."""
    return lambda images: function(to_pixels(images))


def _downloaded() -> str:
    import pooch

    try:
        return pooch.retrieve(
            INCEPTION, f"sha256:{INCEPTION_SHA256}", fname=Path(INCEPTION).name, path=pooch.os_cache("hatebm")
        )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot download {INCEPTION} ({type(error).__name__}); fetch it elsewhere and name it with --weights, "
            "or take other features with --features package.module:attribute"
        ) from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _scripted(path: Path, device: torch.device) -> Features:
    with warnings.catch_warnings(), path.open("rb") as file:  # a path that is no UTF-8 torch cannot open
        warnings.filterwarnings("ignore", r"`torch\.jit\.load`", DeprecationWarning)
        try:
            network = torch.jit.load(file, map_location=device).eval()
        except RuntimeError as error:
            raise UsageError(f"--weights: the TorchScript file {path} cannot be read: {error}") from error
    return _Named(lambda images: network(images, return_features=True), name=f"--weights: {path}")


def _state_dict(path: Path, device: torch.device) -> Features:
    try:
        torch.load(path, map_location="cpu", weights_only=True)  # torch-fidelity would also run what hides in a pickle
    except Exception as error:  # what is no pickle fails in any way
        raise UsageError(f"--weights: {path} is neither TorchScript nor a state dict") from error
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path), antialias=False)  # TensorFlow's resize
    except ImportError as error:
        raise UsageError(
            f"--weights: the state dict {path} needs torch-fidelity and torchvision (pip install torch-fidelity; "
            f"{error}); the TorchScript file {INCEPTION} needs neither"
        ) from error
    return network.to(device)
