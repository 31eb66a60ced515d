"""Stage 3, SCAN: a classifier that puts every image and its neighbors into one cluster.

    python scan.py
    python scan.py --run holiday --clusters 12

Leaves ckp/<run>/scan.pt. Next: python selflabel.py --run <run>
"""

from configs.config_scan import ScanConfig
from src_py.run.options import STARTED, run_script


def main(config: ScanConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    import torch

    from src_py import cluster_heads, neighbor_pairs, training_loops
    from src_py.clusters import calibration, guard, suggestions
    from src_py.images import run_images
    from src_py.models import ClusteringModel
    from src_py.run import arrays, stored_models
    from src_py.run.claim import claim
    from src_py.run.hardware import choose_hardware
    from src_py.run.session import TrainingSession
    from src_py.stored_features import StoredFeatures

    files = config.files
    claim(files, config.data)
    hardware = choose_hardware(config.device, config.precision)
    settings = run_images.load_settings(files, config.data)
    pretext, *_ = inputs = files.inputs("scan")
    session = TrainingSession(config, "scan", hardware, inputs, started=STARTED)
    if session.is_finished:
        return

    opened = run_images.open_mined(files, settings, hardware, config.loading)
    run_images.require_enough_images(len(opened.names), config.clusters)
    images = opened.loader
    neighbors = arrays.load_neighbors(files)  # (N, k)
    pairs = neighbor_pairs.NeighborPairs.of(
        neighbors, hardware.device, config.mutual, files.checkpoints
    )

    torch.manual_seed(config.seed)
    backbone = stored_models.load_contrastive(pretext).backbone
    frozen = backbone.spec.frozen
    on_stored = frozen and not config.fresh_views  # else the network sees views of its own
    stored = StoredFeatures.load(files, hardware.device, frozen)
    views: guard.Views = stored
    if not frozen:
        seen = (images, config.augment, hardware, config.batch_size)
        views = guard.ImageViews(*seen, files.checkpoints)
    if on_stored or (config.head_epochs and not session.is_resumable):
        heads, head_epochs = cluster_heads.train_heads(stored, pairs, config, session)
    else:
        heads, head_epochs = cluster_heads.random_heads(stored, config), 0
    model = hardware.place(ClusteringModel(backbone, heads), config.compile)

    if on_stored:  # heads are all there is to train: that of lowest loss comes first
        session.begin()
        model.heads = heads.keep([0])
    else:
        model = training_loops.train_scan(model, images, pairs, config, session, head_epochs)
    if frozen:
        model.heads = cluster_heads.keep_best_head(model.heads, stored, pairs, config, session)
        scan = guard.Candidate(model, views.logits(model))
    else:
        best = training_loops.keep_best_head(model, images, pairs, config, session)
        scan = guard.Candidate(*best)

    # A network that is trained is no longer the one that gave the features.
    pretrained = backbone if frozen else stored_models.load_contrastive(pretext).backbone
    kmeans = guard.kmeans_classifier(pretrained, stored, pairs.neighbors, config, hardware)
    candidates = {"scan": scan, "kmeans": kmeans}
    compared = (candidates, views, pairs.neighbors, config.guard, session)
    kept, information = guard.keep_scan_or_kmeans(*compared)
    model, logits = candidates[kept]
    temperature = calibration.calibrate("scan", logits, pairs.neighbors, session.say)

    content = stored_models.clustering_content(model, settings, temperature)
    path = session.finish(content, kept=kept, information=information)
    if hardware.world.is_first:
        suggestions.keep_suggestions(files, logits, session.say)
    print(f"{path} written; next: python selflabel.py {files.option}")


if __name__ == "__main__":
    run_script(ScanConfig, "scan", main, __doc__)
