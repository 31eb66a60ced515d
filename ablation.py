"""Compares recipes, and what each part of the best one is worth, over several seeds.

    python ablation.py --preset digits --recipes paper,best --seeds 0,1,2,3,4
    python ablation.py --preset digits --recipes best --variants no-mutual,no-reliable --seeds 0,1
    python ablation.py --preset digits --recipes "" --variants compact,resnet18 --seeds 0,1

Runs the four stages and evaluate.py for every setting and seed; what is done already is not done
again. Leaves results/<run>/<setting>/seed<N>/ (scores, logs, configurations, device, duration)
and results/<run>/table.md; <run> is the folder's or the preset's name.
"""

from configs.config_ablation import AblationConfig
from src_py.run.options import run_script


def main(config: AblationConfig) -> None:
    from src_py.research.ablation import RESULTS, as_table, run_setting, summarize

    out = config.out or RESULTS / config.run
    for seed in map(int, config.seeds.split(",")):
        for setting in config.settings:
            run_setting(config, setting, seed, out / setting / f"seed{seed}")
    table = as_table(summarize(out))
    (out / "table.md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    run_script(AblationConfig, "ablation", main, __doc__)
