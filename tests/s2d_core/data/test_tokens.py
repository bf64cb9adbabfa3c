import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from s2d_core.data.problems import Problem
from s2d_core.data.tokens import check_chat, check_tokenizers, encode_prompts
from s2d_core.errors import DataError

TEXT = ["what is 12+34? the answer is \\boxed{46}"] * 3


def build(extra=(), eos="<eos>", bos=None, template=None, pad="<pad>", drop_merges=0):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    specials = ["<bos>", "<eos>", "<end>", "<pad>", *extra]
    core.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos, bos_token=bos, pad_token=pad)
    tokenizer.chat_template = template
    return tokenizer


def test_equal_tokenizers_share_every_row_and_models_may_pad_theirs():
    tokenizer = build(template="t")
    assert check_tokenizers(tokenizer, build(template="t"), teacher_rows=512, student_rows=320) == len(tokenizer)


def test_another_padding_token_is_no_difference():
    assert check_tokenizers(build(pad="<pad>"), build(pad="<eos>")) == len(build())


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (build(eos="<end>"), "eos_token: '<eos>' .teacher. and '<end>' .student."),
        (build(bos="<bos>"), "bos_token: None .teacher. and '<bos>' .student."),
        (build(extra=["<think>"]), "tokens of .* have other ids; first, .* '<think>' is None and 4"),
        (build(template="other"), "chat template: none .teacher. and given .student."),
    ],
)
def test_each_difference_is_named(student, message):
    with pytest.raises(DataError, match=message):
        check_tokenizers(build(), student)


def test_the_first_differing_character_of_the_chat_template_is_shown_and_ignored_where_no_chat_is_used():
    teacher, student = build(template="<u>{{ x }}<a>"), build(template="<u>{{ x }}<b>")
    with pytest.raises(DataError, match=r"from character 11 on: 'a>' \(teacher\) and 'b>' \(student\)"):
        check_tokenizers(teacher, student)
    assert check_tokenizers(teacher, student, chat=False) == len(teacher)


def test_equal_vocabularies_that_cut_text_differently_are_told_apart():
    student = build()
    student.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    with pytest.raises(DataError, match="cut differently from token 0 on"):
        check_tokenizers(build(), student)


def test_a_model_with_fewer_rows_than_tokens_is_refused():
    with pytest.raises(DataError, match="the student model has 100 vocabulary rows for"):
        check_tokenizers(build(), build(), student_rows=100)


def test_a_tokens_special_role_must_be_shared():
    student = build()
    student.add_special_tokens({"additional_special_tokens": ["<end>"]})
    with pytest.raises(DataError, match="special for only one of them: '<end>'"):
        check_tokenizers(build(), student)


def test_prompts_are_encoded_as_they_stand():
    tokenizer = build()
    prompts = encode_prompts(tokenizer, [Problem("a", "what is 12"), Problem("b", "34?")])
    assert [tokenizer.decode(ids) for ids in prompts] == ["what is 12", "34?"]
    assert encode_prompts(tokenizer, []) == []


def test_a_bos_that_the_tokenizer_adds_is_there_exactly_once():
    plain, written = encode_prompts(build(bos="<bos>"), [Problem("a", "34?"), Problem("b", "<bos>34?")])
    assert plain == written
    assert plain.count(0) == 1


def test_prompts_too_long_or_empty_are_counted_and_named():
    problems = [Problem(f"p{i}", "x" * i) for i in range(1, 9)]
    with pytest.raises(DataError, match=r"3 of 8 prompts are longer than the 5 tokens .*p6 \(6\), p7 \(7\), p8 \(8\)"):
        encode_prompts(build(), problems, max_tokens=5)
    with pytest.raises(DataError, match="1 prompts are empty: e"):
        encode_prompts(build(), [Problem("e", "")])


# As Qwen3's: without thinking an empty thought is written for the model.
SWITCHED = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)


def test_templates_that_are_written_differently_and_render_alike_are_no_difference():
    student = build(template="{# the same #}" + SWITCHED)
    assert check_tokenizers(build(template=SWITCHED), student) == len(student)


def test_a_switch_for_thinking_that_only_one_of_them_has_is_a_difference():
    without = SWITCHED.replace("is false", "is none")
    with pytest.raises(DataError, match="chat template, from character"):
        check_tokenizers(build(template=SWITCHED), build(template=without))


def test_thinking_that_the_template_has_no_switch_for_is_refused():
    check_chat(build(template=SWITCHED), enable_thinking=True)
    with pytest.raises(DataError, match="enable_thinking = true: the chat template has no such switch"):
        check_chat(build(template=SWITCHED.replace("is false", "is none")), enable_thinking=True)


def test_a_turn_that_ends_with_another_token_than_eos_is_refused():
    check_chat(build(template=SWITCHED), enable_thinking=False)
    with pytest.raises(DataError, match=r"ends a turn with '<eos>.*', and the EOS token is '<end>': a model would not"):
        check_chat(build(template=SWITCHED, eos="<end>"), enable_thinking=False)


def test_generation_settings_must_stop_at_eos_and_at_the_same_tokens():
    tokenizer, eos = build(), build().eos_token_id
    assert check_tokenizers(tokenizer, build(), stops={"teacher": [eos, 2], "student": [2, eos]}) == len(tokenizer)
    with pytest.raises(DataError, match=r"stop at \[1, 2\] .teacher. and \[1\] .student."):
        check_tokenizers(tokenizer, build(), stops={"teacher": [eos, 2], "student": [eos]})
    with pytest.raises(DataError, match=r"EOS is token 1, and the student's generation settings stop at \[3\] only"):
        check_tokenizers(tokenizer, build(), stops={"student": [3]})
