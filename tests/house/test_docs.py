"""Pages that are made from the code, and promises that pages make."""

import re
import subprocess
import sys

import click

from tests.house.sources import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from gen_cli_reference import cli, commands, help_text

ALL = dict(commands(cli, "earmark"))


def test_the_command_reference_is_up_to_date():
    done = subprocess.run([sys.executable, ROOT / "scripts" / "gen_cli_reference.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def ends_with_an_example(path):
    last = help_text(path, ALL[path]).split("\n\n")[-1].strip()
    return last.startswith("Example:") and all(line.strip().startswith("earmark") for line in last.splitlines()[1:])


def test_every_help_ends_with_an_example():
    assert [path for path in sorted(ALL) if not ends_with_an_example(path)] == []


def test_every_option_says_what_it_is_for():
    options = [(path, option) for path in sorted(ALL) for option in ALL[path].params if isinstance(option, click.Option)]
    assert [f"{path} {option.name}" for path, option in options if not option.help] == []


def links_of(page):
    """The targets of a page's links that are not on the web."""
    return [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")) if "://" not in link]


def test_links_between_pages_lead_somewhere():
    links = [(page, link) for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")] for link in links_of(page)]
    assert links
    assert [f"{page.relative_to(ROOT)} -> {link}" for page, link in links if not (page.parent / link).exists()] == []


def test_the_architecture_page_names_real_files():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`((?:client|server|shared|scripts|tests|docs|benchmarks)/[\w./-]+)`", text))
    assert names
    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []


def test_decisions_are_numbered_once_each_and_name_their_cost():
    pages = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    numbers = [page.name[:4] for page in pages]
    assert numbers == sorted(set(numbers))
    assert [page.name for page in pages if "## What it costs" not in page.read_text(encoding="utf-8")] == []


def test_what_ci_runs_is_what_the_readme_says():
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1].removeprefix("exec ")
    assert command == "make test"
    assert f"    {command} " in (ROOT / "README.md").read_text(encoding="utf-8")
