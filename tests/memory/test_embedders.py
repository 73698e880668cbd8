"""The hashed embedder: unit rows, stable across batches, near for shared words."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_jax.memory.embedders import HashedNGramEmbedder, make_embedder


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=8))
def test_rows_have_unit_norm_or_are_zero_and_do_not_depend_on_the_batch(texts):
    embedder = HashedNGramEmbedder(dim=64)
    together = embedder.embed(texts)
    assert together.shape == (len(texts), 64) and together.dtype == np.float32
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_array_equal(HashedNGramEmbedder(dim=64).embed([text])[0], row)
        norm = np.linalg.norm(row)
        assert abs(norm - 1) < 1e-5 or not row.any()


def test_texts_without_words_are_zero():
    assert not HashedNGramEmbedder().embed(["", "  ", "?!"]).any()


@pytest.mark.parametrize(
    ("query", "near", "far"),
    [
        (
            "In which city is Tovelin's employer based?",
            "Tovelin works at Dravix.",
            "Pelmira works at Ostrek.",
        ),
        ("Where does Pelmira live?", "Pelmira lives in Karsten.", "Tovelin lives in Karsten."),
        ("WHO FOUNDED OSTREK?", "Ostrek was founded by Milo.", "Dravix was founded by Milo."),
        ("the employers of Quandt", "an employer is Quandt", "the end of the road"),
    ],
)
def test_a_fact_about_the_same_name_is_nearer(query, near, far):
    q, n, f = HashedNGramEmbedder().embed([query, near, far])
    assert q @ n > q @ f + 0.1


def test_case_and_punctuation_do_not_matter():
    a, b = HashedNGramEmbedder().embed(["Tovelin works at Dravix.", "tovelin WORKS at dravix"])
    np.testing.assert_array_equal(a, b)


def test_vectors_are_the_same_in_another_process_with_another_hash_seed():
    code = (
        "from agemem_jax.memory.embedders import HashedNGramEmbedder as H;"
        "print(H(dim=16).embed(['Tovelin works at Dravix']).tobytes().hex())"
    )
    root = str(Path(__file__).resolve().parents[2])
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    here = HashedNGramEmbedder(dim=16).embed(["Tovelin works at Dravix"]).tobytes().hex()
    assert outputs == {here}


def test_a_full_word_cache_starts_anew_without_changing_a_vector(monkeypatch):
    monkeypatch.setattr("agemem_jax.memory.embedders._MAX_CACHED_WORDS", 3)
    embedder = HashedNGramEmbedder(dim=32)
    before = embedder.embed(["one two three four"])
    embedder.embed(["five six"])
    assert len(embedder._index) == 2
    np.testing.assert_array_equal(embedder.embed(["one two three four"]), before)


def test_unknown_names_and_a_missing_directory_are_refused_in_one_sentence(tmp_path):
    assert make_embedder("hashed_ngrams").dim == 256
    with pytest.raises(ValueError, match="choose one of hashed_ngrams, minilm"):
        make_embedder("word2vec")
    with pytest.raises(ValueError, match="needs the directory"):
        make_embedder("minilm")
    with pytest.raises(FileNotFoundError, match="model.safetensors is not in"):
        make_embedder("minilm", tmp_path)
