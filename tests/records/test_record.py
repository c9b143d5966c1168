"""Records: validation, files, and the types of config and protocol."""

import dataclasses
import json
from pathlib import Path
from typing import get_type_hints

import factories
import pytest
from factories import metric, short_record
from helpers import replaced
from typing_extensions import is_typeddict

from bench.config.identity import ConfigIdentity
from bench.config.schema import RunConfig
from bench.records import protocol, record


def test_record_round_trip(tmp_path):
    one = short_record()
    assert record.read_record(record.publish_record(tmp_path, one)) == one


ALTERED = {
    "fingerprint": (lambda d: d.update(fingerprint="0" * 12), "fingerprint is not that of the protocol"),
    "protocol": (lambda d: d["protocol"]["evaluation"].update(samples=5), "fingerprint is not that"),
    "config": (lambda d: d["config"].update(seed=9), "id is not that of config"),
    "nan": (lambda d: d["metrics"]["fid[digits-cnn]"].update(value=float("nan")), "NaN is not allowed"),
    "unknown field": (lambda d: d.update(hello=1), "hello"),
    "text for a number": (lambda d: d["cost"].update(macs="many"), "cost.macs"),
    "done with an error": (lambda d: d.update(error="no"), "status done has no error"),
    "failed without one": (lambda d: d.update(status="failed"), "needs its error"),
    "no cost": (lambda d: d.update(cost=None), "needs its cost"),
    "no metrics": (lambda d: d.update(metrics={}), "needs metrics"),
    "another schema": (lambda d: d.update(schema=2), "this version reads 1"),
}


@pytest.mark.parametrize("change", ALTERED)
def test_altered_record_is_refused_in_a_sentence(tmp_path, change):
    path = record.publish_record(tmp_path, short_record())
    data = json.loads(path.read_text())
    alter, sentence = ALTERED[change]
    alter(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError) as caught:
        record.read_record(path)
    assert sentence in str(caught.value) and path.name in str(caught.value)


def test_truncated_record_is_refused(tmp_path):
    path = record.publish_record(tmp_path, short_record())
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match="no valid record"):
        record.read_record(path)


def test_record_under_another_name_is_refused(tmp_path):
    path = record.publish_record(tmp_path, short_record())
    other = path.rename(path.with_name("other.json"))
    with pytest.raises(ValueError, match="its id is"):
        record.read_record(other)


def test_nan_is_never_written(tmp_path):
    bad = dataclasses.replace(short_record(), metrics={"fid[digits-cnn]": metric(float("nan"))})
    with pytest.raises(ValueError):
        record.publish_record(tmp_path, bad)
    folder = record.records_folder(tmp_path)
    assert not folder.exists() or not any(folder.iterdir())


def test_each_seed_has_its_own_record():
    assert len({short_record(seed=s).id for s in range(3)}) == 3


REPOSITORY = Path(__file__).parents[2] / "results"


def typed_keys(type_):
    fields = get_type_hints(type_)
    return {k: None if not is_typeddict(v) else typed_keys(v) for k, v in fields.items()}


def test_config_types_have_the_keys_of_a_run_config():
    identity = RunConfig().identity()
    assert {k: set(v) if isinstance(v, dict) else None for k, v in identity.items()} == {
        k: set(v) if v else None for k, v in typed_keys(ConfigIdentity).items()
    }


def test_protocol_types_have_the_keys_of_a_protocol():
    types, whole_ = (
        typed_keys(protocol.Protocol),
        factories.full_record(replaced(factories.config_of(), "model", match="macs:unet:nano")),
    )
    assert set(whole_.protocol["evaluation"]) == set(types["evaluation"])
    assert set(whole_.protocol["training"]) == set(types["training"])


@pytest.mark.parametrize(
    ("path", "value"),
    [("config/model/arch", 3), ("config/recipe/lr", "fast"), ("protocol/evaluation/steps", "many"), ("config", [])],
)
def test_a_wrong_type_in_config_or_protocol_is_refused(path, value):
    data = dataclasses.asdict(factories.full_record())
    *parents, last = path.split("/")
    node = data
    for key in parents:
        node = node[key]
    node[last] = value
    with pytest.raises(ValueError, match=path.replace("/", r"\.")):
        record.parse_record(data, "x.json")


def test_committed_records_are_written_as_they_were_read(tmp_path):
    for path in record.records_folder(REPOSITORY).glob("*.json"):
        record.write_record(tmp_path / path.name, record.read_record(path))
        data = json.loads(path.read_text())
        if "losses" in data:  # two reference rows are older than this field
            assert (tmp_path / path.name).read_bytes() == path.read_bytes()
        assert json.loads((tmp_path / path.name).read_text()) == {"losses": [], **data}


def test_records_of_older_protocols_are_read():
    old = short_record("dit", version=1)  # without eta, decoder, data hash and most settings
    assert record.parse_record(dataclasses.asdict(old), "old.json") == old
