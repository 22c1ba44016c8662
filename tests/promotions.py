"""Promotions and rollbacks that are killed, or that run at the same time.

Run as a script with a repository whose model has two versions; see `test_promotion.py`. It forks,
so it must have no threads.
"""

import json
import sys
from pathlib import Path

from dfvt_deploy.serving.history import go_live, read_history, verdicts_on
from dfvt_deploy.serving.layout import live_version, verify_repository

from .folder_writers import killed_at
from .test_repository import NAME


def change(repository: Path, version: int) -> None:
    """What `promote` does once its gates have passed."""
    verdicts = verdicts_on(repository, NAME, version)
    go_live(repository, NAME, version, "promote", reason="killed", verdicts=verdicts)


def state(repository: Path) -> int:
    """The live version, whose four configs and files are whole."""
    verify_repository(repository)
    version = live_version(repository, NAME)
    for step in ("preprocess", "network", "postprocess"):
        config = (repository / f"{NAME}_{step}" / "config.pbtxt").read_text()
        assert f"versions: {version}" in config, config
    read_history(repository, NAME)
    return version


def killed_everywhere(repository: Path) -> int:
    seen, number = set(), 0
    while True:
        number += 1
        change(repository, 1)
        killed = killed_at(number, lambda: change(repository, 2))
        seen.add(state(repository))
        if not killed:
            assert seen == {1, 2}
            return number - 1


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    kills = killed_everywhere(folder)
    sys.stdout.write(
        json.dumps({"kills": kills, "left": sorted(p.name for p in (folder / NAME).iterdir())})
    )
