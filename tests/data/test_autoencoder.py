import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from bench.data import autoencoder
from bench.reports import run_pictures


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory):
    """A tiny autoencoder of seeded weights in diffusers' layout."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        scaling_factor=0.5,
    ).save_pretrained(folder)
    return folder


def test_latents_are_unscaled_and_decoded(vae_folder):
    z = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    pixels = autoencoder.make_decoder(True, str(vae_folder), torch.device("cpu"))(z)
    vae = AutoencoderKL.from_pretrained(vae_folder).eval()
    assert pixels.shape == (2, 3, 8, 8)
    assert torch.allclose(pixels, vae.decode(z / 0.5).sample, atol=1e-6)


def test_many_latents_are_decoded_a_few_at_a_time(vae_folder, monkeypatch):
    z = torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = autoencoder.make_decoder(True, str(vae_folder), torch.device("cpu"))(z)
    monkeypatch.setattr(autoencoder, "MAX_DECODED_PIXELS", 2 * 8 * 8)
    sizes = []
    decode = AutoencoderKL.decode
    monkeypatch.setattr(AutoencoderKL, "decode", lambda vae, z: sizes.append(len(z)) or decode(vae, z))
    assert torch.allclose(autoencoder.make_decoder(True, str(vae_folder), torch.device("cpu"))(z), whole, atol=1e-5)
    assert sizes == [2, 2, 1]


def test_pixels_need_no_decoder():
    x = torch.randn(2, 3, 4, 4)
    assert autoencoder.make_decoder(False, "", torch.device("cpu"))(x) is x


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_a_missing_decoder_says_what_to_name(folder):
    with pytest.raises(ValueError, match=r"--set evaluation\.decoder=PATH"):
        autoencoder.load_autoencoder(folder)


def test_a_damaged_decoder_gets_a_sentence(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as an AutoencoderKL"):
        autoencoder.load_autoencoder(str(tmp_path))


def test_the_range_maps_to_bytes_and_is_clipped():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).view(1, 1, 1, 5)
    assert autoencoder.to_uint8(x).ravel().tolist() == [0, 0, 128, 255, 255]


def test_a_grid_has_a_class_a_column(tmp_path):
    labels = np.arange(30) % 3
    images = (labels * 100).astype(np.uint8)[:, None, None, None] * np.ones((1, 1, 8, 8), np.uint8)
    run_pictures.save_sample_grid(images, labels, tmp_path / "grid.png", per_class=4)
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    assert sheet.shape == (4 * 50, 3 * 50)
    assert [sheet[25, 25 + 50 * c] for c in range(3)] == [0, 100, 200]


def test_colour_images_make_a_colour_grid(tmp_path):
    run_pictures.save_sample_grid(np.zeros((4, 3, 64, 64), np.uint8), None, tmp_path / "grid.png", columns=2)
    assert Image.open(tmp_path / "grid.png").mode == "RGB"
