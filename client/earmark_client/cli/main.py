"""The `earmark` program: global options, and the one place where an error becomes an exit code.

Nothing heavy is imported here or in any module this one imports; each command imports what it needs when it runs.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from earmark_client.cli import federation_cmds, key_cmds, label_cmds, library_cmds, model_cmds, rounds_cmds
from earmark_client.cli.output import answering, examples, open_missing_streams, standard_output
from earmark_client.cli.params import check_all_texts
from earmark_client.cli.session import Session
from earmark_shared.answering import written_by
from earmark_shared.errors import EarmarkError
from earmark_shared.settings import DEVICES, go_offline, load_settings

if TYPE_CHECKING:
    from earmark_client.store.home import Older

INTERRUPTED = 130
ENDINGS = (signal.SIGTERM, signal.SIGHUP)
"""What the system sends at its own end, and a terminal whose window is closed."""
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(
    context_settings=CONTEXT,
    invoke_without_command=True,
    epilog=examples("earmark init", "earmark add ~/Recordings", 'earmark search "dog barking"'),
)
@click.version_option(package_name="earmark", prog_name="earmark")
@click.option("--home", type=click.Path(path_type=Path), help="Folder of the library. [EARMARK_HOME; ~/.local/share/earmark]")
@click.option("--key-file", type=click.Path(path_type=Path), help="File with the library's key. [EARMARK_KEY_FILE]")
@click.option("--passphrase-file", type=click.Path(path_type=Path), help="File whose first line is the passphrase.")
@click.option("--passphrase-fd", type=int, help="Open descriptor whose first line is the passphrase.")
@click.option("--device", type=click.Choice(DEVICES), help="Where the model runs. [EARMARK_DEVICE; cpu]")
@click.option(
    "--older", type=click.Choice(["read", "accept"]), help="For a library put back from a backup: read it, or go on from it."
)
@click.option("--config", type=click.Path(path_type=Path), help="Settings file. [EARMARK_CONFIG; ~/.config/earmark/config.toml]")
@click.option("--verbose", is_flag=True, default=None, help="Write events and their numbers, never names, to stderr.")
@click.pass_context
def cli(context: click.Context, /, config: Path | None, older: Older | None, **flags: object) -> None:
    """Find sounds by words or by example. No sound leaves this device, and what is stored is encrypted."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        return
    from earmark_shared.files import harden_process

    harden_process()
    settings = load_settings(flags, config=config)
    context.obj = Session(settings, standard_output(color=settings.color), older or "refuse")
    if settings.verbose:
        from earmark_shared.log import start_log

        start_log(sys.stderr)


for command in (
    *library_cmds.COMMANDS,
    *label_cmds.COMMANDS,
    *key_cmds.COMMANDS,
    *model_cmds.COMMANDS,
    *federation_cmds.COMMANDS,
    *rounds_cmds.COMMANDS,
):
    check_all_texts(command)
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> int:
    """Run `earmark` and return its exit code; errors are told on stderr. Without `arguments` it is the whole process, which ends here."""
    if arguments is None:
        _heed_endings()
    code = _run(arguments)
    if arguments is None:
        _leave(code)
    return code


class _EndedError(KeyboardInterrupt):
    """One of ENDINGS: what was finished is kept and said as after Ctrl-C."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signum = signum


def _heed_endings() -> None:
    def end(signum: int, _frame: object) -> None:
        for each in ENDINGS:  # a session that ends sends both, and the second must not cut short what the first began
            signal.signal(each, signal.SIG_IGN)
        raise _EndedError(signum)

    for each in ENDINGS:
        if signal.getsignal(each) is signal.SIG_DFL:  # nohup has its children ignore one
            signal.signal(each, end)


def _leave(code: int) -> None:
    """End the process without the interpreter's own farewell, which frees object by object what the system takes back anyway.

    It takes a good part of a cold search (`benchmarks/cold.py`). All that was opened is closed by now; with another thread alive it is not done.
    """
    if threading.active_count() > 1:
        return
    atexit._run_exitfuncs()  # noqa: SLF001  what others asked for is done all the same
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _run(arguments: list[str] | None) -> int:
    go_offline()
    open_missing_streams()
    output, code = standard_output(), 0
    try:
        with written_by(click.echo):
            code = cli.main(arguments, prog_name="earmark", standalone_mode=False)
        with answering():
            sys.stdout.flush()
    except EarmarkError as error:
        output.problem(str(error), error.hint)
        return error.exit_code
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        output.problem(error.format_message(), _usage_hint(error))
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as stop:
        return _stopped(stop)
    return code if isinstance(code, int) else 0


def _stopped(stop: BaseException) -> int:
    output = standard_output()
    output.end_progress()
    cause = stop if isinstance(stop, KeyboardInterrupt) else stop.__cause__
    if isinstance(cause, KeyboardInterrupt):
        output.problem("stopped; what was finished is kept", "run the same command again to go on from there")
        return 128 + cause.signum if isinstance(cause, _EndedError) else INTERRUPTED
    output.problem("nothing was done")
    return 1


def _usage_hint(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{context.command_path} --help shows what can be said" if context else ""


if __name__ == "__main__":
    sys.exit(main())
