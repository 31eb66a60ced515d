"""Writes the classifier of a finished run as files that need nothing of this project.

    python export.py --run holiday --out out
    python export.py --run holiday --out out --format pt2

Leaves out/<run>.onnx (for onnxruntime), out/<run>.pt2 (for torch.export.load), and out/<run>.md, a
model card that says what the model is and how it is called. Pixels go in, probabilities come out:
normalisation and softmax are inside.
"""

from configs.config_export import ExportConfig
from src_py.run.options import run_script


def main(config: ExportConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    from src_py.clusters.classifier import choose_classifier, load_cluster_names
    from src_py.output.export import (
        PixelClassifier,
        metadata,
        require_onnx,
        save_onnx,
        save_pt2,
        trace,
    )
    from src_py.output.model_card import ModelCard
    from src_py.run.files import write_atomically
    from src_py.run.stored_models import load_clustering

    files = config.files
    if "onnx" in config.formats:
        require_onnx()
    checkpoint = choose_classifier(files)
    model, content = load_clustering(checkpoint)
    clusters = content["clusters"]
    # Of clusters that a split has added since, the exported network knows nothing.
    cluster_names = load_cluster_names(files, clusters).of_first(clusters)

    classifier = PixelClassifier(model, content)
    program = trace(classifier)
    about = metadata(config.run, checkpoint, content["stage"], cluster_names)
    exported = []
    for name, save in (("onnx", save_onnx), ("pt2", save_pt2)):
        if name in config.formats:
            path = config.out / f"{config.run}.{name}"
            difference = save(path, program, classifier, about)
            exported.append(path)
            print(f"{path}: largest difference from {checkpoint} {difference:.1g}")

    parameters = sum(weight.numel() for weight in model.parameters())
    card = ModelCard(files, checkpoint, content, cluster_names, parameters, exported).text()
    path = config.out / f"{config.run}.md"
    write_atomically(path, lambda temporary: temporary.write_text(card, encoding="utf-8"))
    print(f"{path}: what the model is and how it is called")


if __name__ == "__main__":
    run_script(ExportConfig, "export", main, __doc__)
