"""Whether a record that somebody wants to add can be right: python -m bench.leaderboard --check FILE

Looked at are its schema, its id and fingerprints, that config and protocol say the same by this version's rules, that
hashes of what the committed records name too are theirs, that the network is a registered one, and that metrics,
curve and cost can be true and fit each other.  If all that is right, the network is
counted again (bench/records/recount.py).  Whether the numbers were measured nobody can see from a file.
Imports no torch, and nothing that a record names.
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
"""Bytes; a record has some thousands."""
STARTUP_SECONDS, SECONDS_PER_NETWORK = 120, 20
"""Seconds that counting networks may take: to begin with, and for each."""
LOADED_FIELDS = ("extractor_hash", "reference_hash", "reference_count")
"""What a protocol has that its config does not tell."""
KnownFacts = dict[tuple[str, str], set[Any]]


def check_files(paths: Sequence[Path], results: Path) -> int:
    """Say of each file what is wrong, a line each; status 2 when something is."""
    committed = [r for r in record.read_records(results) if r.status == "done"]
    checked = {path: find_problems(path, committed) for path in paths}
    counts = recount_networks([path for path, (found, one) in checked.items() if not found and one and one.cost])
    status = 0
    for path, (found, one) in checked.items():
        found += _check_recount(one, counts[path]) if one and path in counts else ()
        for problem in found:
            print(f"{path}: {problem}", file=sys.stderr)
        if found:
            status = 2
        elif one:
            unknown = counts.get(path, {}).get("unknown")
            words = f"; its network was not counted: {unknown}" if unknown else ""
            print(f"{path} is good: {describe_standing(one, committed)}{words}")
    return status


def recount_networks(paths: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """What bench.records.recount says of each file, in a process of its own, as it needs torch."""
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
    """Where the network cannot be built, or costs something else."""
    if "wrong" in count:
        yield f"its network cannot be built: {count['wrong']}"
    for name in ("params", "macs"):
        if name in count and count[name] != getattr(r.cost, name):
            yield f"cost.{name} is {getattr(r.cost, name):,}; counted again it is {count[name]:,}"


def find_problems(path: Path, committed: Iterable[Record]) -> tuple[list[str], Record | None]:
    """(everything that is wrong with a file, its record as far as it can be read)."""
    try:
        data = _load_json(path)
    except (OSError, ValueError, RecursionError) as error:
        return [f"it is no record: {_describe_read_error(error)}"], None
    found, one = _parse_leniently(data)
    if one is None:
        return found, None
    if "id" not in data:
        found.append("id is missing")
    if path.stem not in (one.id, "record"):
        found.append(f"its file is to be called {one.id}.json")
    try:
        config = overrides.config_from_dict(one.config) if one.kind == "model" else None
    except ValueError as error:
        return [*found, f"config: {error}", *_run_checks(one, None, committed)], one
    return [*found, *_run_checks(one, config, committed)], one


def _run_checks(one: Record, config: RunConfig | None, committed: Iterable[Record]) -> Iterator[str]:
    """What each check finds; one that cannot make sense of the record says so."""
    others = [r for r in committed if r.id != one.id]
    checks: list[Callable[[], Iterator[str]]] = [partial(of_any, one) for of_any in plausibility.RECORD_CHECKS]
    if config is not None:
        of_model: tuple[Callable[[Record, RunConfig], Iterator[str]], ...] = (_check_protocol, _check_network)
        of_model += plausibility.FINISHED_MODEL_CHECKS if one.status == "done" else ()
        checks = [partial(of_one, one, config) for of_one in of_model] + checks
    checks = [partial(_check_evaluation, one), *checks, partial(_check_shared_facts, one, others)]
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
    """Why a file is no JSON object, in words."""
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
    """(what is wrong with schema, id and fingerprints, the record as it would be with the right ones)."""
    found, right = [], dict(data)
    whole, config, label = (data.get(key) for key in ("protocol", "config", "label"))
    if isinstance(whole, dict) and isinstance(whole.get("evaluation"), dict):
        right["fingerprint"] = protocol.fingerprint(whole)
        right["evaluation_fingerprint"] = protocol.fingerprint(whole["evaluation"])
        if isinstance(config, dict) and isinstance(label, str):
            right["id"] = record.record_id(label, config, right["fingerprint"])
    elif isinstance(whole, dict):
        found.append("protocol has no evaluation")
    for key, of in {"fingerprint": "protocol", "evaluation_fingerprint": "protocol", "id": "content"}.items():
        if key in data and data[key] != right.get(key):
            found.append(f"{key} is {data[key]!r}; that of its {of} is {right.get(key)!r}")
    if found and "protocol has no evaluation" in found:
        return found, None
    try:
        return found, adapter(Record).validate_python(right)
    except ValidationError as error:
        return found + describe_errors(error, Record), None


def _differences(where: str, there: Any, right: Any) -> Iterator[str]:
    """Each leaf at which plain data are not what they should be."""
    if isinstance(there, dict) and isinstance(right, dict):
        for key in {**right, **there}:
            if key not in there:
                yield f"{where}.{key} is missing; it would be {right[key]!r}"
            elif key not in right:
                yield f"{where}.{key} is unknown to this version"
            else:
                yield from _differences(f"{where}.{key}", there[key], right[key])
    elif there != right:
        yield f"{where} is {there!r}; by its config it would be {right!r}"


def _to_json(data: Any) -> Any:
    return json.loads(json.dumps(data))


def _check_evaluation(r: Record) -> Iterator[str]:
    """The version of the protocol, its hashes and, of a reference row, its fields."""
    e = r.protocol["evaluation"]
    if e.get("version") != protocol.VERSION:
        yield f"protocol.evaluation.version is {e.get('version')}; this version measures by {protocol.VERSION}"
    if r.status == "done":
        for key in LOADED_FIELDS:
            if not e.get(key):
                yield f"protocol.evaluation.{key} is {e.get(key)!r}"
    if r.kind == "reference":
        usual = protocol.evaluation_protocol(RunConfig(), extractor_hash="", reference_hash="", reference_count=0)
        yield from (f"protocol.evaluation.{key} is missing" for key in usual if key not in e)


def _check_protocol(r: Record, config: RunConfig) -> Iterator[str]:
    """Config and protocol, which must say the same by the rules of this version."""
    e, t = r.protocol["evaluation"], r.protocol["training"]
    hashes: dict[str, Any] = {key: e.get(key) for key in LOADED_FIELDS}
    target = t.get("match", {}).get("target")
    right = {
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
    """The network, which others must be able to build; nothing is imported by a name in a file."""
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
        own = getattr(r.cost, by)
        if abs(own / target - 1) > m.tolerance:
            yield f"cost.{by} is {own:,}; it was to be within {m.tolerance:.0%} of {target:,}"


def shared_facts(r: Record) -> dict[tuple[str, str], Any]:
    """(what, whose) -> what every record that names it must agree on."""
    e, t = r.protocol["evaluation"], r.protocol.get("training", {})
    data, m = str(e.get("data")), r.config.get("model", {})
    found: dict[tuple[str, str], Any] = {
        ("extractor_hash", str(e.get("extractor"))): e.get("extractor_hash"),
        ("reference_hash", data): e.get("reference_hash"),
        ("reference_count", data): e.get("reference_count"),
    }
    if "data" in t:
        found["training data's hash", data] = t["data"].get("hash")
    if r.cost and m:
        variance = r.config.get("diffusion", {}).get("variance")
        network = {key: m.get(key) for key in ("arch", "size", "args", "solved", "io")}
        whose = f"{r.label} on {data} ({identity.digest_json([network, variance])[:8]})"
        found |= {("params", whose): r.cost.params, ("macs", whose): r.cost.macs}
    return found


def _check_shared_facts(r: Record, others: Iterable[Record]) -> Iterator[str]:
    """Where it contradicts the committed records about what they name too."""
    if r.status != "done":
        return
    known: KnownFacts = {}
    for other in others:
        for key, value in shared_facts(other).items():
            known.setdefault(key, set()).add(value)
    for (what, whose), value in shared_facts(r).items():
        there = known.get((what, whose))
        if there and value not in there:
            yield f"{what} of {whose} is {value}; the committed records have {' or '.join(map(str, sorted(there)))}"


def describe_standing(r: Record, committed: Sequence[Record]) -> str:
    """Where a record would stand, and what there was nothing to hold against."""
    others = [other for other in committed if other.id != r.id]
    known: Mapping[Any, Any] = {key: 0 for other in others for key in shared_facts(other)}
    new = sorted({whose for what, whose in shared_facts(r) if what.endswith("hash") and (what, whose) not in known})
    words = "; it replaces the committed one" if any(one.id == r.id and one != r for one in committed) else ""
    words += f"; no other record names {' and '.join(new)}, so that hash is not compared" if new else ""
    for board in build_tables([*others, r]):
        for line in board.lines:
            if any(one.id == r.id for one in line.runs):
                place = f"rank {line.place.range()} of {len(board.lines)}" if line.place else "unranked"
                seeds = f"{len(line.runs)} seed{'s' if len(line.runs) > 1 else ''}"
                return f"{r.label}, {place} of protocol {r.fingerprint}, {seeds}{words}"
    return f"{r.label}, unranked{words}"
