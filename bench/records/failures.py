"""Records of status failed or diverged, and the incidents of a run.

Needs neither torch nor data, so that a launcher or bench.status can write the record for a job that was killed.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bench.config.overrides import load_config
from bench.config.schema import RunConfig
from bench.experiments import presets
from bench.records import protocol
from bench.records import record as records
from bench.records.protocol import Protocol
from bench.storage.paths import ROOT
from bench.storage.run_folder import RunFolder

log = logging.getLogger(__name__)

RESTART_CAUSES = {"stopped": "notice", "requeued": "notice", "failed": "failure"}
"""Last event before a restart -> its cause; any other event means that the process was killed."""
MAX_ERROR_LINES, MAX_ERROR_LENGTH = 3, 500
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])/(?:[^\s/'\",;()]+/)+([^\s/'\",;()]*)")


def record_failure(run: RunFolder, error: Exception, status: Literal["failed", "diverged"]) -> None:
    """Write error.txt, the event and the record of a failure, as far as the disk allows."""
    run.write_error(error, status)
    try:
        publish_failure(run, load_config(run.path), status, error)
    except (ValueError, OSError) as refused:
        log.warning("no record of this failure: %s", refused)


def publish_failure(
    run: RunFolder, config: RunConfig, status: Literal["failed", "diverged"], error: str | BaseException
) -> Path | None:
    """Publish a failed or diverged record, in place of the one of an earlier attempt.

    Its protocol lacks the values that are known only after data and weights are loaded, so its id differs from that of
    the finished run.  The finished record removes it later.  Returns None, and writes nothing, if the run has finished.
    """
    known = unfinished_protocol(config)
    fingerprint = protocol.fingerprint(known)
    failed = records.Record(
        id=records.record_id(config.model.label, config.identity(), fingerprint),
        kind="model",
        status=status,
        label=config.model.label,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=config.identity(),
        protocol=known,
        fingerprint=fingerprint,
        evaluation_fingerprint=protocol.fingerprint(known["evaluation"]),
        metrics={},
        incidents=[*list_incidents(run), {"kind": status, "images": images_reached(run)}],
        error=summarize_error(error, run.results),
    )
    if run.record_path.is_file() or has_finished_record(run.results, failed):
        return None
    return records.publish_record(run.results, failed)


def unfinished_protocol(config: RunConfig) -> Protocol:
    """The protocol of a run, as far as it follows from the config."""
    return records.protocol_before_loading(
        {
            "evaluation": protocol.evaluation_protocol(config, extractor_hash="", reference_hash="", reference_count=0),
            "training": protocol.training_protocol(config, native=presets.native_preset(config), match_target=None),
        }
    )


def has_finished_record(results: Path, failed: records.Record) -> bool:
    """Whether the results folder has the finished record of a run that failed."""
    stem = failed.id.rpartition("-")[0]
    same = records.read_records(results, f"{stem}-*.json")
    return any(r.status == "done" and records.unfinished_id(r) == failed.id for r in same)


def list_incidents(run: RunFolder) -> list[dict[str, Any]]:
    """Restarts with their cause (notice, failure or death) and damaged checkpoints, and rollbacks, in order."""
    incidents: list[dict[str, Any]] = []
    started, last, images = set(), "", 0
    for e in run.events()[0]:
        stage = e.get("stage", "all")
        if e["event"] == "start" and stage in started:
            cause = RESTART_CAUSES.get(last, "death")
            saved = images if cause == "notice" else 0
            incidents.append({"kind": "restart", "stage": stage, "after": cause, "images": saved, "warnings": []})
        elif e["event"] == "resume" and incidents and last == "start":
            incidents[-1] |= {"images": e["images"], "warnings": [shorten_paths(w, run.results) for w in e["warnings"]]}
        elif e["event"] == "rollback":
            fields = ("images", "to", "why", "nth", "warnings")
            incidents.append({"kind": "rollback", **{key: e[key] for key in fields if key in e}})
        started |= {stage} if e["event"] == "start" else set()
        images = e["images"] if e["event"] in ("train", "resume") else images
        last = e["event"]
    return incidents


def images_reached(run: RunFolder) -> int:
    """Images that a run had trained on at its last logged event."""
    counts = [e["images"] for e in run.events()[0] if e["event"] in ("train", "resume", "rollback")]
    return counts[-1] if counts else 0


def summarize_error(error: str | BaseException, results: Path) -> str:
    """The last lines of an error, without absolute paths."""
    text = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else error
    lines = [line.rstrip() for line in text.strip().splitlines() if line.strip()][-MAX_ERROR_LINES:]
    return (
        shorten_paths("\n".join(lines).removeprefix("ValueError: "), results)[-MAX_ERROR_LENGTH:] or "no error message"
    )


def shorten_paths(text: str, results: Path) -> str:
    """Make paths relative to the results folder or the checkout, and cut other absolute paths to their last part."""
    for folder in {results, results.resolve(), ROOT}:
        if folder.is_absolute():
            text = text.replace(f"{folder}/", "")
    return ABSOLUTE_PATH.sub(r".../\1", text)
