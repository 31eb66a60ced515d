"""Room on the disk for what a run writes."""

import shutil

from src_py.run.errors import UserError
from src_py.run.files import RunFiles

NETWORK_BYTES = 45e6  # of the weights of ResNet-18 at width 64, float32
RESNET50_BYTES = 112e6  # likewise, with its projection head
# What a run holds of them on disk at most: three finished stages, and twice, the new one written
# beside the old, a state to resume from: weights, Adam's two moments, the moving average.
NETWORKS_ON_DISK = 3 + 2 * 4


def bytes_written(images: int, width: int, backbone: str = "resnet18") -> int:
    """About what the four stages leave on the disk at the most, beside decoded images.

    Args:
        width, backbone: as backbones.new_spec takes them.
    """
    is_deep = backbone == "resnet50"
    network = RESNET50_BYTES if is_deep else NETWORK_BYTES
    networks = NETWORKS_ON_DISK * network * (width / 64) ** 2
    features = images * (32 if is_deep else 8) * width * 4  # float32
    views = features  # two in half precision, of frozen weights
    searched = 2 * images * 64 * 4  # components, and lists of them
    neighbors = images * 50 * (8 + 4)  # and their similarity
    return round(networks) + features + views + searched + neighbors


def require_disk_space(files: RunFiles, bytes_needed: int) -> None:
    """
    Args:
        bytes_needed: of the whole run; what it has written already counts towards it.

    Raises:
        UserError: when the disk of the run's folder is too full.
    """
    folder = files.checkpoints
    while not folder.exists():
        folder = folder.parent
    written = sum(path.stat().st_size for path in files.checkpoints.glob("*"))
    missing = bytes_needed - written
    free = shutil.disk_usage(folder).free
    if free < missing:
        raise UserError(
            f"{folder.resolve()}: run '{files.run}' writes up to {missing / 1e6:,.0f} MB there, "
            f"and {free / 1e6:,.0f} MB are free: free some space, or start the script in a folder "
            "on another disk"
        )
