"""Stage 2, mining: features of every training image and its nearest neighbors.

    python extract_features.py
    python extract_features.py --run holiday --neighbors 50

Leaves ckp/<run>/features.npy (N x D float32) and neighbors.npy (N x k int64, self excluded).
Next: python scan.py --run <run>
"""

from configs.base_config import run_script
from configs.config_extract_features import ExtractFeaturesConfig


def main(config: ExtractFeaturesConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    import numpy as np
    import torch

    from src_py.checkpoints import load_contrastive, require
    from src_py.hardware import choose_hardware
    from src_py.neighbors import find_neighbors, neighbor_statistics
    from src_py.run_data import load_settings, open_split
    from src_py.run_files import as_plain, write_array, write_json, write_table
    from src_py.training_loops import infer

    files = config.files
    settings = load_settings(files)
    require(files, files.output("simclr"), f"simclr.py --run {config.run}")
    hardware = choose_hardware(config.device)
    model = hardware.place(load_contrastive(files.output("simclr")))
    images = open_split(files, settings, "train", hardware, config.loading)

    network = model.backbone if config.features == "backbone" else model
    statistics = (settings.mean, settings.std)
    batches = infer(network, images.loader, statistics, hardware, config.batch_size)
    features = torch.cat([batch.cpu() for batch in batches]).numpy()  # (N, D)
    print(f"features: {features.shape[0]} x {features.shape[1]}, of the {config.features}")

    neighbors, similarity = find_neighbors(features, config.neighbors)  # (N, k)
    for name, value in neighbor_statistics(neighbors, similarity).items():
        print(f"neighbors: {name.replace('_', ' ')} {value:.4g}")

    write_array(files.features, features)
    write_array(files.neighbors, neighbors.astype(np.int64))
    write_table(files.rows, ("row", "path"), enumerate(images.names))
    write_json(files.config("extract_features"), {"config": as_plain(config)})
    print(f"{files.neighbors} written; next: python scan.py --run {config.run}")


if __name__ == "__main__":
    run_script(ExtractFeaturesConfig, "extract_features", main, __doc__)
