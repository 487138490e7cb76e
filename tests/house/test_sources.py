"""The house's rules about source files: sizes, docstrings, who may import what, who may print."""

import ast
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from tests.house.sources import ROOT, body_lines, functions, imported_names, modules

OWNERS = {
    "faiss": ("client/earmark_client/store/vectors.py",),
    "sqlcipher3": ("client/earmark_client/store/",),
    "keyring": ("client/earmark_client/store/",),
    "soundfile": ("client/earmark_client/audio/",),
    "soxr": ("client/earmark_client/audio/",),
    "onnxruntime": ("client/earmark_client/model/",),
    "tokenizers": ("client/earmark_client/model/",),
    "click": ("client/earmark_client/cli/", "server/earmark_server/cli.py"),
    "torch": ("client/earmark_client/learn/", "client/earmark_client/importing/"),
    "opacus": ("client/earmark_client/learn/",),
    "flwr": ("client/earmark_client/federation/", "server/earmark_server/flower.py"),
    "transformers": ("client/earmark_client/importing/",),
    "librosa": (),
    "grpc": ("shared/earmark_shared/wire/", "server/earmark_server/service.py", "client/earmark_client/federation/"),
    "logging": ("shared/earmark_shared/log.py",),
}
EVERY_MODULE = pytest.mark.parametrize("name", sorted(modules()))


@EVERY_MODULE
def test_a_module_fits_on_a_few_screens(name):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 300


@EVERY_MODULE
def test_no_function_is_over_40_lines(name):
    assert {function.name: body_lines(function) for function, _ in functions(modules()[name]) if body_lines(function) > 40} == {}


@EVERY_MODULE
def test_what_is_public_says_what_it_does(name):
    assert ast.get_docstring(modules()[name]), "the module"
    assert [
        function.name for function, is_public in functions(modules()[name]) if is_public and not ast.get_docstring(function)
    ] == []


@EVERY_MODULE
def test_heavy_libraries_stay_with_their_owners(name):
    strays = [
        library for library in imported_names(modules()[name]) & set(OWNERS) if not name.startswith(OWNERS[library] or ("-",))
    ]
    assert strays == []


@EVERY_MODULE
def test_only_output_prints_and_nobody_asserts(name):
    calls = [node.func.id for node in ast.walk(modules()[name]) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert "print" not in calls or name.endswith("cli/output.py") or name == "server/earmark_server/cli.py"
    assert not [node.lineno for node in ast.walk(modules()[name]) if isinstance(node, ast.Assert)]


@EVERY_MODULE
def test_only_settings_touches_the_environment(name):
    words = {node.attr for node in ast.walk(modules()[name]) if isinstance(node, ast.Attribute)}
    assert not words & {"environ", "getenv", "putenv", "environb"} or name.endswith("earmark_shared/settings.py")


@EVERY_MODULE
def test_nothing_is_left_for_later(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert [word for word in ("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error") if word in text] == []


def test_functions_are_short():
    lines = sorted(body_lines(function) for tree in modules().values() for function, _ in functions(tree))
    assert median(lines) <= 8
    assert lines[int(len(lines) * 0.9)] <= 25


def test_errors_share_one_base_and_end_in_error():
    from earmark_shared import errors

    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert all(issubclass(one, errors.EarmarkError) and one.__name__.endswith("Error") and one.__doc__ for one in classes)
    assert {one.exit_code for one in classes} >= {1, 10, 20, 30, 40, 50, 60, 70}


def test_import_rules_hold():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_server_loads_nothing_that_hears_or_stores():
    code = (
        "import pkgutil, importlib, sys, earmark_server, earmark_shared\n"
        "for package in (earmark_server, earmark_shared):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert {"earmark_server", "earmark_shared"} <= loaded
    heavy = {
        "torch",
        "librosa",
        "soundfile",
        "soxr",
        "faiss",
        "onnxruntime",
        "transformers",
        "opacus",
        "sqlcipher3",
        "earmark_client",
    }
    assert not loaded & heavy
