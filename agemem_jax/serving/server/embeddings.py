"""/v1/embeddings: the memory's sentence encoder."""

import asyncio
import base64
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agemem_jax.serving.server import bodies
from agemem_jax.serving.server.errors import APIError
from agemem_jax.serving.server.fields import Table, ignored, required, supported
from agemem_jax.serving.server.service import Service


class EmbeddingRequest(Table):
    """Texts to embed."""

    input: str | Annotated[list[str], Field(min_length=1)] = required(
        "one text or several; lists of token ids are refused, as they are another tokenizer's"
    )
    model: str = required("the embedder's name that `/v1/models` tells", max_length=512)
    encoding_format: Literal["float", "base64"] | None = supported("float, base64")
    dimensions: int | None = supported("the embedder's own, no other")
    user: Any = ignored("nothing is stored")


async def embed(service: Service, request: Request) -> Response:
    """Answers a request."""
    body = await bodies.read(request, EmbeddingRequest, service.limits)
    if body.model != service.embedder_name:
        raise APIError(
            404, f"There is no embedder {body.model[:100]!r}; there is {service.embedder_name!r}.",
            param="model", code="model_not_found",
        )  # fmt: skip
    dim = service.embedder.dim
    if body.dimensions not in (None, dim):
        raise APIError(
            400, f"dimensions is {body.dimensions}; vectors have {dim}.", param="dimensions"
        )
    texts = [body.input] if isinstance(body.input, str) else body.input
    if len(texts) > service.limits.texts:
        raise APIError(
            400, f"input has {len(texts)} texts; {service.limits.texts} go at once.", param="input"
        )

    def run() -> np.ndarray:
        with service.embedding:
            return np.asarray(service.embedder.embed(texts), np.float32)

    vectors = await asyncio.to_thread(run)
    as_text = body.encoding_format == "base64"
    told = [
        {
            "object": "embedding", "index": index,
            "embedding": base64.b64encode(v.astype("<f4").tobytes()).decode()
            if as_text
            else v.tolist(),
        }
        for index, v in enumerate(vectors)
    ]  # fmt: skip
    tokens = sum(len(text.split()) for text in texts)  # of words: embedders tell no tokens
    return JSONResponse(
        {
            "object": "list", "data": told, "model": service.embedder_name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )  # fmt: skip
