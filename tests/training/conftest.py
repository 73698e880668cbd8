"""What the tests of training share."""

import pathlib
import subprocess

import pytest

from agemem_jax.models.config import DecoderConfig


@pytest.fixture(scope="session")
def tiny_decoder_config() -> DecoderConfig:
    """Two layers, width 32, 64 ids: small enough to compile within a second or two."""
    return DecoderConfig(
        vocab_size=64,
        num_layers=2,
        width=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        ffn_width=48,
    )


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("A full disk is made by mount, which this system does not have.")
    if done.returncode:
        pytest.skip(f"A full disk is made by mount, which this user may not use: {done.stderr}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: pathlib.Path) -> pathlib.Path:
    """Writes a file that takes all that is left of a small disk."""
    filler = folder / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    return filler
