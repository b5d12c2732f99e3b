"""Collects the metrics when Prometheus asks; without Redis they are few, and none of them is stale."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version

from prometheus_client.metrics_core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector as BaseCollector

from qaworker import logs
from qaworker.errors import StoreUnavailable
from qaworker.exporter.families import counter, families, gauge
from qaworker.exporter.looking import Picture

log = logs.get(__name__)


class Collector(BaseCollector):
    """A look at Redis for each scrape; any thread may collect."""

    def __init__(self, look: Callable[[], Picture]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._failed_looks = 0

    def collect(self) -> Iterator[Metric]:
        """All metrics; those of Redis only when it answered everything."""
        began_at_s = time.perf_counter()
        picture: Picture | None = None
        try:
            picture = self._look()
        except StoreUnavailable as error:
            log.warning("redis_not_read", error=str(error))
            with self._lock:
                self._failed_looks += 1
        took_s = time.perf_counter() - began_at_s
        yield gauge(
            "broker_up",
            "1 when Redis answered all that was asked for this scrape, within seconds; without it"
            " there is nothing else but what is known of the exporter.",
            (),
            [((), picture is not None)],
        )
        if picture is not None:
            yield from families(picture)
        yield gauge(
            "exporter_collect_duration_seconds",
            "How long Redis was asked for this scrape.",
            (),
            [((), took_s)],
            unit="seconds",
        )
        yield counter(
            "exporter_collect_errors",
            "Scrapes of this exporter process for which Redis did not answer.",
            (),
            [((), self._failed_looks)],
        )
        yield InfoMetricFamily(
            "qaworker_build", "The version of the exporter.", {"version": version("qaworker")}
        )
