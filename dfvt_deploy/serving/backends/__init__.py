"""How each Triton backend gets its network: the files and the settings, a backend a file.

Enter through `backend_of(name)`. What a backend serves is in `backend_names`; nothing else asks
which backend it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from ...artifact import Artifact
from ...engines.engine import Engine
from ..backend_names import BackendName
from ..options import PopulateOptions
from ..served_model import NetworkFiles, ServedModel


@dataclass(frozen=True)
class Backend:
    """One Triton backend.

    files: the files for an exported model, the options, and the engines if they are given. Raises
        ArtifactError where a file is missing, stale or does not fit.
    configure: adds what the backend reads in the config of the network.
    packages: packages copied beside the backend's own `model.py` in the embedded server, by the
        name they get there.
    """

    files: Callable[[Artifact, PopulateOptions, Sequence[Engine] | None], NetworkFiles]
    configure: Callable[[Any, ServedModel], None] = lambda _config, _model: None
    packages: Mapping[str, str] = field(default_factory=dict)


def add_parameters(config: Any, **parameters: object) -> None:
    """Add parameters to a model's config, as text."""
    for key, value in parameters.items():
        config.parameters[key].string_value = str(value)


def backend_of(name: BackendName) -> Backend:
    """The entry of a backend."""
    found: Backend = import_module(f"{__name__}.{name}").BACKEND
    return found
