"""What can go wrong on the GPU. These are not `DfvtError`s: the embedded server has none."""


class GpuError(Exception):
    """CUDA or TensorRT refused a call; the message quotes the reason that the library gave."""


class Unavailable(GpuError):
    """No GPU, no driver or no usable library was found; the message names it and the remedy."""


class NotInstalled(Unavailable):
    """A Python package is not installed; the message has the command that installs it."""


class InvalidInput(Exception):
    """An input array does not fit the plan; the message has the tensor's name, shape and range."""
