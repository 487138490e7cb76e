"""Write the Python messages of protos/ into shared/; `--check` fails when they are behind.

python scripts/gen_protos.py [--check]
"""

import filecmp
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]
PROTOS = ROOT / "protos"
TARGET = ROOT / "shared"


def sources() -> list[Path]:
    """Return every message definition, relative to `protos`."""
    return sorted(path.relative_to(PROTOS) for path in PROTOS.rglob("*.proto"))


def generate(folder: Path) -> list[Path]:
    """Write the modules and their types below `folder`; return their paths relative to it."""
    names = [str(source) for source in sources()]
    code = protoc.main(["protoc", f"-I{PROTOS}", f"--python_out={folder}", f"--pyi_out={folder}", *names])
    if code:
        raise SystemExit(code)
    return [source.with_name(f"{source.stem}_pb2{suffix}") for source in sources() for suffix in (".py", ".pyi")]


def main() -> int:
    """Write the modules, or compare them with what is there."""
    if "--check" not in sys.argv:
        generate(TARGET)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        made = generate(Path(scratch))
        behind = [
            name
            for name in made
            if not (TARGET / name).exists() or not filecmp.cmp(Path(scratch) / name, TARGET / name, shallow=False)
        ]
    for name in behind:
        print(f"{TARGET / name} is behind its definition: run `make docs`", file=sys.stderr)
    return 1 if behind else 0


if __name__ == "__main__":
    sys.exit(main())
