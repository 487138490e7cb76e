"""What a program was told: flag > environment > TOML file > default, in one frozen dataclass.

Rules: this is the only module that reads or writes the process environment. A key that nobody knows is refused, never ignored
(a misspelt ``EARMARK_KEYFILE`` must not quietly open another library). Units are in the names.

    settings = load_settings({"home": None, "device": "cuda"})
    settings.home        # EARMARK_HOME, else `home` in the TOML file, else ~/.local/share/earmark
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from earmark_shared.errors import SettingsError

PREFIX = "EARMARK_"
FOREIGN_PREFIXES = ("EARMARK_SERVER_",)
"""Variables of Earmark's other program, which this one lets pass."""
DEVICES = ("cpu", "cuda")
NO_NETWORK = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # ONNX Runtime's wheels of 1.32 keep a device's id in ~/.cache/Microsoft and report to Microsoft; nobody is asked.
    "ORT_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
NO_PROXY = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
"""For programs that we start: what they call is on loopback, or is to be called as gRPC calls it for us, without a proxy."""


@dataclass(frozen=True)
class ClientSettings:
    """Everything that can be set about `earmark`; one line says what each is for."""

    home: Path
    """Folder of the encrypted library."""
    key_file: Path | None = None
    """File with the library's key, for machines without a keyring."""
    passphrase_file: Path | None = None
    """File whose first line is the passphrase."""
    passphrase_fd: int | None = None
    """Open descriptor whose first line is the passphrase."""
    device: str = "cpu"
    """Where the model runs: cpu or cuda."""
    jobs: int | None = None
    """Files worked on at the same time by `add`; None means one a core."""
    limit: int = 10
    """Most hits a search shows."""
    min_score: float | None = None
    """Score in [0, 1] a hit needs; None means the model's own threshold."""
    color: bool = True
    """Colour on a terminal; NO_COLOR turns it off."""
    verbose: bool = False
    """Write events and their numbers (never names) to stderr."""


def default_home() -> Path:
    """Return where a library lives when nobody says otherwise."""
    return Path.home() / ".local" / "share" / "earmark"


def default_config() -> Path:
    """Return the TOML file that is read when nobody names another."""
    return Path.home() / ".config" / "earmark" / "config.toml"


def go_offline() -> None:
    """Switch off every phone-home of the libraries below us. Call it before the first heavy import."""
    os.environ.update(NO_NETWORK)


def child_environment(**extra: str) -> dict[str, str]:
    """Return the environment for a program that we start: ours, offline, with no proxy, with our own programs found first."""
    ours = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return ours | NO_NETWORK | NO_PROXY | extra | {"PATH": path}


def load_settings(
    flags: Mapping[str, object], *, config: Path | None = None, environ: Mapping[str, str] | None = None
) -> ClientSettings:
    """Merge flags (None means not given), environment, TOML file and defaults.

    Raises:
        SettingsError: a key is unknown or its value can't be used; the message names the place and the key.
    """
    env = os.environ if environ is None else environ
    merged: dict[str, object] = {"home": default_home()}
    merged |= _from_file(config or _path_or_none(env.get(PREFIX + "CONFIG")))
    merged |= _from_environment(env)
    merged |= {key: _READERS[key](value, f"--{key.replace('_', '-')}") for key, value in flags.items() if value is not None}
    return ClientSettings(**merged)  # type: ignore[arg-type]  # every value came out of its own reader


def _from_environment(env: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, text in env.items():
        if not name.startswith(PREFIX) or name.startswith(FOREIGN_PREFIXES) or name == PREFIX + "CONFIG":
            continue
        key = name.removeprefix(PREFIX).lower()
        if key not in _READERS:
            hint = f"unset {name}, or use one of: " + ", ".join(PREFIX + known.upper() for known in _READERS)
            raise SettingsError(f"environment: {name} is not a setting", hint=hint)
        found[key] = _READERS[key](text, name)
    if env.get("NO_COLOR"):
        found["color"] = False
    return found


def _from_file(config: Path | None) -> dict[str, object]:
    path = config or default_config()
    try:
        if config is None and not path.exists():
            return {}
        import tomllib  # noqa: PLC0415  a third of the cost of this module, and most people have no settings file
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}", hint="check the folder's owner and permissions") from error
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"{path}: there is no such settings file", hint="create it, or leave --config out") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: {error}", hint="the file must be readable TOML, `key = value` on each line") from error
    for key in table:
        if key not in _READERS:
            raise SettingsError(f"{path}: `{key}` is not a setting", hint="remove it, or use one of: " + ", ".join(_READERS))
    return {key: _READERS[key](value, f"{path}: {key}") for key, value in table.items()}


def _path_or_none(text: str | None) -> Path | None:
    return _path(text, PREFIX + "CONFIG") if text else None


def _path(value: object, place: str) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise SettingsError(f"{place}: {value!r} is not a path", hint="write a path in quotes")
    return Path(value).expanduser().absolute()


def _whole_number(value: object, place: str, *, least: int) -> int:
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if type(number) is not int or number < least:
        raise SettingsError(f"{place}: {value!r} is not a whole number", hint=f"write a number of {least} or more")
    return number


def _jobs(value: object, place: str) -> int:
    return _whole_number(value, place, least=1)


def _descriptor(value: object, place: str) -> int:
    return _whole_number(value, place, least=0)


def _score(value: object, place: str) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) else -1.0
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= 1.0:
        raise SettingsError(f"{place}: {value!r} is not a score", hint="write a number from 0 to 1")
    return number


def _device(value: object, place: str) -> str:
    if value not in DEVICES:
        raise SettingsError(f"{place}: {value!r} is not a device", hint="use one of: " + ", ".join(DEVICES))
    return str(value)


def _switch(value: object, place: str) -> bool:
    switches = {"1": True, "true": True, "0": False, "false": False}
    chosen = switches.get(str(value).lower())
    if chosen is None:
        raise SettingsError(f"{place}: {value!r} is neither true nor false", hint="write true or false")
    return chosen


_READERS: dict[str, Callable[[object, str], object]] = {
    "home": _path,
    "key_file": _path,
    "passphrase_file": _path,
    "passphrase_fd": _descriptor,
    "device": _device,
    "jobs": _jobs,
    "limit": _jobs,
    "min_score": _score,
    "color": _switch,
    "verbose": _switch,
}
