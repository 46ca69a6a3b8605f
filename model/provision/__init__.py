"""Brings a model onto this machine, verified and converted, and finds it again. Cheap to import: no torch."""

from model.provision.catalogue import CATALOGUE, DEFAULT_MODEL, DTYPES, Dtype
from model.provision.cpu import default_dtype
from model.provision.progress import OnProgress, Progress
from model.provision.provisioning import (
    ModelInfo,
    Variant,
    Verification,
    list_models,
    pull,
    resolve,
    verify,
)
from model.provision.store import store_root

__all__ = [
    "CATALOGUE",
    "DEFAULT_MODEL",
    "DTYPES",
    "Dtype",
    "ModelInfo",
    "OnProgress",
    "Progress",
    "Variant",
    "Verification",
    "default_dtype",
    "list_models",
    "pull",
    "resolve",
    "store_root",
    "verify",
]
