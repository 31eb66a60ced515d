"""Makes `import torchvision` work beside a torch build of the other kind (CPU or CUDA).

Where torch is a CPU build and torchvision a CUDA build, torchvision's compiled library cannot be
loaded and its import ends in "operator torchvision::nms does not exist". Nothing here calls those
operators, so declaring them is enough. Import this module before torchvision. Where the two builds
match it does nothing: declaring an operator twice would be an error of its own.
"""

import torch


def _import_torchvision() -> None:
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for operator in ("nms", "qnms"):
            if not torch._C._jit_get_schemas_for_operator(f"torchvision::{operator}"):
                schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                torch.library.define(f"torchvision::{operator}", schema)
        import torchvision  # noqa: F401


_import_torchvision()
