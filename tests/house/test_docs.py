"""Pages that are made from the code, and promises that pages make."""

import re
import subprocess
import sys

import click
import pytest

from tests.house.sources import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from gen_cli_reference import cli, commands, help_text

ALL = dict(commands(cli, "earmark"))


def test_the_command_reference_is_up_to_date():
    done = subprocess.run([sys.executable, ROOT / "scripts" / "gen_cli_reference.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted(ALL))
def test_every_help_ends_with_an_example(path):
    last = help_text(path, ALL[path]).split("\n\n")[-1].strip()
    assert last.startswith("Example:")
    assert all(line.strip().startswith("earmark") for line in last.splitlines()[1:])


@pytest.mark.parametrize("path", sorted(ALL))
def test_every_option_says_what_it_is_for(path):
    assert [option.name for option in ALL[path].params if isinstance(option, click.Option) and not option.help] == []


@pytest.mark.parametrize(
    "page", sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
)
def test_links_between_pages_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in targets if not ((ROOT / page).parent / link).exists()] == []


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
