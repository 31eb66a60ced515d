"""benchmark.py on a tiny setting: every stage has its three arms, and the file says so."""

import json

import torch

from src_py.benchmarking import measure, steady


def test_every_stage_is_measured(run_script, tmp_path):
    told = run_script(
        "benchmark.py", "--widths", "4", "--image-size", "8", "--batch-size", "8", "--rounds", "1",
        "--seconds", "0.01", "--sizes", "500,600", "--device", "cpu", "--out", "figures.json",
        "--profile",
    ).stdout  # fmt: skip
    figures = json.loads((tmp_path / "figures.json").read_text())
    for stage in ("pretext", "scan", "selflabel", "extraction", "predict"):
        measured = figures["network"][f"{stage}, width 4"]
        assert measured["arms"].keys() == {"reference", "ours", "network"}
        assert all(arm["peak_memory_mib"] > 0 for arm in measured["arms"].values())
        assert f"{stage} ours/reference: " in told and f"{stage} ours/network: " in told
        shares = measured["top_operations"]["ours"]
        assert "aten::mkldnn_convolution" in shares and sum(shares.values()) <= 1
    assert figures["published_minutes"]["4"] > 0
    assert figures["mining"]["500"]["recall"] == 1


def test_arms_take_turns_and_every_round_counts():
    calls = []

    def arm(name):
        def step():
            calls.append(name)
            return 10

        return lambda: steady(step)

    found = measure({"a": arm("a"), "b": arm("b")}, 2, 0.0, torch.device("cpu"), warmup=1)
    assert [len(found[name].rates) for name in "ab"] == [2, 2]
    order = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert order == ["a", "b", "a", "b"]
