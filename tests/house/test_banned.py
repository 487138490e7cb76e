"""G2: calls that turn data into code, or a string into a command, are in none of the product's files."""

import ast
import re
import tomllib

from tests.house.sources import ROOT, modules

BANNED_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "jsonpickle", "telnetlib", "xmlrpc"}
BANNED_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.hub.load", "torch.jit.load", "yaml.load",
    "tempfile.mktemp", "subprocess.getoutput", "subprocess.getstatusoutput", "ssl._create_unverified_context",
}  # fmt: skip
BANNED_ARGUMENTS = {"shell": True, "allow_pickle": True, "trust_remote_code": True, "weights_only": False, "verify": False}


def dotted(node):
    """`a.b.c` of a call's function, or ''."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) and dotted(node.value) else ""


def banned(tree):
    """Yield what a module must not do."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in BANNED_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in BANNED_MODULES:
            yield node.module
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            yield from [name] if name in BANNED_CALLS else []
            for word in node.keywords:
                value = word.value.value if isinstance(word.value, ast.Constant) else None
                if word.arg in BANNED_ARGUMENTS and value is BANNED_ARGUMENTS[word.arg]:
                    yield f"{name}({word.arg}={value})"
            if name in {"np.load", "numpy.load"} and not any(word.arg == "allow_pickle" for word in node.keywords):
                yield f"{name} without allow_pickle=False"


def test_nothing_turns_data_into_code():
    assert {name: found for name, tree in modules().items() if (found := list(banned(tree)))} == {}


WRONG = (
    "import pickle",
    "from pickle import loads",
    "import dill as d",
    "eval(text)",
    "exec(text)",
    "import torch\ntorch.load(path)",
    "import subprocess\nsubprocess.run(text, shell=True)",
    "import os\nos.system(text)",
    "np.load(path)",
    "np.load(path, allow_pickle=True)",
    "AutoModel.from_pretrained(name, trust_remote_code=True)",
    "httpx.get(url, verify=False)",
)


def test_control_each_of_them_would_be_found():
    assert [source for source in WRONG if not list(banned(ast.parse(source)))] == []


def test_ruff_looks_for_bandits_findings_and_nobody_waves_them_through():
    """Ruff's S rules are bandit's. They are on for the product; every exception in it names its reason on the line."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert lint["select"] == ["ALL"]
    everywhere = {rule for rule in lint["ignore"] if re.fullmatch(r"S\d*", rule)}
    product = {
        rule
        for path, rules in lint["per-file-ignores"].items()
        if path.startswith(("client", "server", "shared"))
        for rule in rules
    }
    assert not everywhere
    assert not {rule for rule in product if re.fullmatch(r"S\d*", rule)}
    waved = {
        f"{name}:{number}"
        for name in modules()
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"noqa: S\d+\s*$", line)
    }
    assert waved == set(), "an exception without a reason"
