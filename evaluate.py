"""Scores a run: against labels where the images have them, and without labels where not.

    python evaluate.py
    python evaluate.py --run holiday

The only script that reads a label. Prints a table and writes logs/<run>/evaluation.json,
confusion.png and contact_sheet.png.
"""

from pathlib import Path

from configs.config_evaluate import EvaluateConfig
from src_py.run.options import run_script


def main(config: EvaluateConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    from src_py.clusters.classifier import load_cluster_names
    from src_py.images.loaders import unshared
    from src_py.images.run_images import load_settings, open_split, require_mined
    from src_py.inference import folded
    from src_py.output.gallery import save_contact_sheet
    from src_py.run.arrays import load_features, load_neighbors
    from src_py.run.claim import settle
    from src_py.run.files import write_record
    from src_py.run.hardware import choose_hardware
    from src_py.run.stages import CLASSIFIERS, LABELS_FILE
    from src_py.run.stored_models import load_clustering, load_contrastive
    from src_py.scoring import evaluation
    from src_py.scoring.class_labels import load_labels

    files = config.files
    settle(files)
    settings = load_settings(files, config.data)
    root = None if settings.root is None else Path(settings.root)
    pretext = files.made(files.output("simclr"), "simclr")
    hardware = choose_hardware(config.device, config.precision)
    encoder = hardware.place(load_contrastive(pretext).backbone)
    classifiers = {
        stage: load_clustering(files.made(files.output(stage), stage))
        for stage in CLASSIFIERS
        if files.is_current(stage, corrected=False)
    }
    for stage in CLASSIFIERS:
        if files.output(stage).exists() and stage not in classifiers:
            print(
                f"{files.output(stage)} was made from other files than those of now, and is left "
                f"out; run again: python {stage}.py {files.option}"
            )
    # The last stage may have learned of clusters that splits have added.
    clusters = max((content["clusters"] for _, content in classifiers.values()), default=0)
    # Of clusters that splits have added since, the classifiers know nothing.
    cluster_names = {
        stage: load_cluster_names(files, clusters).of_first(clusters) for stage in classifiers
    }

    splits = {}
    for split in ("train", "test"):
        opened = open_split(files, settings, split, hardware, config.loading)
        if opened is None:
            continue
        compute = evaluation.Computation(
            opened.loader, hardware, config.batch_size, files.checkpoints
        )
        mined = split == "train" and files.is_current("extract_features")
        if mined:
            require_mined(files, opened)
        # Frozen weights have given the features of the training images already.
        seen = mined and encoder.spec.frozen
        if not seen and encoder.spec.frozen:
            encoder = folded(encoder, settings.image_size)
        features = load_features(files) if seen else compute.features(encoder)
        splits[split] = evaluation.Split(
            images=unshared(opened.loader),
            labels=load_labels(
                settings.source, root, split, opened.names, config.folder_labels, settings.classes
            ),
            features=features,
            probabilities={
                stage: compute.probabilities(
                    hardware.place(model), content["temperature"], cluster_names[stage], features
                )
                for stage, (model, content) in classifiers.items()
            },
            neighbors=load_neighbors(files) if mined else None,
        )

    if not hardware.world.is_first:
        return
    result = evaluation.evaluate(splits, pixels=config.pixels, seed=config.seed)
    print(evaluation.as_table(config.run, result))
    if classifiers and any(names.merge for names in cluster_names.values()):
        print(f"merged clusters count as one, as {files.checkpoints / LABELS_FILE} says")
    try:
        write_record(files.evaluation, result)
        if classifiers:
            last = list(classifiers)[-1]
            names = cluster_names[last].group_names
            evaluation.save_confusion(files.logs / "confusion.png", splits, last, names)
            train, sheet = splits["train"], files.logs / "contact_sheet.png"
            save_contact_sheet(sheet, train.images, train.probabilities[last], names)
            print(f"pictures: {sheet}")
    except OSError as error:  # the scores are what was asked for, and they are told
        print(f"not kept: {error}")


if __name__ == "__main__":
    run_script(EvaluateConfig, "evaluate", main, __doc__)
