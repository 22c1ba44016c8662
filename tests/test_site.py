"""The documentation as a site: it builds, no link is broken, and the reference is whole."""

import importlib.util
import re
import subprocess

import pytest

import dfvt_deploy

from .test_commands import COMMANDS, ROOT, options_type

_specification = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site.py")
site = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(site)


@pytest.fixture
def pages(monkeypatch):
    found = site.pages()
    monkeypatch.setattr(site, "pages", lambda: found)
    return found


def test_the_site_has_every_page_and_asks_nothing_of_others(tmp_path, pages):
    site.build(tmp_path / "site")
    html = {path: path.read_text() for path in (tmp_path / "site" / "site").rglob("*.html")}
    assert len(html) >= len(pages)
    for path, text in html.items():
        loaded = re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(https?:[^"]+)"', text)
        assert not [url for url in loaded if "canonical" not in url], path


def test_a_broken_link_fails(tmp_path, pages, capfd):
    pages["python.md"] += "[gone](nowhere.md)\n"
    with pytest.raises(subprocess.CalledProcessError):
        site.build(tmp_path / "site")
    assert "nowhere.md" in re.sub(r"\x1b\[[0-9;]*m", "", "".join(capfd.readouterr()))


def test_the_reference_has_every_command_with_its_options_and_every_function(pages):
    for name in COMMANDS:
        if (options := options_type(name)) is not None:
            (text,) = re.findall(
                rf"^## {name}\n(.*?)(?=^## |\Z)", pages["commands.md"], re.M | re.S
            )
            assert f"dfvt-deploy {name}" in text
            for field in site.dataclasses.fields(options):
                assert f"`{site.info_of(field).flag or field.name.upper()}`" in text
    functions = re.findall(r"^## (\w+)$", pages["python.md"], re.M)
    assert {*functions, "__version__"} == set(dfvt_deploy.__all__)


@pytest.mark.parametrize(
    "words",
    [
        "magic tag",
        "version tag",
        "dimension 0 between 1 and 1",
        "unable to find libpython",
        "not in bf16",
    ],
)
def test_what_servers_say_most_has_a_cause_and_a_remedy(words):
    table = (ROOT / "docs" / "troubleshooting.md").read_text()
    (row,) = re.findall(rf"^\|[^|]*{words}[^|]*\|(.*)\|(.*)\|$", table, re.M)
    assert all(len(cell) > 20 for cell in row)
