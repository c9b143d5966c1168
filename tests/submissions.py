"""Records as files, altered and signed again, and the answer of `python -m bench.leaderboard --check`."""

import dataclasses
import json

from factories import plain

from bench import leaderboard
from bench.records import record
from bench.records.protocol import fingerprint


def data_of(one):
    """The content of a record's file."""
    return {k: v for k, v in plain(dataclasses.asdict(one)).items() if k != "error" or v is not None}


def signed(data):
    """Recompute the fingerprints and the id of a record."""
    protocol = data["protocol"]
    data["fingerprint"], data["evaluation_fingerprint"] = fingerprint(protocol), fingerprint(protocol["evaluation"])
    data["id"] = record.record_id(data["label"], data["config"], data["fingerprint"])
    return data


def check(data, results, capsys, name=None):
    """Run the check; return (exit status, problems, standard output)."""
    results.mkdir(exist_ok=True)
    path = results.parent / f"{name or data['id']}.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    status = leaderboard.main(["--results", str(results), "--check", str(path)])
    captured = capsys.readouterr()
    return status, [line.removeprefix(f"{path}: ") for line in captured.err.splitlines()], captured.out


def at(data, where):
    *path, last = [int(key) if key.isdecimal() else key for key in where.split("/")]
    for key in path:
        data = data[key]
    return data, last


def put(where, value):
    def change(data):
        node, last = at(data, where)
        node[last] = value(node[last]) if callable(value) else value

    return change


def drop(where):
    def change(data):
        node, last = at(data, where)
        del node[last]

    return change
