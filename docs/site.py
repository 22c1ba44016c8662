"""The pages of docs/, README and the reference of commands and functions as one site.

    python docs/site.py build/site          # then open build/site/site/index.html

The reference is made from the code, so it cannot be older. A link to a page that is not there ends
with an error.
"""

import dataclasses
import inspect
import json
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterable
from pathlib import Path

import typer

import dfvt_deploy
from dfvt_deploy.cli import app
from dfvt_deploy.options import Options, alternatives, choices, info_of

ROOT = Path(__file__).parent.parent


def commands() -> str:
    """Each command with its example and a table of its options."""
    group = typing.cast(typing.Any, typer.main.get_command(app))
    parts = ["# Commands\n\nEvery command also takes `--json`, `--quiet` and `--debug`."]
    for name in group.list_commands(None):
        command = group.commands[name]
        if command.hidden or not hasattr(command.callback, "options_type"):
            continue
        text, _, example = inspect.cleandoc(command.help).partition("Example:")
        lines = [line.strip(" \b") for line in example.split("\n")]
        parts += [f"## {name}", text.strip(), "```\n{}\n```".format("\n".join(filter(None, lines)))]
        parts.append(_table(command.callback.options_type))
    return "\n\n".join(parts) + "\n"


def _table(options: type[Options]) -> str:
    hints = typing.get_type_hints(options)
    rows = ["| | default | |", "|---|---|---|"]
    for field in dataclasses.fields(options):
        info, hint = info_of(field), hints[field.name]
        default = "" if field.default in (None, (), "") else f"`{field.default}`"
        if field.default is dataclasses.MISSING:
            default = "required"
        each = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
        words = ", ".join(word for part in alternatives(each) for word in choices(part))
        text = info.help + (f" One of: {words}." if words else "")
        rows.append(f"| `{info.flag or field.name.upper()}` | {default} | {text} |")
    return "\n".join(rows) if len(rows) > 2 else "No options of its own."


def functions() -> str:
    """Each function of the package with its signature and docstring."""
    parts = ["# Python\n\nWhat commands do, as functions of `dfvt_deploy`."]
    for name in sorted(set(dfvt_deploy.__all__) - {"__version__"}):
        function = getattr(dfvt_deploy, name)
        signature = str(inspect.signature(function)).replace("'", "")
        text = f"{name}{signature}\n\n{inspect.getdoc(function)}"
        parts += [f"## {name}", f"```text\n{text}\n```"]
    return "\n\n".join(parts) + "\n"


def pages() -> dict[str, str]:
    """The text of each page by its path, in the order of the navigation."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    texts = {"index.md": readme.replace("](docs/", "](")}
    listed = [f"{name}.md" for name in re.findall(r"^- \[docs/([\w-]+)\.md", readme, re.M)]
    found = sorted(str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md"))
    texts.update(dict.fromkeys(["troubleshooting.md", *listed, *found], ""))
    for path in [path for path, text in texts.items() if not text]:
        text = (ROOT / "docs" / path).read_text(encoding="utf-8")
        texts[path] = text if "/" in path else text.replace("](../", "](")
    texts |= {"commands.md": commands(), "python.md": functions()}
    credits = "dfvt_deploy/data/samples/README.md"
    for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", credits):
        texts[name] = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
    return texts


def navigation(paths: Iterable[str]) -> list[str | dict[str, list[str]]]:
    """The pages in their order, the tutorials as one group after the first."""
    first, *others = paths
    tutorials = [path for path in others if path.startswith("tutorials/")]
    return [first, {"Tutorials": tutorials}, *(p for p in others if p not in tutorials)]


def build(folder: Path) -> None:
    """Write the site to `folder`/site. Raises CalledProcessError where a link is broken."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("images", "schemas"):
        shutil.copytree(ROOT / "docs" / name, folder / "docs" / name)
    texts = pages()
    for path, text in texts.items():
        page = folder / "docs" / path
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    config = {
        "site_name": "dfvt-deploy",
        "theme": {"font": False},  # nothing from elsewhere
        "nav": navigation(texts),
    }
    (folder / "mkdocs.yml").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", "mkdocs.yml"]
    subprocess.run(command, cwd=folder, check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
