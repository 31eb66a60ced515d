"""Stage 2, mining: features of every training image and its nearest neighbors.

    python extract_features.py
    python extract_features.py --run holiday --neighbors 50

Leaves ckp/<run>/features.npy (N x D float32) and neighbors.npy (N x k int64, self excluded); of
weights that stay as they are (--init) also views.npy (N x V x D float16), features of random views.
Next: python scan.py --run <run>
"""

import time
from collections import deque

from configs.config_extract_features import ExtractFeaturesConfig
from src_py.run.errors import UserError
from src_py.run.options import STARTED, run_script


def main(config: ExtractFeaturesConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    import numpy as np
    import torch

    from src_py.augmentation import PLAIN_VIEW
    from src_py.feature_space import condition
    from src_py.images.run_images import image_state, load_settings, open_train
    from src_py.inference import folded, gathered, infer, infer_views
    from src_py.neighbors import (
        are_all_alike,
        find_neighbors,
        neighbor_statistics,
        with_directions,
    )
    from src_py.run.claim import claim, new, require_room, switch
    from src_py.run.csv_tables import write_table
    from src_py.run.files import hashes, recorded, settings_digest, write_array, write_record
    from src_py.run.hardware import available_cores, choose_hardware
    from src_py.run.launch import launched_as
    from src_py.run.stored_models import load_contrastive

    files = config.files
    claim(files, config.data)
    hardware = choose_hardware(config.device)
    settings = load_settings(files, config.data)
    (pretext,) = files.inputs("extract_features")
    model = hardware.place(load_contrastive(pretext))
    images = open_train(files, settings, hardware, config.loading)

    if config.neighbors >= len(images.names):
        raise UserError(
            f"--neighbors {config.neighbors}: must be below the number of images, "
            f"{len(images.names)}"
        )
    backbone, frozen = model.backbone, model.backbone.spec.frozen
    seen = (images.loader, hardware, config.batch_size)
    per_image = 4 * backbone.feature_dim * (1 + (config.views / 2 if frozen else 0))  # bytes
    require_room(files, round(len(images.names) * (per_image + 8 * config.neighbors)))
    outputs = [*files.outputs("extract_features"), files.rows]
    if frozen:  # all that later stages will ever ask of the network
        backbone = folded(backbone, settings.image_size)
        shown = [PLAIN_VIEW] + config.views * [config.augment]
        generator = hardware.generator(*b"extract_features")
        batches = infer_views(backbone, *seen, shown, generator)
    else:
        batches = infer(backbone, *seen)
    if not hardware.world.is_first:  # it has its part in each, and keeps none
        deque(batches, maxlen=0)
        return
    features = gathered(batches, len(images.names), "features")  # (N, D), or (N, 1 + V, D)
    if frozen:
        write_array(new(files.views), features[:, 1:].half().numpy())
        outputs.append(files.views)
        features = features[:, 0].contiguous()
    print(f"features: {features.shape[0]} x {features.shape[1]}")
    if are_all_alike(features.numpy()):
        raise UserError(
            f"all {len(features)} images look the same to the network, so that nothing can be "
            "clustered: look at the images, or train the pretext for more epochs"
        )

    searched = features
    if config.features == "projection":
        if frozen:
            raise UserError("--features projection: --init without --fine-tune trains none")
        with torch.no_grad():
            searched = model.projection_head.cpu()(features)  # (N, 128)
    compared = with_directions(condition(searched, config.components).numpy())
    share = launched_as().local_size  # of the cores; the other processes only wait
    threads = share * available_cores() if hardware.world.size > 1 else None
    neighbors, similarity = find_neighbors(compared, config.neighbors, threads)  # (N, k)
    for name, value in neighbor_statistics(neighbors, similarity).items():
        print(f"neighbors: {name.replace('_', ' ')} {value:.4g}")

    write_array(new(files.features), features.numpy())
    write_array(new(files.neighbors), neighbors.astype(np.int64))
    write_table(new(files.rows), ("row", "path"), enumerate(images.names))
    made = {
        "stage": "extract_features",
        "made_from": hashes([pretext]),
        "config": recorded(config),
        "seconds": round(time.monotonic() - STARTED, 1),
        "settings": settings_digest(files.settled()),
        "images": image_state(images),
        "outputs": {path.name: told for path in outputs for told in hashes([new(path)]).values()},
    }
    outputs.append(files.config("extract_features"))
    write_record(new(outputs[-1]), made)
    moves = [(new(path).name, path.name) for path in outputs]
    switch(files, moves, [] if frozen else [files.views.name])
    print(f"{files.neighbors} written; next: python scan.py {files.option}")


if __name__ == "__main__":
    run_script(ExtractFeaturesConfig, "extract_features", main, __doc__)
