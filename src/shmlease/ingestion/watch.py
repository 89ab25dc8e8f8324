"""What a run reports to its caller while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from shmlease.ingestion.coordinator import Coordinator
from shmlease.ingestion.report import Progress

if TYPE_CHECKING:
    from shmlease.ingestion.inline_resources import InlineResources
    from shmlease.ingestion.load_plan import LoadPlan
    from shmlease.ingestion.plan import IngestPlan
    from shmlease.ingestion.resources import RunResources

__all__ = ["Watch"]


class Watch:
    """Reports to the caller how far a run is."""

    def __init__(
        self,
        plan: IngestPlan | LoadPlan,
        resources: RunResources | InlineResources,
        began_s: float,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._plan, self._resources, self._began_s, self._progress = plan, resources, began_s, progress

    def __call__(self, run: Coordinator | None = None) -> None:
        if self._progress is None:
            return
        self._progress(
            Progress(
                files_done=run.files_done if run else 0,
                files=len(self._plan.paths),
                rows=run.rows if run else 0,
                bytes_done=run.bytes_done if run else 0,
                bytes_total=self._plan.size_bytes,
                text_bytes=run.text_bytes if run else 0,
                shared_bytes=self._resources.used_bytes,
                elapsed_s=time.monotonic() - self._began_s,
            )
        )
