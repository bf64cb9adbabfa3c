import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from s2d_core.config.compose import load_config
from s2d_core.config.inputs import FilesConfig, SourceConfig
from s2d_core.data.loaders import load_problems
from s2d_core.errors import ConfigError, DataError

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
ROWS = [
    {"id": "a", "prompt": "1+1?", "answer": "2", "meta": {"truth": 2}},
    {"id": "b", "prompt": "2+2?", "answer": "so #### 3 #### 4", "meta": {"truth": 4}},
]


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_every_format_gives_the_same_problems(tmp_path, suffix):
    source = write(tmp_path / f"problems{suffix}", ROWS)
    problems = load_problems(FilesConfig(train=source, id_field="id", answer_field="meta.truth"))
    assert [(p.id, p.prompt, p.answer) for p in problems] == [("a", "1+1?", "2"), ("b", "2+2?", "4")]


def test_json_lines_are_read_whatever_the_file_is_called(tmp_path):
    source = tmp_path / "problems.json"
    source.write_text('{"prompt": "p", "answer": 1}\n\n{"prompt": "q", "answer": 2}\n')
    assert [p.prompt for p in load_problems(FilesConfig(train=str(source)))] == ["p", "q"]


def test_a_given_path_replaces_the_training_file(tmp_path):
    source = write(tmp_path / "test.jsonl", ROWS)
    assert len(load_problems(FilesConfig(train="nowhere.jsonl"), source)) == 2


def test_the_pattern_takes_the_last_match_and_the_template_leaves_other_braces_alone(tmp_path):
    source = write(tmp_path / "p.jsonl", ROWS[1:])
    files = FilesConfig(train=source, answer_pattern=r"#### (\S+)", template=r"{prompt} Use \boxed{}.")
    (problem,) = load_problems(files)
    assert (problem.prompt, problem.answer) == (r"2+2? Use \boxed{}.", "4")


def test_made_up_ids_are_unique_and_stay_the_same(tmp_path):
    source = write(tmp_path / "p.jsonl", [ROWS[0], ROWS[0], ROWS[1]])
    first, second = load_problems(FilesConfig(train=source)), load_problems(FilesConfig(train=source))
    assert first == second
    assert len({p.id for p in first}) == 3


def chat_tokenizer(template):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")))
    tokenizer.chat_template = template
    return tokenizer


TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if not enable_thinking %}<no-think>{% endif %}{% endif %}"
)


def test_a_chat_prompt_is_rendered_with_the_tokenizers_template(tmp_path):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    source = write(tmp_path / "p.parquet", [{"prompt": chat, "answer": "2"}])
    files = FilesConfig(train=source, chat=True, template="Q: {prompt}")
    (problem,) = load_problems(files, tokenizer=chat_tokenizer(TEMPLATE))
    assert problem.prompt == "<system>Be brief.<user>Q: 1+1?<assistant><no-think>"


def test_a_chat_template_that_is_not_there_is_an_error(tmp_path):
    source = write(tmp_path / "p.jsonl", ROWS)
    with pytest.raises(DataError, match="no chat template"):
        load_problems(FilesConfig(train=source, chat=True), tokenizer=chat_tokenizer(None))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", "", "holds no problems"),
        ("p.json", "[]", "holds no problems"),
        ("p.csv", "a,b", r"'\.csv' cannot be read; allowed: \.jsonl"),
        ("p.jsonl", '{"prompt": "p", "answer": "1"}\n{"prompt": "q", "ans', r"line 2: not valid JSON .* truncated"),
        ("p.json", '[{"prompt": "p",\n "answer": "1"}, {"pro', r"line 2: not valid JSON"),
        ("p.jsonl", '{"prompt": "p", "answer": "1"}\n[1]', "line 2: must be an object"),
        ("p.parquet", "PAR1 and no more", "not a whole Parquet file"),
        (
            "p.jsonl",
            '{"prompt": "p", "reply": {"text": "1"}}',
            r"line 1: no field 'answer'; there are prompt, reply.text",
        ),
        ("p.jsonl", '{"question": "p", "answer": "1"}', "no field 'prompt'; there are question, answer"),
        ("p.jsonl", '{"prompt": 3, "answer": "1"}', "line 1: field 'prompt' must be text"),
        ("p.jsonl", '{"prompt": " ", "answer": "1"}', "line 1: field 'prompt' must be text"),
        ("p.jsonl", '{"prompt": [{"role": "assistant", "content": "x"}], "answer": "1"}', "ends with the user's"),
        (
            "p.jsonl",
            '{"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}], "answer": "1"}',
            "data.files.chat=true",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_place_and_what_to_do(tmp_path, name, content, message):
    source = tmp_path / name
    source.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        load_problems(FilesConfig(train=str(source)))
    assert str(source) in str(caught.value)


def test_a_missing_file_and_one_that_is_not_text_are_errors(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_problems(FilesConfig(train=str(tmp_path / "gone.jsonl")))
    (tmp_path / "p.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        load_problems(FilesConfig(train=str(tmp_path / "p.jsonl")))


@pytest.mark.parametrize("missing", [None, "", "  ", "no number here"])
def test_missing_answers_are_counted_and_the_first_ones_named(tmp_path, missing):
    rows = [{"id": f"q{i}", "prompt": f"p{i}", "answer": "= 5" if i < 3 else missing} for i in range(12)]
    source = write(tmp_path / "p.jsonl", rows)
    with pytest.raises(DataError, match=r"9 of 12 problems have no answer.*q3 \(line 4\), .*q7 \(line 8\), \.\.\."):
        load_problems(FilesConfig(train=source, id_field="id", answer_pattern=r"= (\d+)"))


def test_duplicate_ids_are_named(tmp_path):
    source = write(tmp_path / "p.jsonl", [*ROWS, ROWS[0]])
    with pytest.raises(DataError, match="1 ids of field 'id' occur more than once: a"):
        load_problems(FilesConfig(train=source, id_field="id"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"answer_pattern": "(("}, "not a regular expression"),
        ({"answer_pattern": "####"}, "needs a group"),
        ({"template": "no place"}, "must contain"),
    ],
)
def test_unusable_settings_name_their_key(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_problems(FilesConfig(train="p.jsonl", **settings))


@pytest.mark.parametrize(
    ("name", "settings", "count", "answer"),
    [
        ("gsm8k.jsonl", {"prompt_field": "question", "id_field": "idx", "answer_pattern": "#### (.+)"}, 1319, "18"),
        ("math_500.json", {"id_field": "id"}, 500, r"\left( 3, \frac{\pi}{2} \right)"),
        ("aime24.jsonl", {"prompt_field": "problem", "id_field": "id"}, 30, "204"),
        ("aime25.json", {}, 30, "70"),
        ("amc23_83.json", {"id_field": "id"}, 83, "142.0"),
        (
            "minerva_math.jsonl",
            {"prompt_field": "problem", "answer_field": "solution", "answer_pattern": r"(?s)\\boxed\{(.+)\}"},
            272,
            None,
        ),
        (
            "dapo_math_17k.parquet",
            {"answer_field": "reward_model.ground_truth", "id_field": "extra_info.index"},
            17_917,
            "34",
        ),
    ],
)
def test_real_problem_files_load(name, settings, count, answer):
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not there (shared test data)")
    problems = load_problems(FilesConfig(train=str(SHARED / name), **settings))
    assert len(problems) == len({p.id for p in problems}) == count
    if answer is not None:
        assert problems[0].answer == answer


def test_a_data_set_in_a_folder_is_read_by_split_with_a_mapping_of_its_own(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train.jsonl", ROWS)
    write(folder / "test.jsonl", ROWS[:1])
    source = SourceConfig(path=str(folder), split="test", id_field="id", answer_field="meta.truth")
    files = FilesConfig(train="nowhere.jsonl", tests={"mine": source})
    (problem,) = load_problems(files, source, name="mine")
    assert (problem.id, problem.prompt, problem.answer) == ("mine/a", "1+1?", "2")


def test_a_data_set_that_is_neither_here_nor_in_the_cache_is_one_error_in_words():
    with pytest.raises(DataError, match=r"nobody/nothing, split 'train': neither a data set here nor .* from the Hub"):
        load_problems(FilesConfig(train="nobody/nothing"))


def test_what_is_around_the_problem_is_left_out_and_a_prompt_without_it_is_refused(tmp_path):
    files = {"prompt_pattern": r"(?s)^Solve\.\n(.+)\nThink\.$", "template": "Q: {prompt}"}
    good = write(tmp_path / "good.jsonl", [{"prompt": "Solve.\n1+\n1?\nThink.", "answer": 2}])
    assert [p.prompt for p in load_problems(FilesConfig(train=good, **files))] == ["Q: 1+\n1?"]
    bad = write(tmp_path / "bad.jsonl", [{"prompt": "1+1?", "answer": 2}])
    with pytest.raises(DataError, match=r"line 1: the prompt does not match prompt_pattern .*'1\+1\?'"):
        load_problems(FilesConfig(train=bad, **files))


def test_one_test_set_or_several_by_name_but_not_both():
    with pytest.raises(ValueError, match="not both"):
        FilesConfig(train="a.jsonl", test="b.jsonl", tests={"c": SourceConfig(path="c.jsonl")})


LOCAL = {  # a data recipe's source → a local copy, and the fields that are called otherwise in it
    "train": {"path": "dapo_math_17k.parquet"},
    "math_500": {"path": "math_500.json", "prompt_field": "prompt", "id_field": "id"},
    "aime_2024": {"path": "aime24.jsonl"},
    "aime_2025": {"path": "aime25.json", "prompt_field": "prompt"},
}


def test_the_paper_s_data_recipes_read_the_published_problems():
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there: real problem files are read from beside the checkout")
    files = load_config("qwen3_8b_to_1p7b").data.files.model_copy(update={"chat": False})
    sources = {"train": files.source(files.train), **files.test_sources}
    read = {}
    for name, source in sources.items():
        local = LOCAL[name] | {"path": str(SHARED / LOCAL[name]["path"])}
        read[name] = load_problems(files, source.model_copy(update=local), name=name)
    assert {name: len(problems) for name, problems in read.items()} == {
        "train": 17_917,
        "math_500": 500,
        "aime_2024": 30,
        "aime_2025": 30,
    }
    first = read["train"][0]
    assert first.prompt.startswith("In triangle $ABC$")
    assert first.prompt.endswith(
        "find $a + b + c$.\nLet's think step by step and output the final answer within \\boxed{}."
    )
    assert first.answer == "34"


@pytest.mark.parametrize(
    ("recipe", "row", "answer"),
    [
        (
            "data/math",
            {"problem": "p", "solution": "\\boxed{1}, no: \\boxed{\\frac{1}{\\sqrt{2}}}."},
            "\\frac{1}{\\sqrt{2}}",
        ),
        ("data/gsm8k", {"question": "p", "answer": "2+2=4\n#### 4"}, "4"),
    ],
)
def test_answers_are_found_where_the_data_recipes_say(tmp_path, recipe, row, answer):
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"extends: [own_models, {recipe}]\n")
    paths = ["models.teacher.path=./t", "models.student.path=./s"]
    files = load_config(str(mine), paths).data.files.model_copy(update={"chat": False})
    source = files.source(files.train).model_copy(update={"path": write(tmp_path / "rows.jsonl", [row])})
    assert [problem.answer for problem in load_problems(files, source)] == [answer]
