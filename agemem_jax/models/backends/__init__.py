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
_OF_DEVICES = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


def get(name: str) -> Plain:
    """The backend of this name; "auto" is that of the default device."""
    return _BACKENDS[_of_default_device() if name == "auto" else name]


def _of_default_device() -> str:
    return _OF_DEVICES.get(jax.default_backend(), "plain")
