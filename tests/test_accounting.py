import copy
import gc
import json
import logging
import os
import pickle
import subprocess
import sys
import weakref
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, StochasticWeightAveraging
from lightning_toys import BENIGN, Plain, Validated, active_mint, loader, trainer
from toys import Net, images, labels, train

import amint
from amint import accounting as module
from amint.commitments import commit
from amint.errors import InputError, UsageError

X, Y, EXTERNAL, UNSEEN = images(48), labels(48), images(80, seed=3), images(20, seed=4)
COUNTS = ("accounted_updates", "unaccounted_updates", "replaced_weights")


def audited(model=None, **options):
    model = Net() if model is None else model
    audit = amint.attach(model, external=EXTERNAL, balance=amint.Weighted(), **options)
    return model, audit, torch.optim.SGD(model.parameters(), 0.1)


def counts(audit):
    audit.accounting.settle()
    return tuple(audit.facts[name] for name in COUNTS)


def plain(model, optimizer, steps=1):
    """Training that the head does not see; the gradients of what it saw are gone first."""
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "loop": lambda p: torch.optim.SGD(p, 0.1, foreach=False),
    "fused SGD": lambda p: torch.optim.SGD(p, 0.1, fused=True),
    "fused AdamW": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("trunk_gradient", [1, 0])
def test_each_hooked_step_is_accounted_and_each_plain_one_is_not(name, trunk_gradient):
    model, audit, _ = audited(trunk_gradient=trunk_gradient)
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, X, Y, 4, audit)
    assert counts(audit) == (4, 0, 0)
    with audit.paused():
        plain(model, optimizer, 3)
    assert counts(audit) == (4, 3, 0)
    train(model, optimizer, X, Y, 2, audit)
    assert counts(audit) == (6, 3, 0)
    audit.detach()
    plain(model, OPTIMIZERS[name](model.parameters()), 2)
    assert counts(audit) == (6, 5, 0)


def test_plain_training_before_the_first_hooked_pass_counts_too():
    model, audit, optimizer = audited()
    with audit.paused():
        plain(model, optimizer, 2)
    assert counts(audit) == (0, 2, 0)


def test_initialising_loading_and_converting_before_training_do_not():
    model, audit, optimizer = audited()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    model.load_state_dict(Net().state_dict())
    model.double().float().to(memory_format=torch.channels_last)
    model.eval()
    model(X)
    model.train()
    train(model, optimizer, X, Y, 1, audit)
    assert counts(audit) == (1, 0, 0)


@pytest.mark.parametrize("k", [2, 3])
def test_accumulated_gradients_make_one_update(k):
    model, audit, optimizer = audited()
    for step in range(3 * k):
        audit.loss(F.cross_entropy(model(X[:16]), Y[:16])).backward()
        if step % k == k - 1:
            optimizer.step()
            optimizer.zero_grad()
    assert counts(audit) == (3, 0, 0)
    assert audit.facts["steps"] == 3 * k


def test_a_step_that_is_skipped_changes_nothing():
    model, audit, optimizer = audited()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(6):
        scaler.scale(audit.loss(F.cross_entropy(model(X), Y))).backward()
        if step in (1, 4):
            next(model.parameters()).grad.fill_(float("inf"))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert scaler.get_scale() == 1.0
    assert counts(audit) == (4, 0, 0)


def test_a_discarded_pass_explains_no_update_but_keeps_the_one_before():
    model, audit, optimizer = audited()
    audit.loss(F.cross_entropy(model(X), Y)).backward()
    model(X)
    audit.discard()
    optimizer.step()
    assert counts(audit) == (1, 0, 0)
    F.cross_entropy(model(X), Y).backward()
    audit.discard()
    optimizer.step()
    assert counts(audit) == (1, 1, 0)
    optimizer.step()
    assert counts(audit) == (1, 2, 0)


def silent_data(p):
    p.data.sub_(0.01)


def silent_numpy(p):
    p.detach().numpy()[...] -= 0.01


def silent_assignment(p):
    p.data = p.data - 0.01


def loud(p):
    with torch.no_grad():
        p.sub_(0.01)


def one_bit(p):
    p.detach().view(-1).view(torch.int32)[0] ^= 1


@pytest.mark.parametrize("write", [silent_data, silent_numpy, silent_assignment, loud, one_bit])
def test_changes_past_the_optimizer_are_found_by_content(write):
    model, audit, optimizer = audited()
    train(model, optimizer, X, Y, 2, audit)
    version = model.c.weight._version
    write(model.c.weight)
    assert (model.c.weight._version == version) == (write not in (loud, one_bit))
    train(model, optimizer, X, Y, 2, audit)
    assert counts(audit) == (4, 1, 0)
    write(model.c.bias)
    assert counts(audit) == (4, 2, 0)


@pytest.mark.parametrize("write", [silent_data, silent_assignment, loud])
def test_a_loop_without_any_optimizer_is_accounted(write):
    model, audit, _ = audited()
    for _ in range(4):
        audit.loss(F.cross_entropy(model(X), Y)).backward()
        for p in model.parameters():
            write(p)
            p.grad = None
    assert counts(audit) == (4, 0, 0)
    with audit.paused():
        for _ in range(3):
            for p in model.parameters():
                write(p)
    assert counts(audit) == (4, 1, 0)


def test_swapping_weights_out_and_back_is_no_change():
    model, audit, optimizer = audited()
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=lambda a, b, n: 0.9 * a + 0.1 * b)
    for _ in range(4):
        train(model, optimizer, X, Y, 1, audit)
        average.update_parameters(model)
        own = [p.detach().clone() for p in model.parameters()]
        with torch.no_grad():
            for p, q in zip(model.parameters(), average.module.parameters(), strict=True):
                p.copy_(q)
            audit.score(X)
            for p, q in zip(model.parameters(), own, strict=True):
                p.copy_(q)
    assert counts(audit) == (4, 0, 0)
    plain(average.module, torch.optim.SGD(average.module.parameters(), 0.1), 2)
    assert counts(audit) == (4, 0, 0)
    weights = {k: v for k, v in average.module.state_dict().items() if k in model.state_dict()}
    model.load_state_dict(weights)
    assert counts(audit) == (4, 0, 1)


def test_other_models_are_of_no_interest():
    model, audit, optimizer = audited()
    train(model, optimizer, X, Y, 2, audit)
    for other in (Net(), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        plain(other, torch.optim.SGD(other.parameters(), 0.1), 2)
        other.load_state_dict(Net().state_dict())
    assert counts(audit) == (2, 0, 0)


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("assign", [False, True])
def test_loading_a_checkpoint_is_counted_as_such(wrap, assign):
    model, audit, optimizer = audited()
    outer = torch.nn.Sequential(torch.nn.ModuleDict({"model": model})) if wrap else model
    train(model, optimizer, X, Y, 2, audit)
    saved = copy.deepcopy(outer.state_dict())
    # With assign=True the weights are the very tensors that are loaded.
    outer.load_state_dict(copy.deepcopy(saved), assign=assign)
    assert counts(audit) == (2, 0, 0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    train(model, optimizer, X, Y, 2, audit)
    outer.load_state_dict(copy.deepcopy(saved), assign=assign)
    assert counts(audit) == (4, 0, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    train(model, optimizer, X, Y, 2, audit)
    assert counts(audit) == (6, 0, 1)
    loud(model.c.bias)
    outer.load_state_dict(saved)
    assert counts(audit) == (6, 1, 2)


def test_after_detaching_other_weights_are_replacements():
    model, audit, optimizer = audited()
    train(model, optimizer, X, Y, 2, audit)
    audit.detach()
    assert not model._load_state_dict_post_hooks
    assert not model._load_state_dict_pre_hooks
    model.load_state_dict(Net().state_dict())
    audit.calibrate(UNSEEN)
    assert counts(audit) == (2, 0, 1)


def test_several_optimizers_share_an_update():
    model, audit, _ = audited()
    names = dict(model.named_parameters())
    head = [p for name, p in names.items() if "mint_head" in name]
    parts = [[p for name, p in names.items() if name.startswith(start)] for start in ("a", "b", "c")]
    optimizers = [torch.optim.SGD(part, 0.1) for part in (*parts, head)]
    for _ in range(3):
        audit.loss(F.cross_entropy(model(X), Y)).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert counts(audit) == (3, 0, 0)
    optimizers[3].step()
    with audit.paused():
        plain(model, optimizers[0])
    assert counts(audit) == (3, 1, 0)


class Around(torch.optim.Optimizer):
    """An optimizer around another one, which draws the weights back a little after its step (as Lookahead does)."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__([p for group in inner.param_groups for p in group["params"]], {})

    @torch.no_grad()
    def step(self, closure=None):
        self.inner.step()
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(0.99)


def test_an_optimizer_around_another_makes_one_update():
    model, audit, inner = audited()
    optimizer = Around(inner)
    train(model, optimizer, X, Y, 3, audit)
    assert counts(audit) == (3, 0, 0)
    with audit.paused():
        plain(model, optimizer, 2)
    assert counts(audit) == (3, 2, 0)


def test_an_optimizer_that_failed_leaves_no_trace():
    model, audit, optimizer = audited()
    train(model, optimizer, X, Y, 1, audit)

    def closure():
        raise RuntimeError("broken")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            optimizer.step(closure)
    train(model, optimizer, X, Y, 2, audit)
    with audit.paused():
        plain(model, optimizer, 2)
    assert counts(audit) == (3, 2, 0)


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_a_closure_that_is_called_many_times(line_search):
    model, audit, _ = audited()
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=4, line_search_fn=line_search)

    def closure():
        optimizer.zero_grad()
        loss = audit.loss(F.cross_entropy(model(X), Y))
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    accounted, unaccounted, replaced = counts(audit)
    assert 2 <= accounted <= audit.facts["steps"]
    assert (unaccounted, replaced) == (0, 0)


def test_sharpness_aware_minimisation_makes_two_updates_a_step():
    model, audit, optimizer = audited()
    for _ in range(3):
        audit.loss(F.cross_entropy(model(X), Y)).backward()
        own = [p.detach().clone() for p in model.parameters()]
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * p.grad)
        optimizer.zero_grad()
        audit.loss(F.cross_entropy(model(X), Y)).backward()
        with torch.no_grad():
            for p, q in zip(model.parameters(), own, strict=True):
                p.copy_(q)
        optimizer.step()
        optimizer.zero_grad()
    assert counts(audit) == (6, 0, 0)


def test_clipping_weights_belongs_to_the_step_in_a_hook_of_the_optimizer_only():
    def clip(*_):
        for p in model.parameters():
            p.data.clamp_(-0.05, 0.05)

    model, audit, optimizer = audited()
    optimizer.register_step_post_hook(clip)
    train(model, optimizer, X, Y, 3, audit)
    assert counts(audit) == (3, 0, 0)
    clip()
    assert counts(audit) == (3, 0, 0)
    model.c.weight.data.clamp_(-0.01, 0.01)
    assert counts(audit) == (3, 1, 0)


@settings(max_examples=25, deadline=None)
@given(events=st.lists(st.sampled_from(["hooked", "plain", "skipped", "evaluated", "load", "write"]), max_size=9))
def test_any_course_of_events_is_counted_one_by_one(events):
    model, audit, optimizer = audited()
    train(model, optimizer, X, Y, 1, audit)
    fresh = Net().state_dict()
    for number, event in enumerate(events):
        if event == "hooked":
            train(model, optimizer, X, Y, 1, audit)
        elif event == "plain":
            with audit.paused():
                plain(model, optimizer)
        elif event == "skipped":
            audit.loss(F.cross_entropy(model(X), Y)).backward()
            optimizer.zero_grad()
            audit.loss(F.cross_entropy(model(X), Y)).backward()
            optimizer.step()
        elif event == "evaluated":
            model.eval()
            model(X)
            audit.score(X)
            model.train()
        elif event == "load":
            model.load_state_dict(
                {name: value + number if name == "c.bias" else value for name, value in fresh.items()}
            )
        else:
            silent_data(model.c.weight)
            counts(audit)
    accounted = 1 + events.count("hooked") + events.count("skipped")
    assert counts(audit) == (accounted, events.count("plain") + events.count("write"), events.count("load"))


@settings(max_examples=25, deadline=None)
@given(
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.int8]),
    shape=st.lists(st.integers(0, 5), max_size=4),
    offset=st.integers(0, 2),
    data=st.data(),
)
def test_sums_tell_any_one_changed_element(dtype, shape, offset, data):
    n = int(np.prod(shape, dtype=int))
    values = torch.arange(offset + n).to(dtype)[offset:].reshape(shape)
    if len(shape) == 4 and data.draw(st.booleans()):
        values = values.to(memory_format=torch.channels_last)
    if len(shape) > 1 and data.draw(st.booleans()):
        values = values.transpose(0, 1)
    before = module.sum_of_bits(values)
    assert before.dtype == torch.int64
    assert torch.equal(before, module.sum_of_bits(values.clone(memory_format=torch.preserve_format)))
    if n:
        index = tuple(data.draw(st.integers(0, side - 1)) for side in values.shape)
        values[index] += 1
        assert not torch.equal(before, module.sum_of_bits(values))


@pytest.mark.slow
def test_compiled_steps_are_counted():
    torch.compiler.reset()
    model, audit, optimizer = audited()
    step = torch.compile(optimizer.step, backend="eager")
    for paused in (False, True, False):
        with audit.paused() if paused else nullcontext():
            task = F.cross_entropy(model(X), Y)
            (task if paused else audit.loss(task)).backward()
        step()
        optimizer.zero_grad()
    assert counts(audit) == (2, 1, 0)


def test_an_audit_that_is_gone_is_not_watched_any_more():
    model, audit, optimizer = audited()
    train(model, optimizer, X, Y, 1, audit)
    gone = weakref.ref(audit.accounting)
    del audit, model, optimizer
    gc.collect()
    assert gone() is None


def test_a_frozen_model_has_no_updates():
    model = Net().requires_grad_(False)
    model.c.requires_grad_(True)
    audit = amint.attach(model, external=EXTERNAL, trunk_gradient=0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    train(model, optimizer, X, Y, 2, audit)
    assert counts(audit) == (2, 0, 0)
    loud(model.a[0].weight)
    assert counts(audit) == (2, 1, 0)


def checkpoint(model, audit, path):
    torch.save([model.state_dict(), audit.state_dict()], path)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("model_first", [True, False])
@pytest.mark.parametrize("kind", ["same", "other weights", "not trained yet"])
def test_resuming_goes_on_counting_and_notes_other_weights(tmp_path, model_first, kind):
    model, audit, optimizer = audited()
    if kind != "not trained yet":
        train(model, optimizer, X, Y, 3, audit)
        with audit.paused():
            plain(model, optimizer)
    states = checkpoint(model, audit, tmp_path / "c.pt")
    if kind == "other weights":
        states[0]["c.bias"] += 1

    model, audit, optimizer = audited()
    parts = [(model, states[0]), (audit, states[1])]
    for part, state in parts if model_first else parts[::-1]:
        part.load_state_dict(state)
    before = (0, 0) if kind == "not trained yet" else (3, 1)
    train(model, optimizer, X, Y, 2, audit)
    assert counts(audit) == (before[0] + 2, before[1], int(kind == "other weights"))
    train(model, optimizer, X, Y, 2, audit)
    assert counts(audit) == (before[0] + 4, before[1], int(kind == "other weights"))


def test_resuming_a_loop_without_optimizer(tmp_path):
    model, audit, _ = audited()
    audit.loss(F.cross_entropy(model(X), Y)).backward()
    for p in model.parameters():
        silent_data(p)
    states = checkpoint(model, audit, tmp_path / "c.pt")
    model, audit, optimizer = audited()
    model.load_state_dict(states[0])
    audit.load_state_dict(states[1])
    train(model, optimizer, X, Y, 1, audit)
    assert counts(audit) == (2, 0, 0)


def test_the_bundle_holds_the_counts(tmp_path):
    model, audit, optimizer = audited()
    train(model, optimizer, X, Y, 3, audit)
    with audit.paused():
        plain(model, optimizer, 2)
    loud(model.c.bias)
    audit.calibrate(UNSEEN)
    facts = amint.load(audit.save(tmp_path / "b.amint"), model=Net()).facts
    assert [facts[name] for name in COUNTS] == [3, 3, 0]


class PlainTraining(Callback):
    """Trains the network past the head when an epoch ends."""

    def on_train_epoch_end(self, trainer, pl_module):
        x, y = images(16), labels(16)
        F.cross_entropy(pl_module.model(x), y).backward()
        trainer.optimizers[0].step()
        trainer.optimizers[0].zero_grad()


class Swapping(Callback):
    """Validates other weights and puts the own ones back."""

    def on_validation_start(self, trainer, pl_module):
        self.own = [p.detach().clone() for p in pl_module.parameters()]
        for p in pl_module.parameters():
            p.data.mul_(0.9)

    def on_validation_end(self, trainer, pl_module):
        for p, q in zip(pl_module.parameters(), self.own, strict=True):
            p.data.copy_(q)


LIGHTNING = {
    "plain loop": ([], {}, (6, 0, 0)),
    "accumulated": ([], {"accumulate_grad_batches": 2}, (4, 0, 0)),
    "past the head": ([PlainTraining], {}, (6, 2, 0)),
    "swapped for validation": ([Swapping], {}, (6, 0, 0)),
    "half precision": ([], {"precision": "bf16-mixed"}, (6, 0, 0)),
    "half precision throughout": ([], {"precision": "bf16-true"}, (6, 0, 0)),
    "clipped gradients": ([], {"gradient_clip_val": 0.1}, (6, 0, 0)),
}


def quietly(test):
    """Lightning's own advice does not matter here."""
    ignored = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
    for mark in (*BENIGN, ignored):
        test = mark(test)
    return test


@quietly
@pytest.mark.parametrize("name", LIGHTNING)
def test_lightning(name):
    callbacks, options, expected = LIGHTNING[name]
    lit, callback = Validated(), active_mint()
    run = trainer(callback, *[make() for make in callbacks], max_epochs=2, **options)
    run.fit(lit, loader(), loader(seed=7))
    assert counts(callback.audit) == expected


@quietly
def test_a_resumed_fit_goes_on(tmp_path):
    for epochs, resume in ((1, None), (3, tmp_path / "last.ckpt")):
        lit, callback = Plain(), active_mint()
        keep = ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
        trainer(callback, keep, max_epochs=epochs).fit(lit, loader(), ckpt_path=resume)
        assert counts(callback.audit) == (3 * epochs, 0, 0)


@quietly
def test_another_fit_of_the_same_network_goes_on_and_notes_what_was_trained_between():
    lit, callback = Plain(), active_mint()
    trainer(callback).fit(lit, loader())
    trainer(callback).fit(lit, loader())
    assert counts(callback.audit) == (6, 0, 0)
    trainer().fit(lit, loader())
    assert counts(callback.audit) == (6, 3, 0)
    trainer(callback).fit(lit, loader())
    assert counts(callback.audit) == (9, 3, 0)


@quietly
def test_a_checkpoint_loaded_after_fit_brings_its_counts(tmp_path):
    lit, callback = Validated(), active_mint()
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    run = trainer(callback, keep, max_epochs=2)
    run.fit(lit, loader(), loader(seed=7))
    run.test(lit, loader(seed=7), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert counts(callback.audit) == (3, 0, 0)


@quietly
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_averaged_weights_are_replaced_weights():
    lit, callback = Plain(), active_mint()
    run = trainer(callback, StochasticWeightAveraging(1e-2, swa_epoch_start=1), max_epochs=3)
    run.fit(lit, loader())
    # The averaging itself ends with one more optimizer step, after passes for the batch statistics.
    assert counts(callback.audit) == (10, 0, 1)


SCRIPT = """
import json, os
import torch
from lightning_toys import Plain, active_mint, loader, trainer

torch.manual_seed(100 + int(os.environ.get("LOCAL_RANK", 0)))
lit = Plain()
for fit in (1, 2):
    callback = active_mint() if fit == 1 else callback
    run = trainer(callback, max_epochs=2, devices=2, strategy="ddp")
    run.fit(lit, loader(shuffle=True))
    callback.audit.accounting.settle()
    with open(f"{fit}.{run.global_rank}.json", "w") as file:
        json.dump(callback.audit.facts, file)
"""


@pytest.mark.ddp
def test_two_processes_count_alike_also_in_a_second_fit(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    for fit in (1, 2):
        for rank in (0, 1):
            facts = json.loads((tmp_path / f"{fit}.{rank}.json").read_text())
            assert [facts[name] for name in COUNTS] == [4 * fit, 0, 0]


def test_the_commitment_is_logged_kept_and_cannot_change_on_the_way(caplog, tmp_path):
    commitment = commit(members=X, external=EXTERNAL, calibration=UNSEEN)
    with caplog.at_level(logging.INFO, "amint"):
        model, audit, optimizer = audited(commitment=commitment)
    assert [r.getMessage() for r in caplog.records] == [
        f"training is committed to {commitment.root}: 48 members, 80 external, 20 calibration"
    ]
    train(model, optimizer, X, Y, 1, audit)
    audit.calibrate(UNSEEN)
    facts = amint.load(audit.save(tmp_path / "b.amint"), model=Net()).facts
    assert facts["commitment"] == commitment.public()
    assert commitment.secret.hex() not in (tmp_path / "b.amint" / "manifest.json").read_text()

    state = checkpoint(model, audit, tmp_path / "c.pt")[1]
    audited(commitment=commitment.public())[1].load_state_dict(state)
    for other in (None, commit(members=X)):
        with pytest.raises(UsageError, match=f"started with the commitment {commitment.root} and cannot go on with"):
            audited(commitment=other)[1].load_state_dict(state)


def test_only_the_first_process_logs(caplog):
    with caplog.at_level(logging.INFO, "amint"):
        audited(commitment=commit(members=X), rank=1, world=2)
    assert caplog.records == []


def test_an_edited_commitment_is_refused_and_the_model_stays_as_it_was():
    public = commit(members=X).public() | {"counts": {"members": 49, "external": 0, "calibration": 0}}
    model = Net()
    with pytest.raises(InputError, match="edited or damaged"):
        audited(model, commitment=public)
    assert "mint_head" not in dict(model.named_modules())
    audited(model)


def test_registration_and_lightning_keep_a_commitment(caplog):
    commitment = commit(members=X, external=EXTERNAL)
    with caplog.at_level(logging.INFO, "amint"):
        audit = amint.register(Net(), X, EXTERNAL, epochs=1, commitment=commitment)
    assert audit.facts["commitment"] == commitment.public()
    assert commitment.root in caplog.text


@quietly
def test_the_callback_keeps_a_commitment(tmp_path):
    commitment = commit(members=X, external=EXTERNAL)
    callback = active_mint(commitment=commitment.public(), bundle=tmp_path / "b.amint")
    trainer(callback).fit(Plain(norm=False), loader())
    facts = amint.load(tmp_path / "b.amint", model=Net()).facts
    assert facts["commitment"] == commitment.public()
    assert [facts[name] for name in COUNTS] == [3, 0, 0]
