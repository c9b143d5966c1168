"""Check a record that somebody wants to add: python -m bench.leaderboard --check FILE

The checks are: schema, id and fingerprints; config and protocol against each other, by the rules of this version;
hashes and counts against the committed records that name the same data set, extractor or network; a registered
network; possible and consistent metrics, curve and cost.  If all of them pass, the network is counted again
(bench/records/recount.py).  No check can tell whether the numbers were measured.  Imports no torch, and nothing that a
record names.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from architectures import registry
from architectures.suggestions import did_you_mean
from bench.config import identity, overrides
from bench.config.schema import RunConfig
from bench.config.validation import adapter, describe_errors
from bench.experiments import presets
from bench.records import plausibility, protocol, record
from bench.records.leaderboard import build_tables
from bench.records.record import Record

MAX_BYTES = 4 * 2**20
"""Largest file that is read; a record has some thousands of bytes."""
STARTUP_SECONDS, SECONDS_PER_NETWORK = 120, 20
"""Time limit for counting networks: a constant, and an addition per network."""
KnownFacts = dict[tuple[str, str], set[Any]]
"""(fact, name of its subject) -> the values in the committed records."""


def check_files(paths: Sequence[Path], results: Path) -> int:
    """Print the problems of each file, one per line; the exit status is 2 if there are any."""
    committed = [r for r in record.read_records(results) if r.status == "done"]
    checked = {path: find_problems(path, committed) for path in paths}
    counts = recount_networks([path for path, (problems, r) in checked.items() if not problems and r and r.cost])
    status = 0
    for path, (problems, r) in checked.items():
        problems += _check_recount(r, counts[path]) if r and path in counts else ()
        for problem in problems:
            print(f"{path}: {problem}", file=sys.stderr)
        if problems:
            status = 2
        elif r:
            unknown = counts.get(path, {}).get("unknown")
            words = f"; its network was not counted: {unknown}" if unknown else ""
            print(f"{path} is good: {describe_standing(r, committed)}{words}")
    return status


def recount_networks(paths: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """Run bench.records.recount on the files, in a process of its own because it needs torch."""
    if not paths:
        return {}
    command = [sys.executable, "-m", "bench.records.recount", *map(str, paths)]
    seconds = STARTUP_SECONDS + SECONDS_PER_NETWORK * len(paths)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {path: {"wrong": f"counting took over {seconds} s"} for path in paths}
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["bench.records.recount ended early"])[-1]
        return {path: {"wrong": why} for path in paths}
    return dict(zip(paths, map(json.loads, done.stdout.splitlines()), strict=True))


def _check_recount(r: Record, count: Mapping[str, Any]) -> Iterator[str]:
    """Compare the cost of a record with the cost counted again."""
    if "wrong" in count:
        yield f"its network cannot be built: {count['wrong']}"
    for name in ("params", "macs"):
        if name in count and count[name] != getattr(r.cost, name):
            yield f"cost.{name} is {getattr(r.cost, name):,}; counted again it is {count[name]:,}"


def find_problems(path: Path, committed: Iterable[Record]) -> tuple[list[str], Record | None]:
    """All problems of a file, and its record if it can be parsed."""
    try:
        data = _load_json(path)
    except (OSError, ValueError, RecursionError) as error:
        return [f"it is no record: {_describe_read_error(error)}"], None
    problems, r = _parse_leniently(data)
    if r is None:
        return problems, None
    if "id" not in data:
        problems.append("id is missing")
    if path.stem not in (r.id, "record"):
        problems.append(f"its file must be called {r.id}.json")
    try:
        config = overrides.config_from_dict(r.config) if r.kind == "model" else None
    except ValueError as error:
        return [*problems, f"config: {error}", *_run_checks(r, None, committed)], r
    return [*problems, *_run_checks(r, config, committed)], r


def _run_checks(r: Record, config: RunConfig | None, committed: Iterable[Record]) -> Iterator[str]:
    """Yield the problems of every check; a check that fails on missing keys is a problem too."""
    others = [other for other in committed if other.id != r.id]
    checks: list[Callable[[], Iterator[str]]] = [partial(check, r) for check in plausibility.RECORD_CHECKS]
    if config is not None:
        model_checks: tuple[Callable[[Record, RunConfig], Iterator[str]], ...] = (_check_protocol, _check_network)
        model_checks += plausibility.FINISHED_MODEL_CHECKS if r.status == "done" else ()
        checks = [partial(check_model, r, config) for check_model in model_checks] + checks
    checks = [partial(_check_evaluation, r), *checks, partial(_check_shared_facts, r, others)]
    for check in checks:
        try:
            yield from check()
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            yield f"it is not laid out as a record: {type(error).__name__} {error}"


def _load_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"it has {path.stat().st_size:,} bytes; a record has at most {MAX_BYTES:,}")
    data = record.JSON_DECODER.decode(path.read_text())
    if not isinstance(data, dict):
        raise ValueError("it must be an object")
    try:
        json.dumps(data, allow_nan=False)
    except ValueError:  # JSON's 1e999 is infinity
        raise ValueError("a number in it is too large") from None
    return data


def _describe_read_error(error: Exception) -> str:
    """The reason why a file is not a JSON object."""
    match error:
        case FileNotFoundError():
            return "there is no such file"
        case IsADirectoryError():
            return "it is a folder; name the files in it"
        case OSError():
            return str(error.strerror)
        case UnicodeDecodeError():
            return "it is not text"
        case json.JSONDecodeError():
            return f"it is no JSON ({error.msg.lower()}, line {error.lineno}, column {error.colno})"
        case RecursionError():
            return "nested too deeply"
    return str(error)


def _parse_leniently(data: dict[str, Any]) -> tuple[list[str], Record | None]:
    """Problems of schema, id and fingerprints, and the record with corrected ones if it is valid then."""
    problems, right = [], dict(data)
    whole, config, label = (data.get(key) for key in ("protocol", "config", "label"))
    if isinstance(whole, dict) and isinstance(whole.get("evaluation"), dict):
        right["fingerprint"] = protocol.fingerprint(whole)
        right["evaluation_fingerprint"] = protocol.fingerprint(whole["evaluation"])
        if isinstance(config, dict) and isinstance(label, str):
            right["id"] = record.record_id(label, config, right["fingerprint"])
    elif isinstance(whole, dict):
        problems.append("protocol has no evaluation")
    for key, of in {"fingerprint": "protocol", "evaluation_fingerprint": "protocol", "id": "content"}.items():
        if key in data and data[key] != right.get(key):
            problems.append(f"{key} is {data[key]!r}; that of its {of} is {right.get(key)!r}")
    if "protocol has no evaluation" in problems:
        return problems, None
    try:
        return problems, adapter(Record).validate_python(right)
    except ValidationError as error:
        return problems + describe_errors(error, Record), None


def _differences(where: str, actual: Any, right: Any) -> Iterator[str]:
    """Name each leaf at which plain data differ from the right ones."""
    if isinstance(actual, dict) and isinstance(right, dict):
        for key in {**right, **actual}:
            if key not in actual:
                yield f"{where}.{key} is missing; it would be {right[key]!r}"
            elif key not in right:
                yield f"{where}.{key} is unknown to this version"
            else:
                yield from _differences(f"{where}.{key}", actual[key], right[key])
    elif actual != right:
        yield f"{where} is {actual!r}; by its config it would be {right!r}"


def _to_json(data: Any) -> Any:
    return json.loads(json.dumps(data))


def _check_evaluation(r: Record) -> Iterator[str]:
    """Check the version and the hashes of the protocol, and the fields of a reference row."""
    e = r.protocol["evaluation"]
    if e.get("version") != protocol.VERSION:
        yield f"protocol.evaluation.version is {e.get('version')}; this version measures by {protocol.VERSION}"
    if r.status == "done":
        for key in record.LOADED_FIELDS:
            if not e.get(key):
                yield f"protocol.evaluation.{key} is {e.get(key)!r}"
    if r.kind == "reference":
        usual = protocol.evaluation_protocol(RunConfig(), extractor_hash="", reference_hash="", reference_count=0)
        yield from (f"protocol.evaluation.{key} is missing" for key in usual if key not in e)


def _check_protocol(r: Record, config: RunConfig) -> Iterator[str]:
    """Check config, protocol and label against those that this version derives from the config."""
    e, t = r.protocol["evaluation"], r.protocol["training"]
    hashes: dict[str, Any] = {key: e.get(key) for key in record.LOADED_FIELDS}
    target = t.get("match", {}).get("target")
    right: protocol.Protocol = {
        "evaluation": protocol.evaluation_protocol(config, **hashes),
        "training": protocol.training_protocol(config, native=presets.native_preset(config), match_target=target),
    }
    if r.status != "done":
        right = record.protocol_before_loading(right)
    yield from _differences("config", r.config, _to_json(config.identity()))
    yield from _differences("protocol", r.protocol, _to_json(right))
    if r.label != config.model.label:
        yield f"label is {r.label!r}; that of its config is {config.model.label!r}"


def _check_network(r: Record, config: RunConfig) -> Iterator[str]:
    """Check that others can build the network; nothing that the file names is imported."""
    m = config.model
    if m.arch not in registry.ARCHITECTURES:
        hint = did_you_mean(m.arch, registry.ARCHITECTURES)
        yield f"config.model.arch is {m.arch!r}, which is not registered in architectures/registry.py; {hint}"
        return
    try:
        registry.size_args(m.arch, m.size)
    except ValueError as error:
        yield f"config.model.size: {error}"
    if not (m.size or m.network or m.io):
        yield "config.model has neither size nor arguments, so nobody can build the network"
    target, by = r.protocol["training"].get("match", {}).get("target"), m.match.partition(":")[0]
    if m.match and r.status == "done" and not (isinstance(target, int) and target > 0):
        yield f"protocol.training.match.target is {target!r}; it must be the cost that was matched"
    elif target and r.cost and by in ("macs", "params"):
        cost = getattr(r.cost, by)
        if abs(cost / target - 1) > m.tolerance:
            yield f"cost.{by} is {cost:,}; it was to be within {m.tolerance:.0%} of {target:,}"


def shared_facts(r: Record) -> dict[tuple[str, str], Any]:
    """(fact, name of its subject) -> the value on which all records with this subject must agree."""
    e, t = r.protocol["evaluation"], r.protocol.get("training", {})
    data, m = str(e.get("data")), r.config.get("model", {})
    facts: dict[tuple[str, str], Any] = {
        ("extractor_hash", str(e.get("extractor"))): e.get("extractor_hash"),
        ("reference_hash", data): e.get("reference_hash"),
        ("reference_count", data): e.get("reference_count"),
    }
    if "data" in t:
        facts["training data's hash", data] = t["data"].get("hash")
    if r.cost and m:
        variance = r.config.get("diffusion", {}).get("variance")
        network = {key: m.get(key) for key in ("arch", "size", "args", "solved", "io")}
        whose = f"{r.label} on {data} ({identity.digest_json([network, variance])[:8]})"
        facts |= {("params", whose): r.cost.params, ("macs", whose): r.cost.macs}
    return facts


def _check_shared_facts(r: Record, others: Iterable[Record]) -> Iterator[str]:
    """Compare the facts of a finished record with those of the committed records."""
    if r.status != "done":
        return
    known: KnownFacts = {}
    for other in others:
        for key, value in shared_facts(other).items():
            known.setdefault(key, set()).add(value)
    for (what, whose), value in shared_facts(r).items():
        committed = known.get((what, whose))
        if committed and value not in committed:
            yield f"{what} of {whose} is {value}; the committed records have {' or '.join(map(str, sorted(committed)))}"


def describe_standing(r: Record, committed: Sequence[Record]) -> str:
    """The rank that a record would have, and the hashes that no committed record has to compare with."""
    others = [other for other in committed if other.id != r.id]
    known: Mapping[Any, Any] = {key: 0 for other in others for key in shared_facts(other)}
    new = sorted({whose for what, whose in shared_facts(r) if what.endswith("hash") and (what, whose) not in known})
    words = "; it replaces the committed one" if any(other.id == r.id and other != r for other in committed) else ""
    words += f"; no other record names {' and '.join(new)}, so that hash is not compared" if new else ""
    for table in build_tables([*others, r]):
        for entry in table.entries:
            if any(run.id == r.id for run in entry.runs):
                rank = f"rank {entry.rank.format_range()} of {len(table.entries)}" if entry.rank else "unranked"
                seeds = f"{len(entry.runs)} seed{'s' if len(entry.runs) > 1 else ''}"
                return f"{r.label}, {rank} of protocol {r.fingerprint}, {seeds}{words}"
    return f"{r.label}, unranked{words}"
