"""Stage 3, SCAN: a classifier that puts every image and its neighbors into one cluster.

    python scan.py
    python scan.py --run holiday --clusters 12

Leaves ckp/<run>/scan.pt. Next: python selflabel.py --run <run>
"""

from configs.config_scan import ScanConfig
from src_py.run.options import STARTED, run_script


def main(config: ScanConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    import numpy as np
    import torch

    from src_py.cluster_heads import train_heads
    from src_py.clusters.calibration import calibrate
    from src_py.clusters.guard import balanced_information, choose_scan_or_kmeans, kmeans_head
    from src_py.clusters.names import LABELS_FILE, set_aside
    from src_py.images.run_images import (
        load_settings,
        open_mined,
        require_enough_images,
    )
    from src_py.models import ClusterHeads, ClusteringModel
    from src_py.neighbor_pairs import NeighborPairs
    from src_py.run.checkpoints import clustering_content, load_contrastive
    from src_py.run.hardware import choose_hardware
    from src_py.run.session import TrainingSession
    from src_py.training_loops import keep_best_head, train_scan

    files = config.files
    settings = load_settings(files)
    pretext, features_file, neighbors_file = inputs = files.inputs("scan")
    hardware = choose_hardware(config.device)
    session = TrainingSession(config, "scan", hardware, inputs, started=STARTED)
    if session.is_finished:
        return

    opened = open_mined(files, settings, hardware, config.loading)
    require_enough_images(len(opened.names), config.clusters)
    images = opened.loader
    pairs = NeighborPairs.of(np.load(neighbors_file), hardware.device, config.mutual)

    if not session.is_resumable:
        set_aside(files.checkpoints / LABELS_FILE)
    torch.manual_seed(config.seed)
    backbone = load_contrastive(pretext).backbone
    features = torch.from_numpy(np.load(features_file)).to(hardware.device)  # (N, D)
    if config.head_epochs and not session.is_resumable:
        heads, head_epochs = train_heads(features, pairs, config, session)
    else:
        heads = ClusterHeads(backbone.feature_dim, config.clusters, config.heads)
        head_epochs = 0
    model = hardware.place(ClusteringModel(backbone, heads), config.compile)

    trained = train_scan(model, images, pairs, config, session, head_epochs)
    best, logits = keep_best_head(trained, images, pairs, config, session)

    head = kmeans_head(features, pairs.neighbors, config.clusters, config.seed)
    kmeans = hardware.place(ClusteringModel(load_contrastive(pretext).backbone, head))
    candidates = {"scan": (best, logits), "kmeans": (kmeans, head(features)[0].detach())}
    evidence = {
        name: balanced_information(
            *candidate,
            images,
            pairs.neighbors,
            config.augment,
            hardware,
            session.generator(epoch=-3),
        )
        for name, candidate in candidates.items()
    }
    kept = choose_scan_or_kmeans(evidence, config.guard, session.say)
    best, logits = candidates[kept]
    temperature = calibrate("scan", logits, pairs.neighbors, session.say)

    content = clustering_content(best, settings, temperature)
    path = session.finish(content, kept=kept, information=evidence)
    print(f"{path} written; next: python selflabel.py {files.option}")


if __name__ == "__main__":
    run_script(ScanConfig, "scan", main, __doc__)
