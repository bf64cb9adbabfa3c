import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from s2d_core.worlds.tokenizer import BOX, TOKEN_IDS, VOCABULARY, make_tokenizer

TOKENIZER = make_tokenizer()
ordinary = st.lists(st.sampled_from(VOCABULARY[3:]), max_size=40)


@given(ordinary)
def test_decoding_gives_back_the_text_that_was_encoded(tokens):
    text = "".join(tokens)
    ids = TOKENIZER(text).input_ids
    assert ids[0] == TOKENIZER.bos_token_id
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text


def test_numbers_are_one_token_and_operands_one_digit():
    tokens = ["47", "+", "8", "*", "3", "="]
    assert TOKENIZER("47+8*3=").input_ids[1:] == [TOKEN_IDS[token] for token in tokens]


def test_the_box_is_one_token_and_survives_decoding():
    ids = TOKENIZER("55;59;\\boxed{59}").input_ids
    assert ids.count(TOKEN_IDS[BOX]) == 1
    completion = [*ids[1:], TOKENIZER.eos_token_id]
    assert TOKENIZER.decode(completion, skip_special_tokens=True) == "55;59;\\boxed{59}"


def test_a_saved_tokenizer_is_reloaded_by_auto_tokenizer(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(reloaded, PreTrainedTokenizerFast)
    assert reloaded.get_vocab() == TOKENIZER.get_vocab() == TOKEN_IDS
    assert reloaded("47+8*3-6=").input_ids == TOKENIZER("47+8*3-6=").input_ids
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(reloaded, name) == getattr(TOKENIZER, name)


def test_batches_are_padded_on_the_left_with_the_padding_token():
    batch = TOKENIZER(["1+2=", "47+8*3-6="], padding=True).input_ids
    assert len(batch[0]) == len(batch[1])
    assert batch[0][:3] == [TOKENIZER.pad_token_id] * 3


def test_a_character_outside_the_vocabulary_is_an_error():
    with pytest.raises(Exception, match="UNK"):
        TOKENIZER("47 apples")
