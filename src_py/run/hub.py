"""The Hugging Face hub, where timm keeps its weights: what is here already, and whether it answers.

The hub's own client asks it about files that are here, and repeats what fails for a minute.
"""

import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

FILES = ("model.safetensors", "pytorch_model.bin")  # in the order in which timm looks for them


def hub_folder() -> Path:
    """Where the hub's client keeps what it has downloaded."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def cached_weights(weights: "PretrainedCfg") -> Path | None:
    """The file of timm's weights, where it has been downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    if not weights.hf_hub_id:
        return None
    for name in (weights.hf_hub_filename, *FILES):
        found = try_to_load_from_cache(weights.hf_hub_id, name) if name else None
        if isinstance(found, str):
            return Path(found)
    return None


def weights_address(weights: "PretrainedCfg") -> str:
    """Where a person can download the file of timm's weights."""
    if not weights.hf_hub_id:
        return str(weights.url)
    name = weights.hf_hub_filename or FILES[0]
    return f"https://huggingface.co/{weights.hf_hub_id}/resolve/main/{name}"


def require_hub() -> None:
    """
    Raises:
        OSError: when its name is not known here, as without a network. Behind a proxy that is no
            sign.
    """
    from huggingface_hub.constants import ENDPOINT

    host = urlsplit(ENDPOINT).hostname
    if not getproxies().keys() & {"https", "all"}:
        try:
            socket.getaddrinfo(host, 443)
        except OSError:
            raise OSError(f"no network, or {host} is unknown to it") from None
