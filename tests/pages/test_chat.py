"""Talking to several models: their histories, what is kept, the terminal and the page."""

import json

import pytest
from starlette.testclient import TestClient

from icegrt_jax import cli
from icegrt_jax.api import load_model
from icegrt_jax.data.records import Ranking, read_jsonl
from icegrt_jax.errors import UserError
from icegrt_jax.pages import access
from icegrt_jax.pages.chat import app, terminal
from icegrt_jax.pages.chat import talk as talk_module
from icegrt_jax.pages.chat.talk import Answer, Settings, Talk, Voice
from icegrt_jax.runs.ranked import width_of
from icegrt_jax.sampling import generate
from tests.api.tiny import write_models

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def talk(monkeypatch):
    """With two models that say what they were asked last, and by how many messages."""
    talk = Talk([Voice("base", None), Voice("ICE-GRT", None)], Settings(0.7, 4))

    def answer(voice, said, key):
        return Answer(f"{voice.name} hears {said[-1]['content']}, {len(said)}", voice.name == "base")

    monkeypatch.setattr(talk, "_answer", answer)
    return talk


def test_each_model_has_its_own_conversation_until_all_go_on_from_one(talk):
    talk.say("hello")
    assert talk.histories[1][-1] == {"role": "assistant", "content": "ICE-GRT hears hello, 1"}
    talk.say("more")
    assert [len(history) for history in talk.histories] == [4, 4] and talk.histories[0] != talk.histories[1]
    with pytest.raises(UserError, match="these answers are to different conversations"):
        talk.ranking([1, 2])
    talk.share(1)
    assert talk.histories[0] == talk.histories[1]
    talk.say("now")
    assert talk.ranking([2, 1]).prompt == talk.asked[0]
    talk.new()
    assert talk.histories == [(), ()]


def test_an_exchange_is_kept_as_a_ranking_and_goes_on_from_the_best(talk, tmp_path):
    path = tmp_path / "chat" / "kept.jsonl"
    with pytest.raises(UserError, match="nothing has been answered yet"):
        talk.keep([1, 2], path)
    talk.say("hello")
    for ranks in ([1, None], [None, None]):
        with pytest.raises(UserError, match="rank two different answers"):
            talk.keep(ranks, path)
    talk.keep([2, 1], path)
    with pytest.raises(UserError, match="is in .* already"):
        talk.keep([1, 2], path)
    assert talk.histories[0] == talk.histories[1] and "ICE-GRT" in talk.histories[0][-1]["content"]
    talk.say("again")
    talk.keep([1, 1], path)
    first, second = read_jsonl(path, Ranking)
    assert first.responses == ("base hears hello, 1", "ICE-GRT hears hello, 1") and first.ranks == (2.0, 1.0)
    assert first.meta["chat"] == {"models": [["base"], ["ICE-GRT"]], "temperature": 0.7, "max_new_tokens": 4}
    assert len(second.prompt) == 3 and second.ranks == (1.0, 1.0)


def test_equal_answers_stand_once_and_have_one_rank(talk, monkeypatch):
    monkeypatch.setattr(talk, "_answer", lambda voice, said, key: Answer("the same"))
    talk.say("hello")
    with pytest.raises(UserError, match="base and ICE-GRT have said the same, so they have one rank"):
        talk.ranking([1, 2])
    with pytest.raises(UserError, match="rank two different answers"):
        talk.ranking([1, 1])


def test_a_model_answers_and_a_longer_conversation_is_not_compiled_anew(compiled_once, tmp_path, monkeypatch):
    write_models(tmp_path / "models")
    talk = Talk([Voice("a", load_model(tmp_path / "models" / "policy"))], Settings(1.0, 4), seed=3)
    widths, inner = [], generate.compiled_sampler
    monkeypatch.setattr(generate, "compiled_sampler", lambda *a, **k: widths.append(a[2].shape[1]) or inner(*a, **k))
    for text in ("the cat", "sat on"):
        [answer] = talk.say(text)
        assert len(answer.text) > 0 and not answer.problem
    assert widths == [32] * 2 and len(talk.histories[0]) == 4
    assert [width_of(length) for length in (33, 65, 97, 130)] == [64, 96, 128, 192], "few widths"
    talk.say("the cat sat on the mat " * 30)
    assert "no room for an answer in the 64 that this model was made for; begin a new one" in talk.answers[0].problem
    assert len(talk.histories[0]) == 4, "who has not answered goes on from where they were"
    with pytest.raises(UserError, match="nothing was said"):
        talk.say("  ")


def test_an_answer_has_the_room_that_a_short_model_leaves(tmp_path, monkeypatch):
    write_models(tmp_path / "models")
    model = load_model(tmp_path / "models" / "policy")
    talk, longest = Talk([Voice("a", model)], Settings(1.0, 128)), []
    inner = talk_module.generate_batches
    spy = lambda *given, **more: longest.append(given[5].max_new_tokens) or inner(*given, **more)
    monkeypatch.setattr(talk_module, "generate_batches", spy)
    word = "the cat sat on the mat "
    for times in range(1, 12):
        talk.new()
        [answer] = talk.say(word * times)
        room = 64 - len(model.tokenizer.encode_prompt([{"role": "user", "content": word * times}]))
        if room < 8:
            assert "begin a new one" in answer.problem
            break
        assert not answer.problem and longest[-1] <= room < 2 * max(longest[-1], 8)
    assert room < 8 and {32, 16, 8} <= set(longest) and len(set(longest)) <= 4


def test_the_terminal(talk, tmp_path, capsys):
    path = tmp_path / "kept.jsonl"
    lines = iter([
        "hello", "/rank 2 1", "", "/temperature 0", "/temperature hot", "/tokens 9", "/tokens 0", "/share 1",
        "/share 3", "/rank 1=2", "/nonsense", "/help", "/new",
    ])  # fmt: skip

    def ask(prompt):
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    terminal.run(talk, path, ask, width=70)
    out = capsys.readouterr().out
    assert "1 base" in out and "2 ICE-GRT" in out and "[cut off]" in out
    assert f"kept in {path}" in out and "temperature 0\n" in out and "9 tokens at most" in out
    for said in ("temperature 'hot'", "tokens '0'", "'3' is no model here", "/nonsense is no command", "this exchange"):
        assert f"error: {said}" in out
    assert talk.settings == Settings(0.0, 9) and talk.histories == [(), ()]
    assert json.loads(path.read_text())["ranks"] == [2.0, 1.0]


def test_answers_stand_beside_each_other_where_there_is_room():
    answers = [Answer("one two three four five six seven eight nine ten", False), Answer("", problem="too long")]
    wide = terminal.side_by_side(["a", "b"], answers, 70).split("\n")
    assert wide[0].startswith("1 a") and wide[0].endswith("2 b") and max(map(len, wide)) <= 70
    assert "[too long]" in wide[2] and any("[cut off]" in line for line in wide)
    narrow = terminal.side_by_side(["a", "b"], answers, 40).split("\n")
    assert "1 a" in narrow and "2 b" in narrow and max(map(len, narrow)) <= 40
    assert "\x1b" not in terminal.side_by_side(["a"], [Answer("a\x1b[2Jb")], 70)


def test_the_page(talk, tmp_path, monkeypatch):
    path = tmp_path / "kept.jsonl"
    pages = app.Pages(talk.voices, talk.settings, path)
    monkeypatch.setattr(app, "Talk", lambda *args: talk)
    guarded = pages.app({access.USER: "token-of-this-test"})
    client = TestClient(guarded, base_url="http://page")
    assert client.get("/").status_code == 403
    assert client.get("/?token=token-of-this-test").status_code == 200
    text = client.post("/say", data={"text": f"hi {EVIL}"}).text
    assert text.count("&lt;script&gt;alert(1)") == 4 and EVIL not in text and "cut off at 4 tokens" in text
    text = client.post("/keep", data={"rank-1": "2", "rank-2": "1"}).text
    assert "Kept in" in text and json.loads(path.read_text())["ranks"] == [2.0, 1.0]
    client.post("/say", data={"text": "on"})
    talk.histories[0] = ()
    assert "to different conversations" in client.post("/say", data={"text": "on"}).text
    client.post("/share", data={"voice": "2"})
    assert talk.histories[0] == talk.histories[1]
    assert client.post("/settings", data={"temperature": "x", "tokens": "3"}).status_code == 400
    client.post("/settings", data={"temperature": "0.2", "tokens": "3"})
    assert talk.settings == Settings(0.2, 3)
    assert client.post("/say", data={"text": " "}).text == "nothing was said; write something."
    assert "ICE-GRT hears" not in client.post("/new").text


def test_the_command_opens_what_a_run_has(finished, monkeypatch, tmp_path, capsys):
    found = []
    monkeypatch.setattr(terminal, "run", lambda talk, keep: found.append((talk, keep)))
    assert cli.main(["chat", f"--workdir={finished[0]}", "--temperature=0.5"]) == 0
    [(talk, keep)] = found
    assert [voice.name for voice in talk.voices] == ["base", "ICE-Instruct", "ICE-GRT"]
    assert keep == finished[0] / "chat" / "rankings.jsonl" and talk.settings == Settings(0.5, 128)
    assert cli.main(["chat", f"--workdir={tmp_path}"]) == 2
    assert f"--workdir={tmp_path}: no config.json here" in capsys.readouterr().err
    assert cli.main(["chat", f"--workdir={finished[0]}", "--keep=x.txt"]) == 2
