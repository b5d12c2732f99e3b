"""The API simulator as a process."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.processes import QAWORKER, Process, child_environment

START_S = 20.0


class SimulatorProcess(Process):
    """``qaworker simulate`` with the options given, ready when constructed."""

    def __init__(self, *options: str, directory: Path) -> None:
        ready_file = directory / "base_url"
        super().__init__(
            [*QAWORKER, "simulate", "--ready-file", str(ready_file), *options],
            log=directory / "simulator.log",
            cwd=directory,
            env=child_environment(directory),
        )
        try:
            self.wait_ready(ready_file, START_S, "the simulator to listen")
        except BaseException:
            self.end()
            raise
        self.base_url = ready_file.read_text(encoding="utf-8").strip()

    def stats(self) -> dict[str, Any]:
        """What it served since the start or the last reset."""
        return self._request("GET", "/stats")

    def reset_stats(self) -> None:
        """Count from zero."""
        self._request("POST", "/stats/reset", {})

    def set_faults(self, **rates: float) -> None:
        """Replace the faults: ``set_faults(malformed=0.1, **{"429": 0.2})``; none for none."""
        self._request("POST", "/faults", rates)

    def set_limits(self, *, rpm: float = 0, tpm: float = 0) -> None:
        """Replace the limits; 0 is none."""
        self._request("POST", "/limits", {"rpm": rpm, "tpm": tpm})

    def set_latency(self, mean_s: float, sigma: float = 0) -> None:
        """Replace the latency of calls that begin from now on."""
        self._request("POST", "/latency", {"mean_s": mean_s, "sigma": sigma})

    def _request(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        address = urlsplit(self.base_url)
        connection = http.client.HTTPConnection(
            str(address.hostname), address.port, timeout=START_S
        )
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        assert response.status == 200, answer
        return answer
