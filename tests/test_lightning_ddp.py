"""Two processes on one machine: the script below runs in both of them, the test reads what they leave behind."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_toys import BENIGN, EXTERNAL, Validated
from toys import Net, images, same

import amint

pytestmark = [pytest.mark.ddp, *BENIGN]

SCRIPT = '''
import os
import warnings

import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning_toys import EXTERNAL, Validated, active_mint, loader, trainer
from toys import Net, images
from torch.utils.data import DataLoader

import amint

RANK = int(os.environ.get("LOCAL_RANK", 0))
torch.manual_seed(100 + RANK)


class Seeing(Net):
    """Keeps what goes into it in training: members first, then as many external rows."""

    def __init__(self):
        super().__init__(norm=True)
        self.seen = []

    def forward(self, x):
        if self.training:
            self.seen.append(x.detach().clone())
        return super().forward(x)


class Itself(Seeing, Validated):
    def __init__(self):
        Validated.__init__(self)
        Seeing.__init__(self)
        del self.model

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)


def fit(name, lit, network, resume=None, **options):
    callback = active_mint(
        external=DataLoader(EXTERNAL, batch_size=12), monitor=20, bundle=f"{name}.{RANK}.amint", **options
    )
    keep = ModelCheckpoint(name, "{epoch}", save_top_k=-1)
    run = trainer(
        callback, keep, max_epochs=4, devices=2, strategy="ddp", logger=CSVLogger("logs", name), num_sanity_val_steps=2
    )
    run.fit(lit, loader(shuffle=True), loader(seed=7), ckpt_path=resume)
    seen = [batch.chunk(2) for batch in network.seen]
    out = {
        "model": lit.state_dict(),
        "head": callback.audit.state_dict()["head"],
        "members": torch.cat([members for members, _ in seen]),
        "external": torch.cat([external for _, external in seen]),
        "metrics": {k: float(v) for k, v in run.callback_metrics.items() if k.startswith("mint/")},
        "balance": callback.audit.balance.state_dict(),
        "scores": callback.audit.score(images(20, seed=8)),
        "clean": "training_step" not in vars(lit) and "mint_head" not in dict(lit.named_modules()),
    }
    torch.save(out, f"{name}.{RANK}.pt")


def audited(kind):
    lit = kind()
    lit.model = Seeing()
    return {"lit": lit, "network": lit.model}


fit("whole", **audited(Validated), balance=amint.NormalisedByFirst())
fit("resumed", **audited(Validated), balance=amint.NormalisedByFirst(), resume="whole/epoch=1.ckpt")
itself = Itself()
fit("itself", itself, itself, balance=amint.NormalisedByRunningMean(), backbone="")
'''


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    (folder / "script.py").write_text(SCRIPT)
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=folder,
        env=environment,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output, _ = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, output[-3000:]
    return folder


def of_both(folder, name):
    return [torch.load(folder / f"{name}.{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", ["whole", "resumed", "itself"])
def test_both_processes_end_with_the_same_weights_metrics_and_a_clean_module(left_behind, name):
    a, b = of_both(left_behind, name)
    assert same(a["model"], b["model"])
    assert same(a["head"], b["head"])
    assert torch.equal(a["scores"], b["scores"])
    assert a["balance"] == b["balance"]
    assert a["metrics"] == b["metrics"]
    assert a["metrics"].keys() == {"mint/loss", "mint/auroc", "mint/tpr_at_fpr_0.01"}
    assert a["clean"]
    assert b["clean"]


def rows_of(batch):
    return [tuple(row.flatten().tolist()) for row in batch]


@pytest.mark.parametrize("name", ["whole", "itself"])
def test_the_two_share_the_rows_of_a_pass(left_behind, name):
    a, b = of_both(left_behind, name)
    assert not set(rows_of(a["members"][:24])) & set(rows_of(b["members"][:24]))
    everything = set(rows_of(EXTERNAL))
    for start in (0, 50):
        of_pass = [rows_of(each["external"][start : start + 50]) for each in (a, b)]
        for rows in of_pass:
            assert len(set(rows)) == len(rows)
        assert not set(of_pass[0]) & set(of_pass[1])
        assert set(of_pass[0]) | set(of_pass[1]) <= everything


@pytest.mark.parametrize("name", ["whole", "resumed", "itself"])
def test_the_first_process_alone_writes_the_bundle_and_it_speaks_for_both(left_behind, name):
    assert not (left_behind / f"{name}.1.amint").exists()
    network = Net(norm=True)
    loaded = amint.load(left_behind / f"{name}.0.amint", model=network)
    assert torch.equal(loaded.score(images(20, seed=8)), of_both(left_behind, name)[0]["scores"])
    assert loaded.facts["members_seen"] == 48
    assert loaded.facts["steps"] == 8


def test_the_log_file_holds_the_curves(left_behind):
    metrics = of_both(left_behind, "whole")[0]["metrics"]
    with (left_behind / "logs" / "whole" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("mint/loss", "mint/auroc", "mint/tpr_at_fpr_0.01"):
        values = [float(row[name]) for row in rows if row.get(name)]
        assert len(values) == 4
        assert values[-1] == pytest.approx(metrics[name], rel=1e-6)


def test_resuming_without_other_random_numbers_changes_nothing(left_behind):
    whole, resumed = of_both(left_behind, "whole")[0], of_both(left_behind, "resumed")[0]
    assert same(whole["model"], resumed["model"])
    assert same(whole["head"], resumed["head"])


def test_checkpoints_load_into_the_plain_module(left_behind):
    whole = of_both(left_behind, "whole")[0]
    lit = Validated.load_from_checkpoint(left_behind / "whole" / "epoch=3.ckpt", strict=True)
    assert same(lit.state_dict(), whole["model"])
