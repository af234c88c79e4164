"""Kernels forked from a process that holds the heavy libraries: each one is new, and imports them in no time."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess

from jupyter_client.manager import AsyncKernelManager
from support.forks import FORKS, become

_SECONDS_TO_STOP = 10


class ForkedKernelManager(AsyncKernelManager):
    """Starts its kernel by a fork. Nothing of this project is imported before it."""

    process: BaseProcess | None = None

    async def start_kernel(self, cwd: str, **_: object) -> None:
        """Fork, with the working folder and environment of now."""
        self.write_connection_file()
        self.process = FORKS.Process(target=run_kernel, args=(self.connection_file, cwd, dict(os.environ)))
        self.process.start()

    async def is_alive(self) -> bool:
        """True while the process runs."""
        return self.process is not None and self.process.is_alive()

    _async_is_alive = is_alive

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """Ask the kernel to leave; end it if it does not."""
        if not now:
            await self._async_request_shutdown(restart)
            self.process.join(_SECONDS_TO_STOP)
        self.process.kill()
        self.process.join()
        self.cleanup_connection_file()


def run_kernel(connection_file: str, cwd: str, environment: Mapping[str, str]) -> None:
    """What the fork does: be a kernel, as `python -m ipykernel_launcher` would."""
    from ipykernel.kernelapp import launch_new_instance

    become(environment, cwd)
    sys.argv = ["ipykernel_launcher", "-f", connection_file]
    launch_new_instance(argv=["-f", connection_file])
