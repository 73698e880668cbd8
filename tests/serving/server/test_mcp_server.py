"""The memories by the official MCP client."""

import asyncio
import json

import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client


@pytest.fixture(scope="module")
def url(serve):
    with serve(memory=True) as (url, _):
        yield url


def calls(address, *wanted):
    """Lists the tools and calls some of them; gives names, and text and error flag of each."""

    async def talk():
        async with (
            streamablehttp_client(address) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            names = [tool.name for tool in (await session.list_tools()).tools]
            results = [await session.call_tool(name, arguments) for name, arguments in wanted]
            return names, [
                ("\n".join(part.text for part in result.content), result.isError)
                for result in results
            ]

    return asyncio.run(talk())


def test_a_memory_is_added_found_changed_and_deleted(url):
    address = f"{url}/mcp?user=ana"
    names, [(memory_id, failed)] = calls(address, ("add_memory", {"content": "Ana likes tea."}))
    assert not failed and set(names) == {
        "add_memory", "delete_memory", "list_memories", "search_memories", "update_memory",
    }  # fmt: skip
    _, results = calls(
        address,
        ("search_memories", {"query": "tea"}),
        ("update_memory", {"memory_id": memory_id, "content": "Ana likes coffee."}),
        ("list_memories", {}),
        ("delete_memory", {"memory_id": memory_id}),
        ("list_memories", {}),
    )
    assert not any(failed for _, failed in results)
    found, _, changed, _, left = [text for text, _ in results]
    assert json.loads(found)["memory_id"] == memory_id and json.loads(found)["score"] > 0
    assert json.loads(changed)["content"] == "Ana likes coffee."
    assert left == ""


def test_users_see_their_own_memories_only(url):
    _, [(memory_id, _)] = calls(f"{url}/mcp?user=ana", ("add_memory", {"content": "A secret."}))
    _, results = calls(
        f"{url}/mcp?user=ben",
        ("list_memories", {}),
        ("search_memories", {"query": "secret"}),
        ("delete_memory", {"memory_id": memory_id}),
    )
    assert [text for text, _ in results[:2]] == ["", ""]
    assert results[2][1]
    _, [(listed, _)] = calls(f"{url}/mcp?user=ana", ("list_memories", {}))
    assert "A secret." in listed


def test_an_address_without_a_user_and_wrong_arguments_are_errors_to_read(url):
    _, [(text, failed)] = calls(f"{url}/mcp", ("list_memories", {}))
    assert failed and "?user=NAME" in text
    _, results = calls(
        f"{url}/mcp?user=ana",
        ("delete_memory", {"memory_id": "mem_00000000"}),
        ("search_memories", {"query": "x", "top_k": 0}),
        ("add_memory", {"content": ""}),
    )
    assert all(failed for _, failed in results)
