"""The tables of fields against OpenAI's own lists of them, and against the documentation."""

import pathlib

import pytest
from openai.types import embedding_create_params
from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params

from agemem_jax.serving.server import fields
from agemem_jax.serving.server.chat_request import ChatRequest
from agemem_jax.serving.server.embeddings import EmbeddingRequest
from agemem_jax.serving.server.responses_request import ResponsesRequest

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "serving.md"
TABLES = {
    ChatRequest: completion_create_params.CompletionCreateParamsBase,
    ResponsesRequest: response_create_params.ResponseCreateParamsBase,
    EmbeddingRequest: embedding_create_params.EmbeddingCreateParams,
}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_each_field_of_openais_client_is_in_the_table(table):
    theirs = set(TABLES[table].__annotations__)
    assert theirs <= set(table.model_fields)
    assert set(table.model_fields) - theirs <= {"stream", "max_tokens", "top_k"}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_the_documentation_shows_the_table(table):
    assert fields.markdown(table) in PAGE.read_text(encoding="utf-8")


def test_a_refused_field_passes_with_its_neutral_value_only():
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    for name, treatment, _ in fields.rows(ChatRequest):
        if treatment == "refused":
            ChatRequest.model_validate(body | {name: None})
            with pytest.raises(ValueError, match="is not supported"):
                ChatRequest.model_validate(body | {name: 0.5})
