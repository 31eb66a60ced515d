"""Stage 3, SCAN: a classifier that puts every image and its neighbors into one cluster.

    python scan.py
    python scan.py --run holiday --clusters 12

Leaves ckp/<run>/scan.pt. Next: python selflabel.py --run <run>
"""

from configs.base_config import STARTED, run_script
from configs.config_scan import ScanConfig


def main(config: ScanConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    import numpy as np
    import torch

    from src_py.checkpoints import (
        clustering_content,
        load_contrastive,
        made_from,
        require,
        require_current_mining,
    )
    from src_py.cluster_labels import LABELS_FILE, set_aside
    from src_py.guard import balanced_information, choose_scan_or_kmeans, kmeans_head
    from src_py.hardware import choose_hardware
    from src_py.models import ClusterHeads, ClusteringModel
    from src_py.neighbor_pairs import NeighborPairs
    from src_py.run_data import (
        load_settings,
        open_split,
        require_enough_images,
        require_rows,
    )
    from src_py.session import TrainingSession
    from src_py.training_loops import calibrate, keep_best_head, train_heads, train_scan

    files = config.files
    settings = load_settings(files)
    pretext = require(files, files.output("simclr"), f"simclr.py {files.option}")
    mining = f"extract_features.py {files.option}"
    features_file = require(files, files.features, mining)
    neighbors_file = require(files, files.neighbors, mining)
    require_current_mining(files, pretext)
    hardware = choose_hardware(config.device)
    session = TrainingSession(config, "scan", hardware, made_from(files, "scan"), started=STARTED)
    if session.is_finished:
        return

    opened = open_split(files, settings, "train", hardware, config.loading)
    require_rows(files, opened.names)
    require_enough_images(len(opened.names), config.clusters)
    images = opened.loader
    pairs = NeighborPairs.of(np.load(neighbors_file), hardware.device, config.mutual)
    statistics = (settings.mean, settings.std)

    if not session.is_resumable:
        set_aside(files.checkpoints / LABELS_FILE)
    torch.manual_seed(config.seed)
    backbone = load_contrastive(pretext).backbone
    features = torch.from_numpy(np.load(features_file)).to(hardware.device)  # (N, D)
    if config.head_epochs and not session.is_resumable:
        heads = train_heads(features, pairs, config, session)
    else:
        heads = ClusterHeads(backbone.feature_dim, config.clusters, config.heads)
    model = hardware.place(ClusteringModel(backbone, heads), config.compile)

    trained = train_scan(model, images, pairs, statistics, config, session)
    best, logits = keep_best_head(trained, images, pairs, statistics, config, session)

    head = kmeans_head(features, pairs.neighbors, config.clusters, config.seed)
    kmeans = hardware.place(ClusteringModel(load_contrastive(pretext).backbone, head))
    candidates = {"scan": (best, logits), "kmeans": (kmeans, head(features)[0].detach())}
    evidence = {
        name: balanced_information(
            *candidate,
            images,
            pairs.neighbors,
            config.augment,
            statistics,
            hardware,
            session.generator(epoch=-3),
        )
        for name, candidate in candidates.items()
    }
    kept = choose_scan_or_kmeans(evidence, config.guard, session.say)
    best, logits = candidates[kept]
    temperature = calibrate(logits, pairs.neighbors, session)

    content = clustering_content(best, settings, temperature)
    path = session.finish(content, kept=kept, information=evidence)
    print(f"{path} written; next: python selflabel.py {files.option}")


if __name__ == "__main__":
    run_script(ScanConfig, "scan", main, __doc__)
