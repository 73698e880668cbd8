"""Chat formats: ids per message, open turns, and the comparison with templates."""

import dataclasses
import functools

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from agemem_jax.protocol import chat_formats
from agemem_jax.protocol.chat_formats import (
    CHAT_FORMATS,
    ChatEncoder,
    check_template,
    check_vocabulary,
    find_format,
)
from agemem_jax.protocol.messages import Context, Kind
from tests.small_models import tokenizer_of

TEXT = ["Be brief. Who are you? A model. Thank you: go on! user assistant system model " * 3]
SPECIAL = {
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "llama3": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
    "mistral": ["<s>", "</s>", "[INST]", "[/INST]"],
}


@functools.cache
def trained(name: str) -> tokenizers.Tokenizer:
    """A small tokenizer of the kind that the format's models have."""
    special = SPECIAL[name]
    if name == "mistral":  # words carry the space before them, and the first word gets one
        tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet, special = [], ["<unk>", *special]
    elif name == "gemma":  # no cuts but at spaces
        tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_previous")
        tokenizer.decoder = decoders.Replace("▁", " ")
        alphabet, special = [], ["<unk>", *special]
    else:  # white space that ends in a line break is a word of its own
        words = tokenizers.Regex(r"[^\r\n\p{L}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}]+|\s*[\r\n]+|\s+")
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(words, "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["\n" + TEXT[0], *TEXT, "Cutting 26 Jul\n\n"], trainer)
    return tokenizer


def encoder(name: str, template: str | None = None) -> ChatEncoder:
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=trained(name), clean_up_tokenization_spaces=False
    )
    wrapped.chat_template = template
    return ChatEncoder(wrapped, find_format(wrapped))


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_a_format_is_found_by_its_mark_and_equals_its_own_template(name):
    chat = encoder(name, CHAT_FORMATS[name].template)
    assert chat.format.name == name
    check_template(chat)


# What published templates do, written out again in the shortest form.
PUBLISHED = {
    "chatml": (  # Qwen2.5
        "{%- if messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content }}"
        "<|im_end|>\n{% endif %}{% for m in messages if m.role != 'system' %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama3": (  # Llama 3.2
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: {{ date_string }}\n\n"
        "{{ messages[0].content | trim }}<|eot_id|>{% for m in messages[1:] %}"
        "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
        "{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "mistral": (  # Mistral 7B v0.3: the system text goes to the last user turn
        "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
        "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
        "{{ '<s>' }}{% for m in rest %}{% if m.role == 'user' %}{% if loop.last and system is "
        "defined %}{{ '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}{% else %}"
        "{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}{% else %}"
        "{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}"
    ),
    "gemma": (  # Gemma 2: no system turn, and turns must alternate
        "{{ '<bos>' }}{% if messages[0].role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_formats_equal_what_published_templates_do(name):
    check_template(encoder(name, PUBLISHED[name]))


NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('users only') }}{% endif %}"


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_a_template_that_refuses_a_system_turn_has_its_text_open_the_first_user_turn(name):
    chat = encoder(
        name, NO_SYSTEM + CHAT_FORMATS[name].template.replace(chat_formats._LLAMA3_DATES, "")
    )
    check_template(chat)
    system = chat.message("system", "Be brief.", Kind.SYSTEM)
    user = chat.message("user", "Who are you?", Kind.TASK_MESSAGE)
    form = CHAT_FORMATS[name]
    opening = "" if name in ("chatml", "llama3") else form.system.header.split(form.mark)[0]
    opening = "<|begin_of_text|>" if name == "llama3" else opening
    whole = f"{opening}{form.user.header}Be brief.\n\nWho are you?{form.user.footer}"
    assert chat.decode(Context((system, user)).token_ids) == whole
    # A filter removed the user's message: the turn that the system text opened is closed.
    summary = chat.message("user", "A summary.", Kind.SUMMARY)
    reply = chat.response([*chat.encode("A model."), chat.stop_id])
    closed = chat.decode(Context((system, reply, summary)).token_ids)
    assert closed.startswith(f"{opening}{form.user.header}Be brief.\n\n{form.user.footer}")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('never\nat all') }}", "never"),
        ("{{ messages[0].content + 1 }}", "can only concatenate str"),
        ("{{ messages[9].content }}", "messages.* has no element 9|no element 9"),
        ("{% for m in messages %}", "Unexpected end of template"),
    ],
)
def test_a_template_that_writes_no_conversation_is_refused_in_one_sentence(template, said):
    with pytest.raises(ValueError, match=f"template refuses a conversation.*({said})") as error:
        check_template(encoder("chatml", template))
    assert "\n" not in str(error.value)


def test_a_template_that_parts_from_the_format_is_refused_and_shown():
    strange = CHAT_FORMATS["chatml"].template.replace("{{ m.content }}", "{{ m.content | upper }}")
    with pytest.raises(ValueError, match="part at token .*'.*Be brief.*'.*BE BRIEF"):
        check_template(encoder("chatml", strange))


def test_a_template_that_only_goes_on_longer_is_refused_as_well():
    longer = CHAT_FORMATS["chatml"].template + "<|im_end|>"
    with pytest.raises(ValueError, match="part at token"):
        check_template(encoder("chatml", longer))


@pytest.mark.parametrize("name", ["gemma", "mistral"])
def test_an_open_system_turn_is_continued_by_a_user_and_closed_before_anyone_else(name):
    chat = encoder(name)
    system = chat.message("system", "Be brief.", Kind.SYSTEM)
    user = chat.message("user", "Who are you?", Kind.TASK_MESSAGE)
    reply = chat.response([*chat.encode("A model."), chat.stop_id])
    form = chat.format
    joined = chat.decode(Context((system, user)).token_ids)
    assert joined == f"{form.system.header}Be brief.\n\nWho are you?{form.user.footer}"
    # A filter removed the user's message.
    closed = chat.decode(Context((system, reply, user)).token_ids)
    assert closed.startswith(f"{form.system.header}Be brief.\n\n{form.user.footer}")
    assert closed.endswith(f"{form.user.header}Who are you?{form.user.footer}")
    prefix = Context((system,)).token_ids
    for context in (Context((system, user)), Context((system, reply, user))):
        assert context.token_ids[: len(prefix)] == prefix == system.token_ids
        assert context.num_tokens == len(context.token_ids)


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_contents_cannot_forge_a_delimiter(name):
    chat = encoder(name)
    marks = set(SPECIAL[name])
    plain = chat.message("user", "Who are you?", Kind.QUERY).token_ids
    evil = chat.message("user", "Who " + " ".join(marks) + " are you?", Kind.QUERY).token_ids
    ids = [trained(name).token_to_id(mark) for mark in marks]
    assert [i for i in evil if i in ids] == [i for i in plain if i in ids]


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_a_response_keeps_every_sampled_id_and_ends_its_turn(name):
    chat = encoder(name)
    sampled = chat.encode("A model.")
    whole, cut = chat.response([*sampled, chat.stop_id]), chat.response(sampled)
    assert whole == cut
    start = len(chat.generation_prompt)
    assert list(whole.token_ids[start : start + len(sampled) + 1]) == [*sampled, chat.stop_id]
    assert whole.text.strip() == "A model."


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_a_response_that_ended_with_another_end_token_keeps_it_and_ends_its_turn(name):
    plain = encoder(name)
    other = plain.encode("user")[-1]
    chat = ChatEncoder(plain.tokenizer, plain.format, [other, plain.stop_id])
    assert chat.stop_ids[0] == chat.stop_id and set(chat.stop_ids) >= {chat.stop_id, other}
    assert len(set(chat.stop_ids)) == len(chat.stop_ids)
    body = chat.encode("A model.")
    ended, usual = chat.response([*body, other]), chat.response([*body, chat.stop_id])
    start = (*chat.generation_prompt, *body)
    assert ended.token_ids == (*start, other, *usual.token_ids[len(start) :])
    assert ended.text == usual.text == chat.decode(body)


def test_the_other_end_tokens_of_a_family_end_responses_where_the_tokenizer_has_them():
    for name, token in (("chatml", "<|endoftext|>"), ("llama3", "<|eom_id|>"), ("gemma", "<eos>")):
        tokenizer = encoder(name).tokenizer
        tokenizer.add_special_tokens({"additional_special_tokens": [token]})
        chat = ChatEncoder(tokenizer, CHAT_FORMATS[name])
        assert chat.stop_ids == (chat.stop_id, tokenizer.convert_tokens_to_ids(token))


def test_delimiters_that_a_model_does_not_embed_are_refused_by_name():
    chat = ChatEncoder(tokenizer_of("llama3"), CHAT_FORMATS["llama3"])
    last = len(chat.tokenizer) - 1
    assert chat.stop_id == last
    check_vocabulary(chat, last + 1)
    with pytest.raises(ValueError, match=rf"needs <\|eot_id\|> \({last}\).* only {last} tokens"):
        check_vocabulary(chat, last)


def test_a_format_that_the_tokenizer_does_not_know_is_refused():
    tokenizer = encoder("chatml").tokenizer
    with pytest.raises(ValueError, match="does not know <start_of_turn> and <end_of_turn>"):
        find_format(tokenizer, "gemma")
    with pytest.raises(ValueError, match="No chat format is called 'alpaca'; known: chatml"):
        find_format(tokenizer, "alpaca")
    bare = dataclasses.make_dataclass("Bare", ["get_vocab"])(lambda: {"a": 0})
    with pytest.raises(ValueError, match="knows none of the chat formats"):
        find_format(bare)


def test_formats_have_names_of_their_own():
    assert all(chat_formats.CHAT_FORMATS[name].name == name for name in CHAT_FORMATS)
