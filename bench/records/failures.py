"""What a run that did not finish leaves: its incidents, and a record of status failed or diverged.

Needs neither torch nor data, so that a door or bench.status can write it for a job that ended without a word.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bench.config.overrides import load_config
from bench.config.schema import RunConfig
from bench.experiments import presets
from bench.records import protocol
from bench.records import record as records
from bench.storage.paths import ROOT
from bench.storage.run_folder import RunFolder

RESTART_CAUSES = {"stopped": "notice", "requeued": "notice", "failed": "failure"}
"""Event of the log -> what it is to the restart after it."""
MAX_ERROR_LINES, MAX_ERROR_LENGTH = 3, 500
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])/(?:[^\s/'\",;()]+/)+([^\s/'\",;()]*)")


def record_failure(run: RunFolder, error: Exception, status: Literal["failed", "diverged"]) -> None:
    """All that a failure leaves: error.txt, the event, and the record, each as far as the disk takes it."""
    run.write_error(error, status)
    try:
        publish_failure(run, load_config(run.path), status, error)
    except (ValueError, OSError) as refused:
        print(f"no record of this failure: {refused}", file=sys.stderr, flush=True)


def publish_failure(
    run: RunFolder, config: RunConfig, status: Literal["failed", "diverged"], error: str | BaseException
) -> Path | None:
    """Write such a record into the ledger, in place of the one of an earlier try.

    Its protocol lacks what only a run that loads data and weights knows, so its id differs from the
    finished run's, whose record takes it away.  None, and nothing written, where that is there already.
    """
    known = unfinished_protocol(config)
    print_ = protocol.fingerprint(known)
    made = records.Record(
        id=records.record_id(config.model.label, config.identity(), print_),
        kind="model",
        status=status,
        label=config.model.label,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=config.identity(),
        protocol=known,
        fingerprint=print_,
        evaluation_fingerprint=protocol.fingerprint(known["evaluation"]),
        metrics={},
        incidents=[*list_incidents(run), {"kind": status, "images": images_reached(run)}],
        error=summarize_error(error, run.results),
    )
    if run.record_path.is_file() or has_finished_record(run.results, made):
        return None
    return records.publish_record(run.results, made)


def unfinished_protocol(config: RunConfig) -> dict[str, Any]:
    """The protocol of a run as far as its config tells it."""
    return records.protocol_before_loading(
        {
            "evaluation": protocol.evaluation_protocol(config, extractor_hash="", reference_hash="", reference_count=0),
            "training": protocol.training_protocol(config, native=presets.native_preset(config), match_target=None),
        }
    )


def has_finished_record(results: Path, failed: records.Record) -> bool:
    """Whether the ledger has the finished record of a run that failed."""
    stem = failed.id.rpartition("-")[0]
    same = records.read_records(results, f"{stem}-*.json")
    return any(r.status == "done" and records.unfinished_id(r) == failed.id for r in same)


def list_incidents(run: RunFolder) -> list[dict[str, Any]]:
    """Restarts, with what ended the turn before (a notice, a failure, or a death without a word), and rollbacks."""
    found: list[dict[str, Any]] = []
    seen, last, reached = set(), "", 0
    for e in run.events()[0]:
        stage = e.get("stage", "all")
        if e["event"] == "start" and stage in seen:
            after = RESTART_CAUSES.get(last, "death")
            saved = reached if after == "notice" else 0
            found.append({"kind": "restart", "stage": stage, "after": after, "images": saved, "warnings": []})
        elif e["event"] == "resume" and found and last == "start":
            found[-1] |= {"images": e["images"], "warnings": [shorten_paths(w, run.results) for w in e["warnings"]]}
        elif e["event"] == "rollback":
            told: dict[str, Any] = {key: e[key] for key in ("images", "to", "why", "nth", "warnings") if key in e}
            found.append({"kind": "rollback", **told})
        seen |= {stage} if e["event"] == "start" else set()
        reached = e["images"] if e["event"] in ("train", "resume") else reached
        last = e["event"]
    return found


def images_reached(run: RunFolder) -> int:
    """Images trained on when the run was last heard of."""
    counts = [e["images"] for e in run.events()[0] if e["event"] in ("train", "resume", "rollback")]
    return counts[-1] if counts else 0


def summarize_error(error: str | BaseException, results: Path) -> str:
    """The last lines of an error, without the machine's paths."""
    text = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else error
    lines = [line.rstrip() for line in text.strip().splitlines() if line.strip()][-MAX_ERROR_LINES:]
    return (
        shorten_paths("\n".join(lines).removeprefix("ValueError: "), results)[-MAX_ERROR_LENGTH:]
        or "no word of an error"
    )


def shorten_paths(text: str, results: Path) -> str:
    """Paths relative to the results folder or the checkout; of others the last part."""
    for folder in {results, results.resolve(), ROOT}:
        if folder.is_absolute():
            text = text.replace(f"{folder}/", "")
    return ABSOLUTE_PATH.sub(r".../\1", text)
