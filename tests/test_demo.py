import json
from html.parser import HTMLParser

import pytest

import amint
from amint.bundle import read
from amint.demo import run_demo
from amint.evidence import Verdict

ROW = {"auroc", "balanced_accuracy", "tpr_at_fpr_0.01"}


@pytest.mark.slow
def test_demo_keeps_its_promises(tmp_path):
    stages = {}
    results = run_demo(tmp_path, progress=lambda stage, done, total: stages.update({stage: (done, total)}))

    assert results == json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {"task", "active", "registered", "passive", "intervals", "calibration", "verify", "seconds"}
    for name in ("active", "registered", "passive"):
        for figure, (low, high) in results["intervals"][name].items():
            assert low <= results[name][figure] <= high
    assert {frozenset(results[name]) for name in ("active", "registered", "passive")} == {frozenset(ROW)}
    assert all(done == total > 0 for done, total in stages.values())

    active, alpha = results["active"], results["calibration"]["alpha"]
    assert active["auroc"] >= 0.95
    assert active["auroc"] >= results["passive"]["auroc"] + 0.25
    assert abs(results["task"]["plain_accuracy"] - results["task"]["audited_accuracy"]) <= 0.015
    members, unseen = results["verify"]["members"], results["verify"]["unseen"]
    assert unseen["flagged"] / unseen["n"] <= 2 * alpha
    assert unseen["set_p_value"] > alpha
    assert members["set_p_value"] < 1e-6
    assert members["flagged"] > members["n"] / 2

    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    HTMLParser().feed(report)
    assert "Task loss and MINT loss over 250 training steps" in report
    assert read(tmp_path / "model.amint").manifest["facts"]["task"] == results["task"]
    verdict = Verdict.from_json((tmp_path / "verdicts" / "members" / "verdict.json").read_text(encoding="utf-8"))
    assert (verdict.decision, len(verdict.judged)) == ("used", 300)
    # The images on disk score as the tensors they were trained as.
    assert amint.load(tmp_path / "model.amint").bundle.preprocessing.size == (32, 32)
