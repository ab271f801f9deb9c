"""All membership attacks on one overfitted network, beside its own MINT head: the comparison table.

    python recipes/compare_attacks.py --data-root DATA    # CIFAR-10, DATA as in amint.datasets.cifar10
    python recipes/compare_attacks.py --smoke             # scikit-learn's digits, a minute

A small network is trained on the members with the Lightning callback, and its head alone at the end; reference models
are trained on random halves of members and non-members together, so that each sample is in half of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
from few_known import FewKnown
from launch import launch
from rich.console import Console
from rich.table import Table
from small_cnn import Classifier
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import amint
from amint import datasets
from amint.attacks.informia import InfoRmia
from amint.attacks.registry import names
from amint.attacks.rmia import Rmia
from amint.report.comparison import write_comparison_report

EXTERNAL, CALIBRATION = 2, 0.4  # rows for each member
FEW = (30, 100, 300)  # known non-members that RMIA and InfoRMIA are left with


def prepared(images: Tensor) -> Tensor:
    """uint8 ``[n, c, h, w]`` -> float32, roughly centred."""
    return images.float() / 127.5 - 1


def accuracy(model: nn.Module, rows: TensorDataset) -> float:
    """Share of right answers."""
    x, y = rows.tensors
    model.eval()
    with torch.no_grad():
        return float(torch.cat([model(part).argmax(1) for part in x.split(500)]).eq(y).float().mean())


def main(
    *,
    data_root: Path | None = None,
    members: int = 5000,
    references: int = 8,
    epochs: int = 30,
    head_epochs: int = 10,
    width: int = 16,
    seed: int = 0,
    out: Path = Path("runs/compare"),
    smoke: bool = False,
) -> dict[str, Any]:
    """Train, attack, print and save the table."""
    images, labels = datasets.digits() if data_root is None or smoke else datasets.cifar10(data_root, train=True)
    if smoke:
        members, references, epochs, head_epochs, width = 200, 4, 12, 4, 8
    x, y = prepared(images), labels
    external, calibration = EXTERNAL * members, int(CALIBRATION * members)
    roles = amint.assign_roles(len(x), members=members, external=external, calibration=calibration, seed=seed)
    inside, outside = list(roles.members), list(roles.unseen)[:members]
    trained, unseen = (TensorDataset(x[rows], y[rows]) for rows in (inside, outside))
    silent = ("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar")
    quiet: dict[str, Any] = dict.fromkeys(silent, False)

    def make() -> Classifier:
        return Classifier(x.shape[1], x.shape[2], width)

    pool = TensorDataset(x[inside + outside], y[inside + outside])
    fleet = amint.train_references(
        make, pool, out=out / "references", max_epochs=epochs, k=references, seed=seed, batch_size=100,
        trainer_arguments=quiet,
    )  # fmt: skip
    L.seed_everything(seed, verbose=False)
    module = make()
    callback = amint.ActiveMint(
        external=x[list(roles.external)],
        calibration=x[list(roles.calibration)],
        backbone="model",
        split=["entry", "middle"],
        balance=amint.Weighted(),
        ratio=2.0,
        # So many members take more units than the default head has.
        head=amint.HeadSize(width=64, hidden=256, pool=8) if images.shape[1] == 3 else None,
        negatives=amint.HardNegatives(amint.horizontal_flip, members=True) if images.shape[1] == 3 else None,
        bundle=None,
        seed=seed,
    )
    loader = DataLoader(trained, 100, shuffle=True)
    L.Trainer(max_epochs=epochs, callbacks=[callback], **quiet).fit(module, loader)
    if (audit := callback.audit) is None:
        raise SystemExit("training was stopped before it began")
    along = amint.compare(audit, trained, unseen, attacks=["mint"], seed=seed)["mint"]
    audit.train_head(loader, epochs=head_epochs)
    audit.calibrate(x[list(roles.calibration)])
    few = [FewKnown(attack, most) for attack in (Rmia("online"), InfoRmia("online")) for most in FEW]
    found = amint.compare(audit, trained, unseen, attacks=[*names(), *few], fleet=fleet, seed=seed)
    found.write(out)
    write_comparison_report(found, out / "report.html")
    row: dict[str, Any] = {"train_accuracy": accuracy(module.model, trained)}
    row |= {"test_accuracy": accuracy(module.model, unseen)}
    print(json.dumps(row))
    row["mint_before_its_head_learned_alone"] = {
        m.name: (m.value, m.interval.low, m.interval.high) for m in along.measurements
    }
    (out / "row.json").write_text(json.dumps(row, indent=1), encoding="utf-8")
    table = Table("attack", "AUROC", "balanced\naccuracy", "TPR at\n1 %", "TPR at\n0.1 %")
    for name, result in [(r.name, r) for r in found.ranked] + [("mint, before its\nhead learned alone", along)]:
        figures = [result[m] for m in ("auroc", "balanced_accuracy", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001")]
        table.add_row(name, *(f"{m.value:.3f}\n{m.interval.low:.2f}–{m.interval.high:.2f}" for m in figures))
    Console().print(table, found.sentence(), found.epsilon_sentence())
    return row


if __name__ == "__main__":
    launch(main)
