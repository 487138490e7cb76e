"""`earmark` for long sessions: each command in a child of one process that has loaded the libraries, which most of a start goes to.

A line of JSON a command: `[arguments, folder, environment]`; answered by one: `[exit code, stdout, stderr]`.
"""

import json
import os
import sys
import tempfile

from earmark_client.cli.main import main
from earmark_shared.settings import go_offline


def become(files, folder, environment):
    """Make this process what a shell would have started: its folder, its variables and its three streams."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate(files, 1):
        os.dup2(file.fileno(), number)


def run(arguments, folder, environment):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                become((out, err), folder, environment)
                code = main(arguments)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said = [(file.seek(0), file.read().decode())[1] for file in (out, err)]
    return [code, *said]


if __name__ == "__main__":
    go_offline()
    import faiss  # noqa: F401
    import onnxruntime  # noqa: F401
    import soundfile  # noqa: F401
    import soxr  # noqa: F401

    import earmark_client.library  # noqa: F401

    for line in sys.stdin:
        print(json.dumps(run(*json.loads(line))), flush=True)
