"""The interactive worker: answers, sentences instead of tracebacks, and life after death."""

import json
import os
import signal
import sys

import pytest

from core import serve
from core.errors import PrunariumError, ResourceError
from core.model.files.source import fingerprint, locate
from studio.worker import Worker
from tests.model_folders import saved

GIVE_UP_S = 120


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(saved(tmp_path_factory.mktemp("model") / "one"))


@pytest.fixture(scope="module")
def worker():
    found = Worker()
    yield found
    found.close()


def test_no_process_is_started_before_the_first_question():
    assert Worker().pid is None


def test_an_opened_model_is_described_block_by_block(worker, model):
    described = worker.ask("open_model", GIVE_UP_S, source=model)
    assert described["kind"] == "decoder" and described["parameters"] > 0
    assert described["fingerprint"] == fingerprint(locate(model))  # as observations of it say
    assert all(layer["block"] == int(layer["name"].split(".")[1]) for layer in described["layers"])
    assert [block["layers"] for block in described["blocks"]] == [
        [layer["name"] for layer in described["layers"] if layer["block"] == block["index"]] for block in described["blocks"]
    ]


def test_a_layers_histogram_counts_every_weight_and_the_cut_leaves_the_asked_share_below(worker, model):
    name = "blocks.0.mlp.up_proj"
    found = worker.about(model, "layer", GIVE_UP_S, name=name, share=0.5)
    assert sum(found["histogram"]["counts"]) == found["parameters"]
    assert 0 < found["cut"] < found["max_magnitude"]
    assert worker.about(model, "layer", GIVE_UP_S, name=name)["cut"] is None


def test_a_killed_worker_is_started_again_with_a_notice_and_its_model(worker, model):
    worker.about(model, "layer", GIVE_UP_S, name="blocks.0.mlp.up_proj")
    before = worker.pid
    os.kill(before, signal.SIGKILL)
    assert worker.ask("layer", GIVE_UP_S, name="blocks.0.mlp.up_proj")["parameters"] > 0
    assert worker.pid != before
    notice = worker.take_notice()
    assert "started again" in notice and model in notice
    assert worker.take_notice() == ""


def test_a_model_that_cannot_be_loaded_leaves_the_worker_alive_and_the_old_model_answering(worker, model, tmp_path):
    worker.about(model, "layer", GIVE_UP_S, name="blocks.0.mlp.up_proj")
    with pytest.raises(PrunariumError) as told:
        worker.ask("open_model", GIVE_UP_S, source=str(tmp_path))
    assert told.value.problem and told.value.remedy and "Traceback" not in str(told.value)
    assert worker.alive
    assert worker.ask("layer", GIVE_UP_S, name="blocks.1.mlp.up_proj")["name"] == "blocks.1.mlp.up_proj"


def test_another_model_gets_another_process(worker, model, tmp_path):
    worker.about(model, "layer", GIVE_UP_S, name="blocks.0.mlp.up_proj")
    before = worker.pid
    other = str(saved(tmp_path / "other"))
    worker.ask("open_model", GIVE_UP_S, source=other)
    assert worker.pid != before


def test_an_unknown_layer_is_told_with_the_nearest_name(worker, model):
    with pytest.raises(PrunariumError, match=r"Did you mean blocks\.0\.mlp\.up_proj"):
        worker.about(model, "layer", GIVE_UP_S, name="blocks.0.mlp.upproj")


def test_an_answer_that_never_comes_ends_the_process_and_not_the_studio():
    slow = Worker()
    with pytest.raises(ResourceError, match="did not answer"):
        slow.ask("catalogue", timeout_s=0.01)
    assert not slow.alive
    slow.close()


def test_what_a_library_prints_does_not_corrupt_the_answers(worker, tmp_path, monkeypatch):
    noisy = tmp_path / "noisy.py"
    noisy.write_text('print(\'{"id": 1, "answer": "forged"}\')\n')
    monkeypatch.setenv("PRUNARIUM_METHODS", str(tmp_path))
    loud = Worker()
    try:
        assert {card["kind"] for card in loud.ask("catalogue", GIVE_UP_S)} >= {"score", "allocator"}
        assert "forged" in loud.log
    finally:
        loud.close()


@pytest.mark.quick
@pytest.mark.parametrize(
    "line", ["not json", "{}", '{"id": 3, "ask": "layer", "args": {"name": "x"}}', '{"id": 3, "ask": "nonsense"}', "[]"]
)
def test_any_line_gets_a_sentence(line, tmp_path):
    said = serve.answer(serve.Session(tmp_path), line)
    assert said["problem"] and "remedy" in said
    json.dumps(said, allow_nan=False)


@pytest.mark.quick
def test_what_is_not_a_number_travels_as_null(tmp_path, monkeypatch):
    monkeypatch.setitem(serve.ASKS, "figures", lambda session: {"a": float("nan"), "b": (1, float("inf"))})
    assert serve.answer(serve.Session(tmp_path), '{"id": 1, "ask": "figures"}') == {
        "id": 1,
        "answer": {"a": None, "b": [1, None]},
    }


def test_the_worker_ends_when_its_studio_is_gone():
    import subprocess

    ended = subprocess.run([sys.executable, "-m", "core.serve"], stdin=subprocess.DEVNULL, capture_output=True, timeout=GIVE_UP_S)
    assert ended.returncode == 0 and ended.stdout == b""
