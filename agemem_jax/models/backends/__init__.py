"""How the decoder runs on a kind of device: cache layout, attention, products, precision.

One object decides all of it. A configuration names it (`DecoderConfig.backend`), and nothing
else in a model asks which device there is.
"""

import jax

from agemem_jax.models.backends.cpu import Cpu
from agemem_jax.models.backends.cuda import Cuda
from agemem_jax.models.backends.plain import Plain
from agemem_jax.models.backends.tpu import Tpu

_BACKENDS = {
    each.name: each
    for each in (
        Plain(), Cpu(), Cuda(), Cuda(interpret=True), Tpu(), Tpu(interpret=True)
    )
}  # fmt: skip
_OF_PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "tpu": "tpu"}


def get(name: str) -> Plain:
    """The backend of this name; "auto" is that of the default device."""
    return _BACKENDS[of_platform(jax.default_backend()) if name == "auto" else name]


def of_platform(platform: str) -> str:
    """The name of the backend for devices of a `jax.Device.platform`."""
    return _OF_PLATFORMS.get(platform, "plain")
