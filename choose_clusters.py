"""How many clusters? Trains heads on the stored features for a range of numbers, without labels.

    python choose_clusters.py
    python choose_clusters.py --run holiday --lowest 2 --highest 40

After extract_features.py and before scan.py. Prints a table and a recommendation, and writes
logs/<run>/choose_clusters.csv and choose_clusters.png, and ckp/<run>/clusters.json with the number.
Next: python scan.py --run <run> --clusters K
"""

from configs.config_choose_clusters import ChooseClustersConfig
from src_py.run.options import run_script

COLUMNS = "{:>4}  {:>13}  {:>9}  {:>10}  {:>16}"


def main(config: ChooseClustersConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    from dataclasses import astuple

    import torch

    from src_py.clusters.number import (
        RECOMMENDATION_FILE,
        ClusterNumberStudy,
        recommend,
        save_plot,
    )
    from src_py.neighbor_pairs import NeighborPairs
    from src_py.run.arrays import load_features, load_neighbors
    from src_py.run.claim import claim
    from src_py.run.csv_tables import write_table
    from src_py.run.files import write_record
    from src_py.run.hardware import choose_hardware

    files = config.files
    claim(files, config.data)
    files.inputs("scan")
    device = choose_hardware(config.device).device
    features = torch.from_numpy(load_features(files)).to(device)  # (N, D)
    pairs = NeighborPairs.of(load_neighbors(files), device)
    study = ClusterNumberStudy(features, pairs, config.images, config.seed)
    highest = config.highest or study.default_highest(config.lowest)
    study.require_images_for(highest)

    header = ("clusters", "held_out_loss", "agreement", "silhouette", "smallest_cluster")
    print(COLUMNS.format("K", *(name.replace("_", " ") for name in header[1:])), flush=True)
    evidence = []
    for clusters in range(config.lowest, highest + 1):
        found = study.examine(clusters, config.seeds)
        evidence.append(found)
        measures = (f"{value:.3f}" for value in (found.loss, found.agreement, found.silhouette))
        print(COLUMNS.format(clusters, *measures, f"{found.smallest:.1%}"), flush=True)

    recommended = recommend(evidence)
    print(f"recommended: {recommended}")
    table, plot = files.log("choose_clusters"), files.logs / "choose_clusters.png"
    write_table(table, header, map(astuple, evidence))
    save_plot(plot, evidence, recommended.clusters)
    told = {
        "recommended": recommended.clusters,
        "finer": recommended.finer,
        "reason": recommended.reason,
    }
    write_record(files.checkpoints / RECOMMENDATION_FILE, told)
    again = " --restart" if files.config("scan").exists() else ""
    print(
        f"{table} and {plot.name} written; next: python scan.py {files.option} "
        f"--clusters {recommended.clusters}{again}"
    )


if __name__ == "__main__":
    run_script(ChooseClustersConfig, "choose_clusters", main, __doc__)
