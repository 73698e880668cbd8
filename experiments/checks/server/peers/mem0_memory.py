"""mem0ai against the server, unchanged but for its address: add, search, update, history, delete.

    pip install mem0ai==1.0.11 qdrant-client==1.20.0      # in an environment of its own
    python experiments/checks/server/peers/mem0_memory.py http://127.0.0.1:8000/v1

A small model extracts nonsense, or nothing; what is shown is that each call is answered in the
form that the library reads. `infer=False` stores a text as it is, which search must find.
"""

import os
import sys
import tempfile

os.environ["MEM0_TELEMETRY"] = "False"
os.environ["MEM0_DIR"] = tempfile.mkdtemp()

from mem0 import Memory
from openai import OpenAI

URL = sys.argv[1]


def main():
    model, embedder = [each.id for each in OpenAI(base_url=URL, api_key="-").models.list()][:2]
    probe = OpenAI(base_url=URL, api_key="-").embeddings.create(model=embedder, input="x")
    dims = len(probe.data[0].embedding)
    shared = {"openai_base_url": URL, "api_key": "-"}
    memory = Memory.from_config(
        {
            "llm": {
                "provider": "openai",
                "config": {"model": model, "temperature": 0, "max_tokens": 100, **shared},
            },
            "embedder": {
                "provider": "openai",
                "config": {"model": embedder, "embedding_dims": dims, **shared},
            },
            "vector_store": {
                "provider": "qdrant",
                "config": {
                    "collection_name": "check",
                    "embedding_model_dims": dims,
                    "path": tempfile.mkdtemp(),
                },
            },
        }
    )
    told = "I live in Rome and I play chess."
    print("inferred:", memory.add([{"role": "user", "content": told}], user_id="ana"))
    print("as it is:", memory.add(told, user_id="ana", infer=False))
    found = memory.search("Where does she live, Rome?", user_id="ana")["results"]
    print("found:", [(each["memory"], round(each["score"], 3)) for each in found])
    assert any(each["memory"] == told for each in found)
    (stored,) = [each for each in found if each["memory"] == told]
    memory.update(stored["id"], "I live in Oslo.")
    assert memory.get(stored["id"])["memory"] == "I live in Oslo."
    print("history:", [each["event"] for each in memory.history(stored["id"])])
    memory.delete_all(user_id="ana")
    assert not memory.get_all(user_id="ana")["results"]


if __name__ == "__main__":
    main()
