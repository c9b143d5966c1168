"""Records as files, altered and signed again, and the answer of `python -m bench.leaderboard --check`."""

import dataclasses
import json

from factories import plain

from bench import leaderboard
from bench.records import record
from bench.records.protocol import fingerprint


def data_of(one):
    """A record as its file has it."""
    return {k: v for k, v in plain(dataclasses.asdict(one)).items() if k != "error" or v is not None}


def signed(data):
    """With the fingerprints and the id of its content."""
    whole_ = data["protocol"]
    data["fingerprint"], data["evaluation_fingerprint"] = fingerprint(whole_), fingerprint(whole_["evaluation"])
    data["id"] = record.record_id(data["label"], data["config"], data["fingerprint"])
    return data


def check(data, results, capsys, name=None):
    """(status, what is wrong, what is said of a good one)."""
    results.mkdir(exist_ok=True)
    path = results.parent / f"{name or data['id']}.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    status = leaderboard.main(["--results", str(results), "--check", str(path)])
    said = capsys.readouterr()
    return status, [line.removeprefix(f"{path}: ") for line in said.err.splitlines()], said.out


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
