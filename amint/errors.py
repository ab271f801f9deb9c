"""The exceptions amint raises; every message says what was expected, what was found and what to do.

::

    AmintError
    ├── UsageError            a call out of order or with arguments that cannot work (also a ValueError)
    │   ├── SplitError        a tap that does not exist or cannot be cut
    │   ├── RoleOverlapError  one sample in two roles
    │   └── AlphaError        a false-alarm rate that the calibration set cannot support
    ├── StepError             a training step in which the hooks saw something other than one forward pass
    ├── NonFiniteError        NaN or infinite inputs, activations or losses
    ├── BundleError           an audit bundle that is truncated, edited or does not fit
    └── InputError            submitted data that cannot be used
"""

__all__ = [
    "AlphaError",
    "AmintError",
    "BundleError",
    "InputError",
    "NonFiniteError",
    "RoleOverlapError",
    "SplitError",
    "StepError",
    "UsageError",
]


class AmintError(Exception):
    """Base of everything that amint raises on purpose."""


class UsageError(AmintError, ValueError):
    """A call out of order, or with arguments that cannot work."""


class SplitError(UsageError):
    """A tap that does not exist, or behind which the network cannot be cut."""


class RoleOverlapError(UsageError):
    """One sample in two of the roles member, external and calibration."""


class AlphaError(UsageError):
    """A false-alarm rate below what the number of calibration samples can support."""


class StepError(AmintError, RuntimeError):
    """A training step in which the hooked model ran not at all, twice, or with the wrong shapes."""


class NonFiniteError(AmintError, ArithmeticError):
    """NaN or infinity in an input, an activation or a loss."""


class BundleError(AmintError, RuntimeError):
    """An audit bundle that is truncated, edited, unsafe or does not fit the model."""


class InputError(AmintError, RuntimeError):
    """Submitted data that cannot be used at all."""
