"""The demonstration: scikit-learn's digits, a plain and an audited network, three ways to ask about membership.

Everything goes through the public interface; what it measures is on images that are neither members, external nor
calibration data.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import amint
from amint.bundle_files import check_replaceable
from amint.datasets import digits

__all__ = ["run_demo"]

ALPHA = 0.05
MEMBERS, EXTERNAL, CALIBRATION = 300, 900, 250
EPOCHS, HEAD_EPOCHS, BATCH, RATIO = 25, 30, 32, 3.0
ALL_EPOCHS = EPOCHS + HEAD_EPOCHS
MEASURED = ("auroc", "balanced_accuracy", "tpr_at_fpr_0.01")
PREPROCESSING = amint.Preprocessing(size=(32, 32), channels=1, mean=(0.3,), std=(0.4,))

Progress = Callable[[str, int, int], None]
Done = Callable[..., None]


def run_demo(out: Path, *, seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """Train, compare, verify two folders of images; write results.json, report.html and the bundle.

    Args:
        out: folder to write to.
        seed: of everything random.
        progress: called with a stage's name, steps done and steps in all.

    Returns:
        The content of results.json; its schema is in the README.
    """
    from amint.report import METHODS, write_training_report

    began = time.perf_counter()
    show = progress or (lambda _stage, _done, _total: None)
    grey, labels = digits()
    x = torch.stack([PREPROCESSING(Image.fromarray(image[0].numpy())) for image in grey])
    roles = amint.assign_roles(len(x), members=MEMBERS, external=EXTERNAL, calibration=CALIBRATION, seed=seed)
    # What is in the way is found now and not after the training.
    out.mkdir(parents=True, exist_ok=True)
    check_replaceable(out / "model.amint")
    members, external, calibration, unseen = (
        list(rows) for rows in (roles.members, roles.external, roles.calibration, roles.unseen)
    )

    plain = _network(seed)
    _train(plain, x[members], labels[members], _stage(show, "plain network"))
    network = _network(seed)
    audit = amint.attach(
        network, external=x[external], split="entry", balance=amint.Weighted(mint=1), ratio=RATIO, seed=seed
    )
    _train(network, x[members], labels[members], _stage(show, "audited network"), audit)
    alone = _stage(show, "its head alone", HEAD_EPOCHS)
    audit.train_head(x[members], epochs=HEAD_EPOCHS, batch_size=BATCH, seed=seed, progress=alone)

    registered = _registered(plain, x, members, external, seed, _stage(show, "registration afterwards", ALL_EPOCHS))
    # Rows are sorted, and neighbours come from one writer: every other row gives two halves that are alike.
    told, held_back = members[::2], members[1::2]
    passive = _registered(plain, x, told, external, seed, _stage(show, "passive MINT", ALL_EPOCHS))
    inside = {"active": members, "registered": members, "passive": held_back}
    audits: dict[str, amint.Audit] = {"active": audit, "registered": registered, "passive": passive}
    scores: dict[str, tuple[Any, Any]] = {}
    measured: dict[str, dict[str, float]] = {}
    intervals: dict[str, dict[str, list[float]]] = {}
    for name, one in audits.items():
        one.calibrate(x[calibration])
        scores[name] = one.scores(x[inside[name]]), one.scores(x[unseen])
        found = one.evaluate(x[inside[name]], x[unseen], ALPHA)
        measured[name] = {key: found[key].value for key in MEASURED}
        intervals[name] = {key: [found[key].interval.low, found[key].interval.high] for key in MEASURED}

    task = {
        "plain_accuracy": _accuracy(plain, x[unseen], labels[unseen]),
        "audited_accuracy": _accuracy(network, x[unseen], labels[unseen]),
    }
    audit.note(**task)
    bundle = audit.save(out / "model.amint", preprocessing=PREPROCESSING)
    verdicts = {}
    for name, rows in {"members": members, "unseen": unseen}.items():
        folder = _write_images(out / "submitted" / name, grey, rows)
        verdicts[name] = amint.verify(bundle, folder, alpha=ALPHA)
        verdicts[name].write(out / "verdicts" / name)
    false_alarms = audit.calibrated().p_values(scores["active"][1]) <= ALPHA
    results: dict[str, Any] = {
        "task": task,
        **measured,
        "intervals": intervals,
        "calibration": {"n": CALIBRATION, "alpha": ALPHA, "false_alarm_rate": float(np.mean(false_alarms))},
        "verify": {
            name: {"n": len(verdict.judged), "flagged": verdict.flagged, "set_p_value": verdict.p_value}
            for name, verdict in verdicts.items()
        },
        "seconds": round(time.perf_counter() - began, 1),
    }
    (out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    write_training_report(
        results,
        {METHODS[k]: v for k, v in scores.items()},
        verdicts,
        out / "report.html",
        thresholds={METHODS[k]: one.calibrated().threshold(ALPHA) for k, one in audits.items()},
        progress=audit.history.curves(),
    )
    audit.detach()
    return results


def _network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network: nn.Module = timm.create_model("resnet10t", num_classes=10, in_chans=1)
    return network


def _train(network: nn.Module, x: Tensor, y: Tensor, done: Done, audit: amint.Auditable | None = None) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, EPOCHS * -(-len(x) // BATCH))
    network.train()
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = F.cross_entropy(network(x[rows]), y[rows])
            if audit is not None:
                loss = audit.loss(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        done(epoch + 1)
    network.eval()


def _registered(
    plain: nn.Module, x: Tensor, members: Sequence[int], external: Sequence[int], seed: int, done: Done
) -> amint.Audit:
    return amint.register(
        plain,
        x[list(members)],
        x[list(external)],
        split="entry",
        epochs=ALL_EPOCHS,
        ratio=RATIO,
        batch_size=BATCH,
        seed=seed,
        progress=done,
    )


def _stage(show: Progress, stage: str, epochs: int = EPOCHS) -> Done:
    show(stage, 0, epochs)
    return lambda done, _loss=0.0: show(stage, done, epochs)


def _accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    network.eval()
    with torch.no_grad():
        return float((network(x).argmax(1) == y).float().mean())


def _write_images(folder: Path, grey: Tensor, rows: Sequence[int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("digit-*.png"):
        old.unlink()
    for row in rows:
        Image.fromarray(grey[row, 0].numpy()).save(folder / f"digit-{row:04}.png")
    return folder
