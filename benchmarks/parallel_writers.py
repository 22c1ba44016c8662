"""Commands that write the same export folder and repository at once, some of them killed.

    python benchmarks/parallel_writers.py [--rounds 30]

In each round two exports of DFvT-T with different inputs, a conversion to FP16 and a populate run
as processes; in every second round one of them, by chance, is killed after a while. Afterwards the
folder must open with every hash right, and the repository must pass lint. Ends with an
AssertionError if not, or if a command ended with 1.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from dfvt_deploy import lint, open_artifact
from dfvt_deploy.linting.rules import RULES, Severity

NAME = "dfvt_t_classification"


def started(*words: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "dfvt_deploy", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def whole(exports: Path, repository: Path) -> None:
    open_artifact(exports / NAME)  # which compares every hash
    assert {path.name for path in exports.iterdir() if not path.name.startswith(".")} == {NAME}
    if any(repository.glob("*/config.pbtxt")):
        found = lint(repository).findings
        errors = [each for each in found if RULES[each.rule].severity is Severity.ERROR]
        assert not errors, errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    rng, ends = random.Random(0), Counter()
    with tempfile.TemporaryDirectory() as place:
        exports, repository = Path(place) / "exports", Path(place) / "models"
        started("export", "--variant", "t", "--output", exports).wait()
        for number in range(options.rounds):
            export = ("export", "--variant", "t", "--output", exports)
            running = {
                "export": started(*export),
                "second export": started(*export, "--input", "float32"),
                "convert": started("convert", NAME, "--exports", exports, "--precision", "fp16"),
                "populate": started("populate", "--exports", exports, "--repository", repository),
            }
            victim = rng.choice(list(running)) if number % 2 else ""
            if victim:
                time.sleep(rng.uniform(2, 20))
                running[victim].kill()
            for name, process in running.items():
                _, text = process.communicate()
                assert process.returncode != 1, f"{name}: {text}"
                ends[f"{name} {process.returncode}"] += 1
            whole(exports, repository)
            print(number, victim, dict(ends), flush=True)


if __name__ == "__main__":
    main()
