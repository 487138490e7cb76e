"""The house's rules about source files: sizes, docstrings, who may import what, who may print."""

import ast
import subprocess
import sys
from pathlib import Path
from statistics import median

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
    "flwr": (
        "client/earmark_client/federation/flower.py",
        "client/earmark_client/federation/executor.py",
        "client/earmark_client/federation/direct.py",
        "server/earmark_server/flower.py",
        "server/earmark_server/letters.py",
    ),
    "transformers": ("client/earmark_client/importing/",),
    "librosa": (),
    "grpc": ("shared/earmark_shared/wire/", "server/earmark_server/service.py", "client/earmark_client/federation/"),
    "logging": ("shared/earmark_shared/log.py",),
}


def lines_of(name):
    return (ROOT / name).read_text(encoding="utf-8").splitlines()


def test_a_module_fits_on_a_few_screens():
    assert {name: len(lines_of(name)) for name in modules() if len(lines_of(name)) > 300} == {}


def test_no_function_is_over_40_lines():
    long = {
        f"{name}:{function.lineno} {function.name}": body_lines(function)
        for name, tree in modules().items()
        for function, _ in functions(tree)
        if body_lines(function) > 40
    }
    assert long == {}


def test_what_is_public_says_what_it_does():
    assert [name for name, tree in modules().items() if not ast.get_docstring(tree)] == []
    silent = [
        f"{name}:{function.lineno} {function.name}"
        for name, tree in modules().items()
        for function, is_public in functions(tree)
        if is_public and not ast.get_docstring(function)
    ]
    assert silent == []


def test_heavy_libraries_stay_with_their_owners():
    strays = [
        f"{name} imports {library}"
        for name, tree in modules().items()
        for library in sorted(imported_names(tree) & set(OWNERS))
        if not name.startswith(OWNERS[library] or ("-",))
    ]
    assert strays == []


def test_only_output_prints_and_nobody_asserts():
    nodes = [(name, node) for name, tree in modules().items() for node in ast.walk(tree)]
    prints = [
        f"{name}:{node.lineno}"
        for name, node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        if not name.endswith("cli/output.py") and name != "server/earmark_server/cli.py"
    ]
    assert prints == []
    assert [f"{name}:{node.lineno}" for name, node in nodes if isinstance(node, ast.Assert)] == []


def test_only_settings_touches_the_environment():
    words = {"environ", "getenv", "putenv", "environb"}
    touching = [
        f"{name}:{node.lineno} {node.attr}"
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in words and not name.endswith("earmark_shared/settings.py")
    ]
    assert touching == []


def test_nothing_is_left_for_later():
    words = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error")
    left = [
        f"{name}:{number} {word}"
        for name in modules()
        for number, line in enumerate(lines_of(name), 1)
        for word in words
        if word in line
    ]
    assert left == []


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
