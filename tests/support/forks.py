"""Commands of Python as forks of a process that holds the heavy libraries: each is new, and imports them in no time.

`run` and `Fork` take what `subprocess.run` and `subprocess.Popen` take: `python …`, and `accelerate launch …`, whose
ranks are forks too. A fork has its own environment, folder, streams, signals and exit code; nothing of this project
is imported in it before the command runs.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import site
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("ipykernel.kernelapp", "pandas", "pyarrow.parquet", "scipy.stats", "matplotlib.pyplot", "omegaconf"),
        *("tsfm_public", "peft", "accelerate.commands.launch", "torch.distributed.run"),
    ]
)
ACCELERATE = str(Path(sys.executable).parent / "accelerate")


def become(environment: Mapping[str, str], cwd: str, first_on_the_path: Sequence[str] = ()) -> None:
    """What a fork does first: take the environment, the folder and the path of imports of a process of its own."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:] = [*first_on_the_path, *(path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix)))]
    sys.modules.pop("sitecustomize", None)
    site.execsitecustomize()
    gc.freeze()  # what the forks share stays: the collector must not touch, and so copy, all of its pages


class Fork:
    """A command that runs, as `subprocess.Popen` is one.

    Args:
        command: this interpreter with a script, ``-c`` and code or ``-m`` and a module, or `ACCELERATE`; its arguments.
        cwd: its folder; None: that of this process.
        env: its whole environment; None: that of this process.
        log: file that it appends both streams to; None: `communicate` tells what it said.
    """

    def __init__(
        self,
        command: Sequence[object],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        log: str | Path | None = None,
    ) -> None:
        self.args = list(map(str, command))
        assert self.args[0] in (sys.executable, ACCELERATE), f"{self.args[0]} is not the Python that runs the tests"
        environment, folder = dict(os.environ if env is None else env), os.path.abspath(cwd or ".")
        self._said = tempfile.TemporaryDirectory()
        self.stdout, self.stderr = (Path(log or Path(self._said.name, name)).absolute() for name in ("out", "err"))
        self.stdout.touch()
        self.stderr.touch()
        streams = (str(self.stdout), str(self.stderr))
        self._process = FORKS.Process(target=_run, args=(self.args, folder, environment, *streams))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code; minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def wait(self, timeout: float = 900) -> int:
        """Wait for its end."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout: float = 900) -> tuple[str, str]:
        """Wait for its end; what it printed to both streams."""
        self.wait(timeout)
        return self.stdout.read_text(), self.stderr.read_text()

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def run(command: Sequence[object], timeout: float = 900, **how: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and keep what it said; `how` goes to `Fork`."""
    return finish([Fork(command, **how)], timeout)[0]


def finish(forks: Sequence[Fork], timeout: float = 900) -> list[subprocess.CompletedProcess[str]]:
    """What came of commands that run side by side; none outlives this."""
    try:
        said = [fork.communicate(timeout) for fork in forks]
    finally:
        for fork in forks:
            fork.kill()
    return [
        subprocess.CompletedProcess(fork.args, fork.returncode, *texts) for fork, texts in zip(forks, said, strict=True)
    ]


def _run(command: list[str], cwd: str, environment: dict[str, str], stdout: str, stderr: str) -> None:
    """Be the command."""
    os.setsid()  # a group of its own
    for number, name in ((1, stdout), (2, stderr)):
        stream = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(stream, number)
        os.close(stream)
    searched = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    script = next((word for word in command[1:] if word.endswith(".py")), "here")
    folder = cwd if command[1] in ("-c", "-m") else os.path.dirname(os.path.join(cwd, script))
    become(environment, cwd, [folder, *(os.path.join(cwd, path) for path in searched)])
    code: object = 0
    try:
        _accelerate(command[1:]) if command[0] == ACCELERATE else _python(command[1:])
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # a process waits for its threads, then does what was registered for its end
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _python(arguments: list[str]) -> None:
    """Be ``python …``."""
    kind, *rest = arguments
    if kind == "-c":
        sys.argv = [kind, *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(kind, run_name="__main__")


def _accelerate(arguments: list[str]) -> None:
    """Be ``accelerate …``: torchrun forks its ranks if it is told so, one process alone is this one."""
    from accelerate.commands import accelerate_cli, launch
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    def in_this_process(settings: object) -> None:
        command, environment = prepare_simple_launcher_cmd_env(settings)
        os.environ.update(environment)
        _python(command[1:])

    os.environ |= {"PET_START_METHOD": "fork", "PET_RUN_PATH": "1"}
    launch.simple_launcher = in_this_process
    sys.argv = ["accelerate", *arguments]
    accelerate_cli.main()
