"""python -m bench.reference: files of statistics with a manifest, and what bench.evaluate makes of them."""

import json

import numpy as np
import pytest
from helpers import make_run, tiny_config
from image_files import pictures, save_folder, write_images
from PIL import Image

from bench import evaluate, reference
from bench.evaluation import reference_statistics
from bench.evaluation.extractors import extractor_registry


@pytest.fixture
def build(cache, tmp_path, capsys):
    """Runs bench.reference with the digits CNN: (exit status, the JSON it printed or None, what it said)."""
    weights = cache / "digits-cnn.safetensors"

    def run(*words, options=("--extractor", "digits-cnn", "--weights", weights)):
        status = reference.main([str(w) for w in (*words, *options, "--cache", tmp_path / "cache", "--json")])
        done = capsys.readouterr()
        return status, json.loads(done.out) if done.out else None, done.err

    return run


@pytest.fixture
def command(cache, capsys):
    """Runs bench.evaluate: (exit status, the JSON it printed or None, what it said)."""

    def run(*words, options=()):
        weights = ["--weights", cache / "digits-cnn.safetensors", "--device", "cpu"]
        status = evaluate.main([str(w) for w in (*words, *(options or weights), "--json")])
        done = capsys.readouterr()
        return status, json.loads(done.out) if done.out else None, done.err

    return run


@pytest.fixture
def real(tmp_path):
    return save_folder(tmp_path / "real", pictures(2, 30))


@pytest.fixture
def fake(tmp_path):
    return save_folder(tmp_path / "fake", pictures(1, 40))


def test_statistics_measure_as_the_images_they_were_made_of(build, command, real, fake):
    built = build(real, "--features")[1]
    status, stored, _ = command(fake, "--reference", built["path"])
    _, images, _ = command(fake, "--reference", real, "--extractor", "digits-cnn")
    assert status == 0 and stored["metrics"] == images["metrics"] and len(stored["metrics"]) == 4
    assert stored["reference"]["manifest"] == built["manifest"] and stored["notes"] == []


def test_the_file_is_in_adms_layout_and_says_what_it_is_of(build, real, cache):
    built = build(real, "--skip-bad")[1]
    with np.load(built["path"], allow_pickle=False) as z:
        mu, sigma, text = z["mu"], z["sigma"], str(z["manifest"])
    manifest = json.loads(text)
    assert mu.shape == (64,) and sigma.shape == (64, 64) and manifest == built["manifest"]
    assert (manifest["count"], manifest["size"], manifest["left_out"]) == (30, [3, 8, 8], 0)
    assert manifest["weights_sha256"] == extractor_registry.hash_weights(cache / "digits-cnn.safetensors")
    assert manifest["extractor"] == "digits-cnn" and manifest["data"] == "real" and manifest["layers"] == {"mu": "64"}
    assert str(real.parent) not in text


def test_inceptions_file_has_both_pairs_of_statistics(build, tmp_path, inception):
    built = build(save_folder(tmp_path / "three", pictures(2, 3)), options=("--weights", inception))[1]
    with np.load(built["path"], allow_pickle=False) as z:
        shapes = {name: z[name].shape for name in z.files if name != "manifest"}
    assert shapes == {"mu": (2048,), "sigma": (2048, 2048), "mu_s": (2023,), "sigma_s": (2023, 2023)}
    assert built["manifest"]["layers"] == {"mu": "2048", "mu_s": "spatial"}


def test_running_again_says_that_the_file_is_there(build, real, monkeypatch):
    first = build(real)[1]
    monkeypatch.setattr(
        reference_statistics, "collect_features", lambda *a, **k: pytest.fail("the work has begun again")
    )
    again = build(real)[1]
    assert (first["new"], again["new"]) == (True, False) and first["path"] == again["path"]


@pytest.mark.parametrize("change", ["an image", "the features", "the protocol"])
def test_another_cause_is_another_file(change, build, real):
    first = build(real)[1]["path"]
    if change == "an image":
        Image.fromarray(pictures(9, 1)[0]).save(real / "004.png")
    more = {"the features": ["--features"], "the protocol": ["--protocol", "torch-fidelity"]}.get(change, [])
    again = build(real, *more)[1]
    assert again["new"] and again["path"] != first


def test_a_known_data_set_and_a_run_of_it_give_the_same_file(build, results, digits, cache):
    named = build("digits", options=("--weights", cache / "digits-cnn.safetensors"))[1]
    run = make_run(results, tiny_config())
    again = build(run.path, options=("--weights", cache / "digits-cnn.safetensors"))[1]
    assert named["path"] == again["path"] and (named["new"], again["new"]) == (True, False)
    manifest = named["manifest"]
    assert manifest["data_sha256"] == digits.reference_hash() and manifest["count"] == len(digits.reference)
    assert manifest["protocol"] == "torch-fidelity"


def test_a_data_set_by_path_is_cropped_and_says_so(build, tmp_path):
    write_images(tmp_path / "set" / "cats", 9)
    write_images(tmp_path / "set" / "dogs", 8, first=9)
    built = build(f"{tmp_path / 'set'}@8")[1]
    manifest = built["manifest"]
    assert (manifest["data"], manifest["count"], manifest["size"]) == ("set@8", 17, [3, 8, 8])
    assert manifest["crop"] == "ADM's (halved by boxes, bicubic, the middle) to 8 pixels"
    assert "set_8" in built["path"] and str(tmp_path / "set") not in json.dumps(manifest)


def test_damaged_images_are_counted_or_refused(build, real):
    (real / "004.png").write_text("no picture")
    status, _, err = build(real)
    assert status == 2 and "004.png cannot be read" in err
    manifest = build(real, "--skip-bad")[1]["manifest"]
    assert (manifest["count"], manifest["left_out"]) == (29, 1)


def altered(path, **changes):
    """A copy of a file with other features or fields of the manifest; None takes a field out."""
    with np.load(path, allow_pickle=False) as z:
        arrays = {name: z[name] for name in z.files}
    arrays["features"] = changes.pop("features", arrays.get("features", np.zeros((30, 64), np.float32)))
    fields = json.loads(str(arrays["manifest"])) | changes
    fields["layers"] = {**fields["layers"], "features": "64"}
    arrays["manifest"] = np.array(json.dumps({k: v for k, v in fields.items() if v is not None}))
    np.savez(path.with_name("altered.npz"), **arrays)
    return path.with_name("altered.npz")


DIFFERENT = {
    "resolution": ({"size": [3, 9, 9]}, "images of (C, H, W) (3, 9, 9), and"),
    "weights": ({"weights_sha256": "f" * 64}, "weights with the SHA-256 ffffffffffffffff..., and this evaluation with"),
    "an unknown extractor": ({"extractor": "vgg"}, "was made with vgg, which is no extractor of this version"),
    "another count": ({"count": 31}, "has features of 30 images, and its manifest says 31"),
    "no count": ({"count": None}, "has a manifest that cannot be read: count is missing"),
    "another format": ({"format": 9}, "has a manifest of format 9; this version reads 1"),
    "features that are no numbers": ({"features": np.full((30, 64), np.nan, np.float32)}, "NaN or infinity"),
    "features of another width": ({"features": np.zeros((30, 5), np.float32)}, "5 wide"),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_statistics_that_do_not_fit_are_refused_in_a_sentence(kind, build, command, real, fake):
    changes, sentence = DIFFERENT[kind]
    path = altered(reference_statistics.Path(build(real, "--features")[1]["path"]), **changes)
    status, result, err = command(fake, "--reference", path)
    assert status == 2 and result is None and sentence in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("bench.evaluate: ") and str(path) in err


def test_what_is_asked_for_must_be_what_the_manifest_says(build, command, real, fake, inception):
    path = build(real)[1]["path"]
    status, _, err = command(fake, "--reference", path, "--protocol", "torch-fidelity")
    assert status == 2 and "was made with protocol adm, and this evaluation with torch-fidelity" in err
    words = [fake, "--reference", path, "--extractor", "inception-v3-compat"]
    status, _, err = command(*words, options=("--weights", inception))
    assert status == 2 and "was made with features of digits-cnn, and this evaluation with inception-v3-compat" in err


def test_two_files_of_statistics_must_agree_with_each_other(build, command, real, fake):
    one, two = (reference_statistics.Path(build(side, "--features")[1]["path"]) for side in (real, fake))
    status, result, _ = command(one, "--reference", two)
    assert status == 0 and result["reference"]["count"] == 40
    assert {name.partition("[")[0] for name in result["metrics"]} == {"fid", "precision", "recall"}
    status, _, err = command(one, "--reference", altered(two, size=[3, 64, 64]))
    assert status == 2 and "(3, 64, 64)" in err


def test_statistics_without_a_manifest_pass_with_a_note(build, command, real, fake):
    path = reference_statistics.Path(build(real)[1]["path"])
    with np.load(path, allow_pickle=False) as z:
        np.savez(path.with_name("plain.npz"), mu=z["mu"], sigma=z["sigma"])
    status, result, _ = command(fake, "--reference", path.with_name("plain.npz"), "--extractor", "digits-cnn")
    assert status == 0 and result["reference"]["manifest"] is None
    assert any("plain.npz has no manifest: only the width" in note for note in result["notes"])


def test_counts_unlike_those_of_published_tables_are_noted(command, real, fake, inception_of_means):
    status, result, _ = command(fake, "--reference", real, options=("--device", "cpu"))
    assert status == 0
    assert any("40 samples, where published tables use 50,000" in note for note in result["notes"])
    assert any("precision and recall against 30 images" in note for note in result["notes"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{none}"], "and no such folder or file; known: digits, "),
        (["cifar10", "--root", "{none}"], "cifar10 is not in"),
        (["{statistics}"], "holds statistics already, and no images"),
        (["{real}", "--batch", "0"], "--batch is 0"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(words, sentence, build, real, tmp_path):
    np.savez(tmp_path / "s.npz", mu=np.zeros(4), sigma=np.eye(4))
    names = {"none": tmp_path / "none", "statistics": tmp_path / "s.npz", "real": real}
    status, result, err = build(*(w.format(**names) for w in words))
    assert status == 2 and result is None and sentence in err and len(err.splitlines()) == 1
    assert not list(tmp_path.glob("cache/references/*"))


def test_a_killed_build_leaves_nothing(build, real, monkeypatch, tmp_path):
    def stop(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", stop)
    status, _, err = build(real)
    assert status == 130 and "nothing was written" in err and not list((tmp_path / "cache" / "references").glob("*"))
