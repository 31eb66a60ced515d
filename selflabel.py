"""Stage 4, self-labelling: the classifier learns from its own confident predictions.

Images that a person has put into a cluster (label.py --serve) have that label throughout.

    python selflabel.py
    python selflabel.py --run holiday --threshold 0.95

Leaves ckp/<run>/selflabel.pt. Next: python evaluate.py --run <run>, or
python predict.py --run <run> FOLDER --out out
"""

from configs.config_selflabel import SelfLabelConfig
from src_py.run.options import STARTED, run_script


def main(config: SelfLabelConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    import copy

    import torch

    from src_py import cluster_heads, training_loops
    from src_py.clusters import calibration, growing, guard, suggestions
    from src_py.images import run_images
    from src_py.run import arrays, stored_models
    from src_py.run.claim import claim
    from src_py.run.hardware import choose_hardware
    from src_py.run.session import TrainingSession
    from src_py.stored_features import StoredFeatures

    files = config.files
    claim(files, config.data)
    hardware = choose_hardware(config.device, config.precision)
    settings = run_images.load_settings(files, config.data)
    scan, *_ = inputs = files.inputs("selflabel")
    session = TrainingSession(config, "selflabel", hardware, inputs, started=STARTED)
    if session.is_finished:
        return

    opened = run_images.open_mined(files, settings, hardware, config.loading)
    images = opened.loader
    neighbors = torch.from_numpy(arrays.load_neighbors(files)).to(hardware.device)  # (N, k)

    begun = hardware.place(stored_models.load_clustering(scan)[0])
    frozen = begun.backbone.spec.frozen and not config.fine_tune
    views: guard.Views
    if frozen:
        views = stored = StoredFeatures.load(files, hardware.device, frozen)
    else:
        seen = (images, config.strong_augment, hardware, config.batch_size)
        views = guard.ImageViews(*seen, files.checkpoints)
    begun, given = growing.with_corrections(begun, opened.names, views, files, session.say)

    corrected = bool((given >= 0).any())
    if corrected:
        given = growing.spread(given, neighbors, views.logits(begun).argmax(dim=1))

    torch.manual_seed(config.seed)
    model = copy.deepcopy(begun)
    model.backbone.set_frozen(frozen)
    model = hardware.place(model, config.compile)
    if frozen:
        learned_from = (stored, neighbors, config, session, given)
        model.heads = cluster_heads.self_label_heads(model.heads, *learned_from)
    else:
        model = training_loops.train_self_label(model, images, neighbors, config, session, given)

    candidates = {"scan": begun, "selflabel": model}
    # What a person has said is to be learned, whatever the evidence without it says.
    guarded = config.guard and not corrected
    compared = (candidates, views, neighbors, guarded, session)
    kept, information = guard.keep_scan_or_self_labelled(*compared)
    final = candidates[kept]
    logits = views.logits(final)
    temperature = calibration.calibrate("selflabel", logits, neighbors, session.say)

    content = stored_models.clustering_content(final, settings, temperature)
    path = session.finish(content, kept=kept, information=information, corrected=corrected)
    if hardware.world.is_first:
        suggestions.keep_suggestions(files, logits, session.say)
    print(f"{path} written; next: python evaluate.py {files.option}")


if __name__ == "__main__":
    run_script(SelfLabelConfig, "selflabel", main, __doc__)
