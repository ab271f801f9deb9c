"""Several models of one kind trained at once: one step of ``torch.func.vmap`` over their stacked weights.

On a GPU a step of a small model is mostly waiting for the next kernel to start; ``K`` models stacked start as many
kernels as one does. Source: the ensembling of models in the documentation of ``torch.func``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils.data import default_collate

from amint.errors import UsageError
from amint.identity import content_digest

__all__ = ["NotStackableError", "Stacked", "obstacle"]

# Exact types: what a subclass adds may mix the weights of several models. Optimizers that make their state before the
# first step, such as Adagrad, make it for one model.
_ELEMENTWISE = frozenset(
    getattr(torch.optim, name) for name in ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adadelta")
)
_MIXED_FP16 = frozenset({"16-mixed", "16", 16})
_SAME_FOR_ALL = frozenset(
    {
        "accelerator",
        "accumulate_grad_batches",
        "benchmark",
        "check_val_every_n_epoch",
        "default_root_dir",
        "deterministic",
        "enable_model_summary",
        "enable_progress_bar",
        "gradient_clip_algorithm",
        "gradient_clip_val",
        "inference_mode",
        "limit_train_batches",
        "limit_val_batches",
        "log_every_n_steps",
        "max_epochs",
        "max_steps",
        "min_epochs",
        "min_steps",
        "num_sanity_val_steps",
        "precision",
        "val_check_interval",
    }
)
# Methods that a module may have of its own: this file calls them, or nobody does where references are trained.
_OWN = ("training_step", "configure_optimizers", "example_input", "on_load_checkpoint", "on_save_checkpoint", "print")
_NEVER_CALLED = ("validation", "test", "predict", "on_validation", "on_test", "on_predict", "to_")
_STRUCTURE = frozenset({"_parameters", "_buffers", "_modules"})


class NotStackableError(UsageError):
    """Models that cannot be trained at once."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"these models cannot be trained several at once: {reason}. Train them one after the other, at_once=1"
        )


class Stacked(L.LightningModule):
    """``K`` modules trained as one, each on batches of its own, as each would be trained alone.

    ``lightning.Trainer.fit`` takes it with a list of ``K`` loaders that yield batches of the same shapes. While it
    trains, a weight or buffer of shape ``[...]`` is one of shape ``[K, ...]``; afterwards every module has its own
    again. Random numbers drawn by torch in ``training_step`` differ between the models, those of numpy and Python are
    shared. What ``training_step`` logs is dropped.

    Args:
        modules: two or more, with weights as they are to begin.

    Raises:
        NotStackableError: the modules differ in more than their weights, or here and from ``fit`` what :func:`obstacle`
            could not see: the optimizer, the scheduler, a training step that ``vmap`` cannot vectorise.
    """

    def __init__(self, modules: Sequence[L.LightningModule]) -> None:
        super().__init__()
        if len({_settings(module) for module in modules}) > 1:
            raise NotStackableError(f"the {len(modules)} modules differ in more than their weights and buffers")
        self._each = list(modules)
        # The optimizer has the weights of the first. The step runs in the second: a step that reaches weights past its
        # module, by a list made in __init__, gets those of the second there, and is found out by their gradients.
        self.first, self.second = modules[:2]
        self._takes_index = len(inspect.signature(self.second.training_step).parameters) > 1
        for module in (self.first, self.second):
            module.log = module.log_dict = _drop  # type: ignore[method-assign]

    def configure_optimizers(self) -> Any:
        """Those of one module, made while its weights have their own shapes, by which some are grouped."""
        return self.first.configure_optimizers()

    def on_train_start(self) -> None:
        """Stack the weights, where the optimizer has them and before it makes its state."""
        for optimizer in self.trainer.optimizers:
            if type(optimizer) not in _ELEMENTWISE:
                raise NotStackableError(f"{type(optimizer).__name__} is not known to treat every weight for itself")
            if optimizer.state:
                raise NotStackableError(f"{type(optimizer).__name__} has a state before its first step")
        if any(config.reduce_on_plateau for config in self.trainer.lr_scheduler_configs):
            raise NotStackableError("ReduceLROnPlateau sets the learning rate of each model by its own loss")
        tensors = [_tensors(module) for module in self._each]
        for name, own in tensors[0].items():
            own.data = torch.stack([each[name].detach().to(own) for each in tensors])

    def training_step(self, batches: Sequence[Any], batch_idx: int) -> Tensor:
        """The sum of all losses, as its gradient is for each model that of its own loss."""

        def step(weights: dict[str, Tensor], batch: Any) -> Any:
            named = {f"second.{name}": tensor for name, tensor in weights.items()}
            return functional_call(self, named, (batch, batch_idx))

        stacked = _tensors(self.first)
        try:
            losses, buffers = vmap(step, randomness="different")(stacked, default_collate(list(batches)))
        except (torch.OutOfMemoryError, NotStackableError):
            raise
        except Exception as error:
            raise NotStackableError(f"one training_step for all gives {type(error).__name__}: {error}") from error
        with torch.no_grad():
            for name, buffer in buffers.items():
                # What was updated in place is there already.
                if buffer.data_ptr() != stacked[name].data_ptr():
                    stacked[name].copy_(buffer)
        total: Tensor = losses.sum()
        return total

    def forward(self, batch: Any, batch_idx: int) -> tuple[Tensor, dict[str, Tensor]]:
        """One model's loss and buffers, inside ``vmap``."""
        step: Any = self.second.training_step
        output = step(batch, batch_idx) if self._takes_index else step(batch)
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor):
            raise NotStackableError(f"training_step returned {type(output).__name__}, not a loss")
        return loss, dict(self.second.named_buffers())

    def on_after_backward(self) -> None:
        """See that all gradients came to the stacked weights."""
        if any(weight.grad is not None for weight in self.second.parameters()):
            raise NotStackableError("training_step uses weights other than through the attributes of its module")

    def on_train_end(self) -> None:
        """Give every module its weights and buffers, in their own shapes."""
        self.first.zero_grad()
        stacked = {name: tensor.data for name, tensor in _tensors(self.first).items()}
        for number, module in enumerate(self._each):
            for name, own in _tensors(module).items():
                own.data = stacked[name][number]


def obstacle(module: L.LightningModule, trainer_arguments: Mapping[str, Any]) -> str | None:
    """Why modules like this one cannot be trained at once, as far as can be told before; None for no reason."""
    argument = _argument_for_one(trainer_arguments)
    if argument is not None:
        return f"the trainer's {argument}={trainer_arguments[argument]!r} is meant for one model"
    if not module.automatic_optimization:
        return f"{type(module).__name__} optimizes by hand"
    hooks = [name for name in dir(L.LightningModule) if _is_own(module, name)]
    if hooks:
        return f"{type(module).__name__} has hooks of its own, which expect one model: {hooks}"
    if "dataloader_iter" in inspect.signature(module.training_step).parameters:
        return f"{type(module).__name__} reads its batches itself"
    if any(weight._backward_hooks or weight._post_accumulate_grad_hooks for weight in module.parameters()):
        return f"{type(module).__name__} has hooks on its weights, which expect one model"
    return None


def _is_own(module: L.LightningModule, name: str) -> bool:
    """Whether a module has a hook of this name that Lightning would call."""
    if name in dir(nn.Module) or name.startswith(("_", *_OWN, *_NEVER_CALLED)):
        return False
    found = [inspect.getattr_static(kind, name) for kind in (type(module), L.LightningModule)]
    return found[0] is not found[1] or name in vars(module)


def _argument_for_one(arguments: Mapping[str, Any]) -> str | None:
    """The first of a trainer's arguments that does not do the same for stacked models."""
    for name, value in arguments.items():
        if name == "devices":
            fits = value in (1, "1") or (isinstance(value, list) and len(value) == 1)
        elif name in ("callbacks", "logger", "enable_checkpointing"):
            fits = value is False or value == []
        elif name == "precision":
            # Where the gradient of one model overflows, the step of all would be left out.
            fits = value not in _MIXED_FP16
        elif name == "gradient_clip_val":
            # A norm would be that of all models together.
            fits = not value or arguments.get("gradient_clip_algorithm") == "value"
        else:
            fits = name in _SAME_FOR_ALL
        if not fits:
            return name
    return None


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _settings(module: nn.Module) -> str:
    """A hash of all but the content of weights and buffers."""
    kinds = [
        (name, str(tensor.dtype), tuple(tensor.shape), tensor.requires_grad)
        for name, tensor in _tensors(module).items()
    ]
    attributes = [
        (name, type(part).__qualname__, {key: value for key, value in vars(part).items() if key not in _STRUCTURE})
        for name, part in module.named_modules()
    ]
    return content_digest([kinds, attributes], lenient=True)


def _drop(*_: Any, **__: Any) -> None:
    """In place of ``log``: inside ``vmap`` no value is that of one model."""
