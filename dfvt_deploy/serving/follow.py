"""A live server takes over another version of a model, without a failed or a mixed answer.

Triton replaces one model at a time, and an ensemble looks for all of its steps when a request
begins. So the new version's steps are loaded under names of their own beside the old ones; then the
ensemble is replaced by one that uses them, which is the moment of the change; then the steps' own
names take the new version, and the ensemble goes back to these. In between a server holds up to
three networks.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ServerFailed
from ..names import STEPS
from .layout import CACHE, CONFIG, LIVE
from .process import ServerProcess

#: Seconds after the ensemble was replaced until every request that was sent to the old one has
#: found its steps. It holds them from then on.
_SETTLED_S = 2.0

#: What a request to load or unload a model is: its name, and `load` or `unload`.
Steer = Callable[[str, str], None]


def link_model(source: Path, target: Path) -> None:
    """Show Triton the files of a model through links, in place of what it showed before."""
    shutil.rmtree(target, ignore_errors=True)
    ignored = shutil.ignore_patterns(CACHE, LIVE, ".*")
    shutil.copytree(source, target, copy_function=os.symlink, ignore=ignored)


class HalfChanged(ServerFailed):
    """The server answers with the new version, by steps whose own names are not theirs yet."""


@dataclass(frozen=True)
class Change:
    """The change of a running server from one version of a model to another: from the `old` that it
    serves to the `new` that is live in the repository. The server reads its models from the folder
    `view`; `steer` asks it to load or unload one."""

    repository: Path
    view: Path
    name: str
    old: int
    new: int
    steer: Steer

    def carry_out(self, process: ServerProcess) -> None:
        """Let the server answer with the new version. Raises HalfChanged where it must be started
        again, ServerFailed where that version does not load, and the old one goes on."""
        others = process.watched - process.steps(self._folders(self.old))
        try:
            self._load_beside()
        except Exception as error:  # whatever is wrong with the new version, the old one goes on
            self._unload_beside()
            process.watch_only(process.watched)
            raise ServerFailed(str(error)) from error
        time.sleep(_SETTLED_S)
        try:
            for model in (*self._beside, self.name):
                link_model(self.repository / model, self.view / model)
            self.steer(self.name, "load")  # with its steps under their own names, each once
        except (ServerFailed, OSError) as error:
            raise HalfChanged(str(error)) from error
        time.sleep(_SETTLED_S)
        self._unload_beside()
        process.watch_only(others | process.steps(self._folders(self.new)))
        process.close_shared_memory()

    @property
    def _beside(self) -> dict[str, str]:
        """The names under which the new steps are loaded beside the old ones, by their own."""
        return {f"{self.name}_{step}": f"{self.name}_{step}_v{self.new}" for step in STEPS}

    def _folders(self, version: int) -> list[Path]:
        return [self.view / model / str(version) for model in self._beside]

    def _load_beside(self) -> None:
        """Load the new steps under names of their own, and let the ensemble use them."""
        from .config import from_text, to_text

        for model, name in {**self._beside, self.name: self.name}.items():
            link_model(self.repository / model, self.view / name)
            path = self.view / name / CONFIG
            config = from_text(path.read_text(encoding="utf-8"))
            config.name = name
            for step in config.ensemble_scheduling.step:
                step.model_name = self._beside[step.model_name]
            path.unlink()
            path.write_text(to_text(config), encoding="utf-8")
            self.steer(name, "load")

    def _unload_beside(self) -> None:
        """Unload the steps that were loaded beside the old ones, as far as they were."""
        for model in self._beside.values():
            if (self.view / model).exists():
                with contextlib.suppress(ServerFailed):
                    self.steer(model, "unload")
                shutil.rmtree(self.view / model)
