"""Checkpoint files are read without running what is in them, and a wrong one is refused by name."""

import argparse
import json
import os
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from architectures import IOSpec, build, from_official, official_layout, to_diffusers, to_official
from bench.config.schema import DiffusionConfig
from bench.experiments import pretrained_weights
from bench.storage import tensor_files

TINY = {
    "dit": dict(input_size=8, patch_size=2, in_channels=1, hidden_size=32, depth=1, num_heads=2, num_classes=10),
    "uvit": dict(img_size=8, patch_size=2, in_chans=1, embed_dim=32, depth=2, num_heads=2, num_classes=10),
    "uvit_t2i": dict(img_size=8, patch_size=2, in_chans=4, embed_dim=32, depth=2, num_heads=2, clip_dim=16),
    "adm": dict(image_size=8, in_channels=1, model_channels=32, out_channels=2, num_res_blocks=1)
    | dict(attention_resolutions=(2,), channel_mult=(1, 1), num_classes=10, num_heads=1),
    "ldm": dict(image_size=8, in_channels=4, model_channels=32, out_channels=4, num_res_blocks=1, num_heads=1)
    | dict(attention_resolutions=(2,), channel_mult=(1, 1), context_dim=16, use_spatial_transformer=True),
}


def tiny(family):
    """A published network of a family, its weights at random."""
    torch.manual_seed(0)
    shapes = official_layout(family, **TINY[family])
    return from_official(family, {k: torch.randn(s) * 0.1 for k, s in shapes.items()}, **TINY[family])


def written(path, tensors):
    """The state dict as the ending says."""
    tensors = {k: v.detach().contiguous() for k, v in tensors.items()}
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return path


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("family", list(TINY))
@pytest.mark.parametrize("ending", [".pt", ".pth", ".ckpt", ".safetensors"])
def test_every_family_is_known_by_its_keys_in_every_format(tmp_path, family, ending):
    net = tiny(family)
    path = written(tmp_path / f"x{ending}", to_official(net))
    checkpoint = pretrained_weights.read_checkpoint(path, ctor=TINY[family])
    assert checkpoint.family == family and same(checkpoint.net, net)


def test_the_hash_is_of_the_weights_and_not_of_the_file(tmp_path):
    net = tiny("dit")
    paths = [written(tmp_path / name, to_official(net)) for name in ("a.pt", "b.safetensors")]
    one, other = (pretrained_weights.read_checkpoint(path, ctor=TINY["dit"]).sha256 for path in paths)
    assert one == other
    with torch.no_grad():
        next(net.parameters()).view(-1)[0] += 1
    third = pretrained_weights.read_checkpoint(written(tmp_path / "c.pt", to_official(net)), ctor=TINY["dit"])
    assert third.sha256 != one


def test_a_training_checkpoint_gives_its_average(tmp_path):
    """The layout of DiT's own train.py: model, ema, opt and an argparse.Namespace."""
    raw, average = tiny("dit"), tiny("dit")
    with torch.no_grad():
        for p in raw.parameters():
            p += 1
    whole = {
        "model": to_official(raw),
        "ema": to_official(average),
        "opt": {"state": {}},
        "args": argparse.Namespace(a=1),
    }
    torch.save(whole, tmp_path / "0050000.pt")
    assert same(pretrained_weights.read_checkpoint(tmp_path / "0050000.pt", ctor=TINY["dit"]).net, average)
    torch.save({"model": to_official(raw), "ema": {}}, tmp_path / "first.pt")
    assert same(pretrained_weights.read_checkpoint(tmp_path / "first.pt", ctor=TINY["dit"]).net, raw)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_wrappers_leave_no_trace(tmp_path, prefix):
    net = tiny("uvit")
    path = written(tmp_path / "x.pth", {prefix + k: v for k, v in to_official(net).items()})
    assert same(pretrained_weights.read_checkpoint(path, ctor=TINY["uvit"]).net, net)


@pytest.mark.parametrize("nested", [False, True])
def test_a_diffusers_folder_is_read_alone_or_in_its_pipeline(tmp_path, nested):
    net = build("dit", "nano/2", io=IOSpec(channels=1, size=8, num_classes=10, variance="learned_range")).eval()
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn_like(p) * p.requires_grad
    tensors, config = to_diffusers(net)
    folder = tmp_path / "transformer" if nested else tmp_path
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "DiTTransformer2DModel", **config}))
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    checkpoint = pretrained_weights.read_checkpoint(tmp_path)
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 800.0]), torch.tensor([1, 10])
    with torch.no_grad():
        assert torch.equal(checkpoint.net(x, t, y), net(x, t, y))


def save_snapshot(path, change=lambda tensors, notes: None):
    """A snapshot of ours, changed before it is written."""
    net = build("dit", "nano/2", io=IOSpec(channels=1, size=8, num_classes=10))
    tensors, notes = dict(net.state_dict()), {"spec": net.spec.to_dict(), "diffusion": {"schedule": "cosine"}}
    change(tensors, notes)
    tensor_files.save_tensors(path, tensors, **notes)
    return net


def test_our_own_snapshot_brings_its_network_and_its_process(tmp_path):
    net = save_snapshot(tmp_path / "x.safetensors")
    checkpoint = pretrained_weights.read_checkpoint(tmp_path / "x.safetensors")
    assert same(checkpoint.net, net) and checkpoint.family == "bench"
    assert checkpoint.diffusion == DiffusionConfig(schedule="cosine")


OWN_MISTAKES = {
    "NaN": (lambda t, n: t.update({"pos_embed": t["pos_embed"] * float("nan")}), "NaN or infinity: pos_embed"),
    "missing": (lambda t, n: t.pop("pos_embed"), "pos_embed is missing"),
    "misshapen": (lambda t, n: t.update({"pos_embed": torch.zeros(3)}), r"pos_embed has shape \(3,\)"),
    "another version's network": (lambda t, n: n.update(spec={}), "a snapshot of another version of this project"),
    "another version's process": (lambda t, n: n.update(diffusion={"kind": 1}), "a snapshot of another version"),
}


@pytest.mark.parametrize("mistake", OWN_MISTAKES)
def test_a_wrong_snapshot_is_refused_like_any_other_file(tmp_path, mistake):
    change, words = OWN_MISTAKES[mistake]
    save_snapshot(tmp_path / "x.safetensors", change)
    with pytest.raises(ValueError, match=rf"x\.safetensors.*{words}"):
        pretrained_weights.read_checkpoint(tmp_path / "x.safetensors")


def test_a_file_imports_no_module_that_was_not_named(tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(
        "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\nclass Net: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    save_snapshot(tmp_path / "x.safetensors", lambda t, n: n["spec"].update(arch="evil:Net"))
    with pytest.raises(ValueError, match="is a snapshot of evil:Net; to run that code, name it with --arch evil:Net"):
        pretrained_weights.read_checkpoint(tmp_path / "x.safetensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("notes", ["null", "3", "[1]"])
def test_foreign_metadata_are_passed_over(tmp_path, notes):
    save_file(dict(to_official(tiny("dit"))), tmp_path / "x.safetensors", metadata={"metadata": notes})
    assert pretrained_weights.read_checkpoint(tmp_path / "x.safetensors", ctor=TINY["dit"]).family == "dit"


def test_ldm_is_sampled_with_its_moving_average(tmp_path):
    """LDM writes the average of model.a.b.weight as model_ema.abweight."""
    net, average = to_official(tiny("ldm")), {}
    whole = {f"model.diffusion_model.{key}": value for key, value in net.items()}
    for key, value in net.items():
        average["model_ema.diffusion_model" + key.replace(".", "")] = value + 1
    weights = pretrained_weights._weights({"state_dict": {**whole, **average}})
    assert all(torch.equal(weights[f"model.diffusion_model.{key}"], value + 1) for key, value in net.items())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": to_official(tiny("dit")), "callbacks": Evil()}, "x.ckpt")
    with pytest.raises(ValueError, match=r"x\.ckpt needs unpickling \(.*mkdir\).*refused; save its state dict alone"):
        pretrained_weights.read_checkpoint(tmp_path / "x.ckpt")
    assert not (tmp_path / "evil").exists()


def changed(family, change):
    tensors = dict(to_official(tiny(family)))
    change(tensors)
    return tensors


def drop(tensors):
    del tensors["blocks.0.attn.qkv.weight"]


def add(tensors):
    tensors["blocks.0.attn.rope"] = torch.zeros(3)


def bend(tensors):
    tensors["blocks.0.attn.qkv.weight"] = torch.zeros(97, 32)


def poison(tensors):
    tensors["blocks.0.attn.qkv.bias"] = torch.full((96,), float("nan"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop, r"blocks\.0\.attn\.qkv\.weight is missing"),
        (add, r"blocks\.0\.attn\.rope is unexpected"),
        (bend, r"blocks\.0\.attn\.qkv\.weight has shape \(97, 32\), not \(96, 32\)"),
        (poison, r"NaN or infinity: blocks\.0\.attn\.qkv\.bias"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_wrong_weights_are_refused_by_the_first_wrong_key(tmp_path, change, words):
    path = written(tmp_path / "x.pt", changed("dit", change))
    with pytest.raises(ValueError, match=rf"x\.pt: .*{words}"):
        pretrained_weights.read_checkpoint(path, ctor=TINY["dit"])


def test_a_checkpoint_of_another_family_is_refused(tmp_path):
    path = written(tmp_path / "x.pt", to_official(tiny("uvit")))
    with pytest.raises(ValueError, match=r"x\.pt: .*(patch_embed|x_embedder)"):
        pretrained_weights.read_checkpoint(path, arch="dit")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_truncated_file_is_named(tmp_path, ending, share):
    path = written(tmp_path / f"x{ending}", to_official(tiny("dit")))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf"x\{ending} cannot be read; it is truncated"):
        pretrained_weights.read_checkpoint(path)


def test_what_is_no_checkpoint_is_said_in_a_sentence(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.pt", "w") as z:
        z.writestr("a", "b")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "x.npz").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    torch.save({1: torch.zeros(3)}, tmp_path / "whole.pt")
    dense = dict(to_official(tiny("dit")))
    torch.save({**dense, "pos_embed": dense["pos_embed"].to_sparse()}, tmp_path / "sparse.pt")
    torch.save({k: v.to("meta") for k, v in dense.items()}, tmp_path / "meta.pt")
    for name, words in {
        "whole.pt": "this one has the key 1",
        "sparse.pt": "pos_embed is a sparse tensor",
        "meta.pt": "holds names and shapes but no values",
        "a" * 300 + ".pt": "cannot be opened: File name too long",
        "z.pt": "truncated or no file of torch.save",
        "tensor.pt": "holds a Tensor",
        "other.pt": "no DiT, U-ViT, ADM or LDM network; its first keys are a",
        "x.npz": "has the ending .npz; checkpoints end in .pt",
        "folder": "no readable config.json",
        "missing.pt": "is no file and no folder",
    }.items():
        with pytest.raises(ValueError, match=words):
            pretrained_weights.read_checkpoint(
                tmp_path / name, ctor=TINY["dit"] if name in ("sparse.pt", "meta.pt") else None
            )
