"""Latents on disk, written once by bench.encode and read by training: format, manifest, verification.

FOLDER/
    manifest.json       sources, settings, and the size and SHA-256 of every file (class LatentManifest)
    shard-00000.npy     (n, F, M, C, H, W) float16, memory-mapped.  F: the image as it is and, if F = 2, mirrored.
                        M: mean and standard deviation of the posterior, not scaled; a VQModel has no posterior,
                        and M = 1 is the output of its encoder
    labels.npy          (N,) int64
    checks.npy          (N, F) uint32, CRC-32 of each image's M * C * H * W numbers
    reference.npy       (R, 3, S, S) uint8, real images as the encoder saw them

Every read of a shard is checked against its CRC-32, so damaged data are never trained on.

N images, C channels, H W latent size, S resolution, B batch.  Imports no torch.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from bench.config.identity import digest_json
from bench.config.seeds import derive_seed
from bench.config.validation import STRICT, adapter, validate_json
from bench.data.dataset import Dataset, DataSource
from bench.data.numpy_files import memory_map
from bench.storage.atomic import file_sha256

FORMAT_VERSION = 1
MANIFEST_FILE, LABELS_FILE, CHECKSUMS_FILE, REFERENCE_FILE = (
    "manifest.json",
    "labels.npy",
    "checks.npy",
    "reference.npy",
)
CHUNK_IMAGES = 32
"""Images sampled at a time, few enough to fit into the CPU cache."""
REPAIR_HINT = "remove it and run the same bench.encode again, which writes missing files"

Count = Annotated[int, Field(ge=1)]


@checked(frozen=True, kw_only=True, config=STRICT)
class AutoencoderInfo:
    """The autoencoder that encoded the set."""

    path: str
    """Its folder when the set was encoded; not part of the digest."""
    sha256: str
    """SHA-256 of its configuration and tensors (autoencoder.hash_autoencoder)."""
    kind: Literal["AutoencoderKL", "VQModel"]
    scaling_factor: float
    """A network's input is (latent - shift_factor) * scaling_factor."""
    shift_factor: float = 0.0


@checked(frozen=True, kw_only=True, config=STRICT)
class FileInfo:
    """A file of the set."""

    file: str
    bytes: Count
    sha256: str


@checked(frozen=True, kw_only=True, config=STRICT)
class ShardInfo(FileInfo):
    """A shard: a file with the latents of consecutive images."""

    images: Count


@checked(frozen=True, kw_only=True, config=STRICT)
class LatentSpec:
    """Properties of a set of latents that are known before the first is encoded."""

    format: int
    data: str
    """Name of the encoded data set, without folders."""
    data_hash: str
    vae: AutoencoderInfo
    resolution: Count
    crop: str
    flips: Literal[1, 2]
    moments: tuple[str, ...]
    shape: tuple[int, int, int]
    """(C, H, W) of a latent."""
    images: Count
    num_classes: Annotated[int, Field(ge=0)]
    classes: tuple[str, ...]
    """Class names; () if unknown."""
    counts: tuple[int, ...]
    """Images per class; () without classes."""
    precision: str
    """Precision of the encoder's arithmetic; latents are stored in float16."""
    batch: Count
    """Batch size of the encoder; each shard starts a new batch."""
    rows: Count
    """Images per shard; the last may have fewer."""
    references: Count
    """Images in reference.npy."""

    def identity(self) -> dict[str, Any]:
        """Return all fields except the autoencoder's folder as plain data, so that copies of a set are equal."""
        fields: dict[str, Any] = adapter(type(self)).dump_python(self, mode="json")
        del fields["vae"]["path"]
        return fields

    def shape_of(self, images: int) -> tuple[int, ...]:
        """Return the shape of a shard with this many images."""
        return (images, self.flips, len(self.moments), *self.shape)


@checked(frozen=True, kw_only=True, config=STRICT)
class LatentManifest(LatentSpec):
    """A finished set of latents."""

    shards: tuple[ShardInfo, ...]
    labels: FileInfo
    checks: FileInfo
    reference: FileInfo

    def digest(self) -> str:
        """Return the SHA-256 of the identity."""
        return digest_json(self.identity())

    def files(self) -> tuple[FileInfo, ...]:
        """Return all files of the set but the manifest."""
        return (*self.shards, self.labels, self.checks, self.reference)


def read_manifest(folder: Path) -> LatentManifest:
    """Read the manifest of a folder; ValueError if it is missing, invalid or of another format."""
    path = folder / MANIFEST_FILE
    try:
        manifest = validate_json(LatentManifest, path.read_bytes())
    except FileNotFoundError:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; name one that bench.encode wrote") from None
        raise ValueError(
            f"{folder} has no {MANIFEST_FILE}, so it is not a finished set of latents; run bench.encode to finish it"
        ) from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if manifest.format != FORMAT_VERSION:
        raise ValueError(f"{path} is of format {manifest.format}; this version reads {FORMAT_VERSION}")
    if [shard.images for shard in manifest.shards] != [
        len(rows) for rows in shard_ranges(manifest.images, manifest.rows)
    ]:
        raise ValueError(
            f"{path} states {manifest.images:,} images, {manifest.rows:,} per shard; its shards have other counts"
        )
    return manifest


def is_finished_set(folder: Path) -> bool:
    """Return whether a folder holds a set of latents that bench.encode finished."""
    return (folder / MANIFEST_FILE).is_file()


def shard_ranges(images: int, rows: int) -> list[range]:
    """Return the indices of the images of each shard, `rows` per shard."""
    return [range(first, min(first + rows, images)) for first in range(0, images, rows)]


def open_latents(path: Path) -> DataSource:
    """Open a set of latents; only its manifest is read."""
    m = read_manifest(path)
    channels, size, _ = m.shape
    return DataSource(
        channels=channels,
        size=size,
        num_classes=m.num_classes,
        latent=True,
        vq=m.vae.kind == "VQModel",
        about=f"{m.images:,} latents of {m.data} at {m.resolution} pixels",
        hash=m.digest()[:16],
        flip=m.flips == 2,
        classes=m.classes,
        decoder=m.vae.path,
        decoder_hash=m.vae.sha256,
        load=load_latents,
    )


def load_latents(path: Path) -> Dataset:
    """Memory-map the latents of a folder; ValueError names a file that is missing, truncated or has a wrong shape."""
    m = read_manifest(path)
    for file in m.files():
        check_size(path, file)
    for file in (m.labels, m.checks):  # small, and the others are checked against them
        if file_sha256(path / file.file) != file.sha256:
            raise ValueError(f"{path / file.file} is damaged: its SHA-256 is not the manifest's; {REPAIR_HINT}")
    labels, checks, reference = (
        memory_map(path / name, REPAIR_HINT) for name in (LABELS_FILE, CHECKSUMS_FILE, REFERENCE_FILE)
    )
    rows = LatentShards(path, m, np.array(checks))
    files = {path / f.file: f.bytes for f in (*m.shards, m.reference)}
    return LatentDataset(images=rows, labels=np.array(labels), reference=reference, files=files, flip=m.flips == 2)


def check_size(folder: Path, file: FileInfo) -> None:
    """Raise ValueError if a file is missing or does not have the size that was written."""
    path = folder / file.file
    try:
        size = path.stat().st_size
    except OSError as error:
        hint = "put it back, or run the same bench.encode again, which writes it"
        raise ValueError(f"{path} is missing ({error.strerror}); {hint}") from None
    if size != file.bytes:
        raise ValueError(f"{path} is damaged: it has {size:,} bytes, not {file.bytes:,}; {REPAIR_HINT}")


class LatentShards:
    """Memory-mapped shards: an index returns scaled means, (B, C, H, W) float32; `sample` samples the posteriors."""

    def __init__(self, folder: Path, m: LatentManifest, checks: np.ndarray) -> None:
        self.folder, self.manifest, self.checks = folder, m, checks
        self.flips, self.moments = m.flips, len(m.moments)
        self.shape, self.dtype = (m.images, *m.shape), np.dtype(np.float32)
        self.scale, self.shift = np.float32(m.vae.scaling_factor), np.float32(m.vae.shift_factor)
        self.maps = [self._open(shard) for shard in m.shards]
        if checks.shape != (m.images, m.flips) or checks.dtype != np.uint32:
            raise ValueError(
                f"{folder / CHECKSUMS_FILE} has shape {checks.shape}; it must be {(m.images, m.flips)} uint32"
            )

    def _open(self, shard: ShardInfo) -> np.ndarray:
        path, shape = self.folder / shard.file, self.manifest.shape_of(shard.images)
        array = memory_map(path, REPAIR_HINT)
        if array.shape != shape or array.dtype != np.float16:
            raise ValueError(
                f"{path} is damaged: it holds {array.dtype} {array.shape}, not float16 {shape}; {REPAIR_HINT}"
            )
        return array

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        rows = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        return (widen_float16(self.read(rows, np.zeros(len(rows), int))[:, 0]) - self.shift) * self.scale

    def read(self, rows: np.ndarray, flips: np.ndarray) -> np.ndarray:
        """Read the stored moments, (B, M, C, H, W) float16; ValueError names a damaged shard."""
        out = np.empty((len(rows), self.moments, *self.shape[1:]), np.float16)
        per_shard = self.manifest.rows
        for i, (row, flip) in enumerate(zip(rows.tolist(), flips.tolist(), strict=True)):
            shard = row // per_shard
            out[i] = self.maps[shard][row % per_shard, flip]
            if zlib.crc32(out[i]) != self.checks[row, flip]:
                path = self.folder / self.manifest.shards[shard].file
                raise ValueError(f"{path} is damaged: the CRC-32 of image {row:,} is wrong; {REPAIR_HINT}")
        return out

    def sample(self, rows: np.ndarray, flips: np.ndarray, seed: int, position: int) -> np.ndarray:
        """Sample the posteriors, (B, C, H, W) float32: mean + standard deviation * noise, scaled.

        The noise depends on the seed and on the position in the whole batch; `position` is that of the first row.
        """
        out = np.empty((len(rows), *self.shape[1:]), np.float32)
        draw = posterior_noise(seed, position, int(np.prod(self.shape[1:])))
        for begin in range(0, len(rows), CHUNK_IMAGES):
            part = slice(begin, begin + CHUNK_IMAGES)
            values, samples = widen_float16(self.read(rows[part], flips[part])), out[part]
            if self.moments == 2:
                np.multiply(values[:, 1], draw(len(samples)).reshape(samples.shape), out=samples)
                samples += values[:, 0]
            else:
                samples[...] = values[:, 0]
            samples -= self.shift
            samples *= self.scale
        return out


@dataclass(frozen=True, kw_only=True)
class LatentDataset(Dataset):
    """Latents to train on: `model_inputs` samples the posteriors, and mirror images with probability 1/2."""

    images: LatentShards

    def __post_init__(self) -> None:
        if self.flip and self.images.flips == 1:
            raise ValueError(
                f"{self.images.folder} has no mirrored latents: use data.flip=never, or encode them with --flips 2"
            )

    def model_inputs(self, rows: np.ndarray, seed: int, selected: slice = slice(None)) -> np.ndarray:
        flips = np.random.Generator(np.random.PCG64(seed)).random(len(rows)) < 0.5
        flips = flips if self.flip else np.zeros(len(rows), bool)
        first = range(len(rows))[selected].start
        return self.images.sample(rows[selected], flips[selected].astype(int), seed, first)


def widen_float16(values: np.ndarray) -> np.ndarray:
    """Convert finite float16 to float32 exactly, 3 times faster than `astype`: shift the bits, then rescale."""
    bits = values.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= -0x70002000  # keep the sign once, five bits of exponent, ten of mantissa
    floats: np.ndarray = bits.view(np.float32)
    floats *= np.float32(2.0**112)  # the difference of the exponents' biases, 127 - 15
    return floats


@lru_cache(maxsize=1)
def normal_quantiles() -> np.ndarray:
    """Return 65536 equally likely values of the standard normal, float32: the median of each interval."""
    upper = [NormalDist().inv_cdf((i + 0.5) / 65536) for i in range(32768, 65536)]
    return np.array([-x for x in reversed(upper)] + upper, np.float32)


def posterior_noise(seed: int, position: int, count: int) -> Callable[[int], np.ndarray]:
    """Return a function that draws standard normal noise, (B, count) float32, for the next B images from `position`.

    The values are 65536 quantiles, a finer grid than that of float16 standard deviations.  numpy's normal sampler would
    take most of the loader's time.  It also draws a varying number of random words, so the stream could not start at
    an arbitrary image.
    """
    words_per_image = -(-count // 4)
    bit_generator = np.random.PCG64(derive_seed(seed, "posterior")).advance(position * words_per_image)
    generator = np.random.Generator(bit_generator)

    def draw(images: int) -> np.ndarray:
        words = generator.integers(2**64, size=(images, words_per_image), dtype=np.uint64)
        return np.take(normal_quantiles(), words.view(np.uint16)[:, :count], mode="clip")

    return draw


def check_files(folder: Path) -> Iterator[tuple[FileInfo, str]]:
    """Read every file of a set; yields (file, description of its damage or "")."""
    for file in read_manifest(folder).files():
        try:
            check_size(folder, file)
            sha256 = file_sha256(folder / file.file)
        except (ValueError, OSError) as error:
            yield file, str(error)
        else:
            damage = f"{folder / file.file} is damaged: its SHA-256 is not the manifest's; {REPAIR_HINT}"
            yield file, "" if sha256 == file.sha256 else damage
