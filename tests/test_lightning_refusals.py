import signal

import pytest
import torch
import torch.nn.functional as F
from lightning_toys import BENIGN, CALIBRATION, EXTERNAL, Plain, Rows, active_mint, is_clean, loader, trainer
from toys import Net, images, same

import amint
from amint.errors import NonFiniteError, RoleOverlapError, SplitError, StepError, UsageError

pytestmark = BENIGN


class Counting(Plain):
    """Counts its training steps and stops in one of them, if told to."""

    def __init__(self, stop_at=None, stop_with=None):
        super().__init__()
        self.steps, self.stop_at, self.stop_with = 0, stop_at, stop_with

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.steps += 1
        if self.steps == self.stop_at:
            raise self.stop_with
        return loss


def names_of(lit):
    return [name for name, _ in lit.named_modules()]


def assert_refused(lit, callbacks, error, match, data=None):
    names, weights = names_of(lit), {k: v.clone() for k, v in lit.state_dict().items()}
    with pytest.raises(error, match=match):
        trainer(*callbacks).fit(lit, data or loader())
    assert is_clean(lit, names)
    assert same(lit.state_dict(), weights), "refused before anything was trained"


def test_two_callbacks_on_one_trainer_are_refused():
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `ActiveMint`"):
        trainer(active_mint(), active_mint())


def test_a_network_that_is_attached_already_is_refused_and_left_attached():
    lit = Plain()
    audit = amint.attach(lit.model, external=EXTERNAL, split="a")
    with pytest.raises(UsageError, match=r"already has a MINT head; call audit\.detach\(\)"):
        trainer(active_mint()).fit(lit, loader())
    audit.loss(F.cross_entropy(lit.model(Rows().x), Rows().y)).backward()
    assert audit.detach() is lit.model


def test_another_network_wants_another_callback():
    callback = active_mint()
    trainer(callback).fit(Plain(), loader())
    assert_refused(Plain(), [callback], UsageError, "audited another network before; make a new one")


class Manual(Plain):
    """Manual optimization, with the way out that the error names."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.audit = None

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.model(x), y)
        self.optimizers().zero_grad()
        self.manual_backward(self.audit.loss(loss) if self.audit else loss)
        self.optimizers().step()


def test_manual_optimization_is_refused_and_the_way_out_works():
    lit = Manual()
    assert_refused(lit, [active_mint()], UsageError, r"automatic optimization.*manual_backward\(audit\.loss\(loss\)\)")
    lit.audit = amint.attach(lit.model, external=EXTERNAL, split="a")
    trainer().fit(lit, loader())
    assert lit.audit.facts["steps"] == 3
    assert lit.audit.calibrate(CALIBRATION).scores.shape == (len(CALIBRATION),)


@pytest.mark.parametrize("backbone", ["network", "model.c.d"])
def test_a_wrong_backbone_is_refused_with_the_names_there_are(backbone):
    match = rf"Plain has no submodule '{backbone}' when fit starts; it has \['model'\].*backbone="
    assert_refused(Plain(), [active_mint(backbone=backbone)], UsageError, match)


def test_a_wrong_split_is_refused():
    assert_refused(Plain(), [active_mint(split="nowhere")], SplitError, "no module 'nowhere'")


@pytest.mark.parametrize("backbone, give", [("model", r"self\.model\.parameters\(\)"), ("", r"self\.parameters\(\)")])
def test_an_optimizer_without_the_head_is_refused_before_the_first_step(backbone, give):
    class Narrow(Plain):
        def forward(self, x):
            return self.model(x)

        def configure_optimizers(self):
            return torch.optim.SGD([*self.model.a.parameters(), *self.model.c.parameters()], lr=0.1)

    callback = active_mint(backbone=backbone, split="model.a" if backbone == "" else "a")
    assert_refused(Narrow(), [callback], UsageError, rf"leaves out \d+ parameters of the MINT head.*optimizer {give}$")


def test_members_among_the_calibration_rows_are_found_in_the_first_step():
    lit = Counting()
    calibration = torch.cat([CALIBRATION, Rows().x[3:5]])
    callback = active_mint(calibration=calibration)
    assert_refused(lit, [callback], RoleOverlapError, "2 of 16 rows given as members were already seen as calibration")
    assert lit.steps == 0


def test_a_step_that_forgets_the_network_is_refused():
    class Forgets(Plain):
        def training_step(self, batch, batch_idx):
            return sum(p.square().sum() for p in self.model.c.parameters())

    assert_refused(Forgets(), [active_mint()], StepError, "found no training forward pass")


@pytest.mark.parametrize(
    "error, seen", [(KeyboardInterrupt(), SystemExit), (RuntimeError("disk"), RuntimeError), (None, NonFiniteError)]
)
def test_an_interrupted_fit_leaves_the_module_clean_and_writes_no_bundle(tmp_path, error, seen):
    lit, callback = Counting(2, error), active_mint(bundle=tmp_path / "b.amint")
    names, data = names_of(lit), loader()
    if error is None:
        lit.stop_at = None
        data.dataset.x[20] = float("nan")
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(seen):
            trainer(callback).fit(lit, data)
    finally:
        # Lightning turns a second Ctrl+C off for good.
        signal.signal(signal.SIGINT, handler)
    assert is_clean(lit, names)
    assert not list(tmp_path.iterdir())
    assert callback.audit.facts["steps"] == 1

    lit.stop_at = None
    trainer(callback).fit(lit, loader())
    assert amint.load(tmp_path / "b.amint", model=Net(norm=True)).facts["steps"] == 4


@pytest.mark.parametrize(
    "architecture, match",
    [
        (amint.Architecture("import", "toys:Nope"), "cannot build import/toys:Nope: module 'toys' has no attribute"),
        (amint.Architecture("import", "toys:Net"), "import/toys:Net is not this model"),
    ],
)
def test_an_architecture_that_is_not_the_models_is_found_before_the_first_step(tmp_path, architecture, match):
    lit = Counting()
    callback = active_mint(bundle=tmp_path / "b.amint", architecture=architecture)
    assert_refused(lit, [callback], (amint.errors.BundleError, UsageError), match)
    assert lit.steps == 0


def test_training_passes_outside_training_step_are_plain():
    class Probing(Plain):
        def on_train_epoch_end(self):
            self.probed = self.model(Rows().x).shape[0], torch.is_grad_enabled()

    lit, callback = Probing(), active_mint()
    trainer(callback, max_epochs=2).fit(lit, loader())
    assert lit.probed[0] == 48
    assert callback.audit.facts["steps"] == 6


def test_a_training_step_of_the_modules_own_comes_back():
    lit = Plain()
    calls = []

    def own(batch, batch_idx):
        calls.append(batch_idx)
        return F.cross_entropy(lit.model(batch[0]), batch[1])

    lit.training_step = own
    callback = active_mint()
    trainer(callback).fit(lit, loader())
    assert lit.training_step is own
    assert calls == [0, 1, 2]
    assert callback.audit.facts["steps"] == 3


STRANGE = images(5, seed=44)


@pytest.mark.parametrize(
    "calibration, error, match",
    [
        (STRANGE, UsageError, "5 of 5 different calibration samples were not committed to"),
        (CALIBRATION.double(), UsageError, "100 of 100 different calibration samples were not committed to"),
        (torch.cat([CALIBRATION, EXTERNAL[:2]]), RoleOverlapError, "2 of 102 .* were committed to as external"),
        (CALIBRATION[:0], UsageError, "calibration data is empty"),
    ],
)
def test_calibration_that_was_not_committed_to_is_found_before_the_first_step(calibration, error, match):
    lit = Counting()
    commitment = amint.commit(members=Rows(), external=EXTERNAL, calibration=CALIBRATION)
    assert_refused(lit, [active_mint(calibration=calibration, commitment=commitment)], error, match)
    assert lit.steps == 0


def test_more_calibration_than_committed_to_is_found_before_the_first_step_with_the_public_part_alone():
    lit = Counting()
    public = amint.commit(members=Rows(), external=EXTERNAL, calibration=CALIBRATION[:50]).public()
    callback = active_mint(commitment=public)
    assert_refused(lit, [callback], UsageError, "100 different samples are to calibrate, but 50 were committed to")
    assert lit.steps == 0


def test_the_calibration_that_was_committed_to_trains_and_is_recorded_as_found():
    callback = active_mint(commitment=amint.commit(members=Rows(), external=EXTERNAL, calibration=CALIBRATION))
    trainer(callback).fit(Plain(), loader())
    assert callback.audit.facts["commitment_use"]["checked"] == "rows"
    assert callback.audit.facts["commitment_use"]["seen"]["calibration"] == len(CALIBRATION)


def test_calibration_that_can_be_read_only_once_is_refused_at_once():
    with pytest.raises(UsageError, match="the calibration data is a generator, which gives its rows only once"):
        active_mint(calibration=iter(CALIBRATION.split(10)))


def test_a_preprocessing_that_does_not_fit_is_found_before_the_first_step(tmp_path):
    lit = Counting()
    callback = active_mint(bundle=tmp_path / "x.amint", preprocessing=amint.Preprocessing(size=(5, 5)))
    assert_refused(lit, [callback], UsageError, r"makes inputs of 3 x 5 x 5, .* give Preprocessing the model's size=")
    assert lit.steps == 0


def test_something_else_in_the_way_of_the_bundle_is_found_before_the_first_step(tmp_path):
    (tmp_path / "train.py").write_text("pass")
    lit = Counting()
    assert_refused(
        lit, [active_mint(bundle=tmp_path / "train.py")], UsageError, r"train\.py is a file; .* another name"
    )
    assert lit.steps == 0
