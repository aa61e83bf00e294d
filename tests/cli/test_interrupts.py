"""Ctrl-C and SIGTERM: exit 130, and one line that says where a job stopped and how to go on."""

import http.client
import os
import re
import signal
import socket
import threading
import time
from contextlib import suppress

import psutil
import pytest
import torch

import bilens
from bilens.base import processes
from bilens.base.errors import FileError
from bilens.cli.process import _stop, _terminable
from bilens.training import save_tokenizer, train_tokenizer
from tests.processes_made import begin

SIZES = "hidden_size = 16\nintermediate_size = 24\nnum_hidden_layers = 1\nnum_attention_heads = 2\n"
RECIPE = (
    "steps = 2000\nbatch_size = 4\nvocab_size = 300\n"
    f"[model]\n{SIZES}max_position_embeddings = 16\n"
)


@pytest.fixture(autouse=True)
def _heard():
    """SIGINT is heard here even where the whole run is in the background and was told not to."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    folder = tmp_path_factory.mktemp("there")
    (folder / "text.txt").write_text(
        "\n<|endoftext|>\n".join(f"There were {n} cats." for n in range(2000))
    )
    (folder / "r.toml").write_text(RECIPE)
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = bilens.TransformerConfig(**sizes, max_position_embeddings=16, vocab_size=300)
    bilens.Transformer(config).save_pretrained(folder / "model")
    save_tokenizer(train_tokenizer(str(folder / "text.txt"), 300), folder / "model")
    return folder


JOBS = {
    "image": (
        "train image -o OUT --steps 5000 --width 8 --save-every 2",
        "OUT/checkpoints/*/complete",
        "--resume",
    ),
    "text": (
        "train text -o OUT --data TEXT --config RECIPE --save-every 2",
        "OUT/checkpoints/*/complete",
        "--resume",
    ),
    "dictionary": (
        "train dictionary MODEL --at layers.0.mlp.input -o OUT --data TEXT --steps 99999",
        "OUT/activations/chunk-*",
        "the same command with --resume",
    ),
    "decompose": (
        "decompose MODEL --folder OUT --chunk 1",
        "OUT/chunk-*",
        "the same command again",
    ),
    "moments": (
        "moments MODEL -o OUT --data TEXT --chunk 1",
        "OUT/so-far-0.safetensors",
        "the same command again",
    ),
    "compare": (
        "compare -o OUT --data TEXT --config RECIPE --mlp bilinear --seeds 1",
        "OUT/bilinear-0/log.jsonl",
        "the same command again",
    ),
}


@pytest.mark.parametrize("job", JOBS)
def test_a_stopped_job_says_where_and_how_to_go_on(job, run, there, tmp_path, monkeypatch):
    words, reached, how = JOBS[job]
    places = {
        "OUT": tmp_path / "out",
        "TEXT": there / "text.txt",
        "RECIPE": there / "r.toml",
        "MODEL": there / "model",
    }
    sent = signal.SIGTERM if job in ("text", "decompose") else signal.SIGINT

    def stop():
        while not any((tmp_path / "out").glob(reached.removeprefix("OUT/"))):
            time.sleep(0.002)
        while not ended.is_set():  # Python drops one that falls into a destructor
            os.kill(os.getpid(), sent)
            ended.wait(5)

    ended = threading.Event()
    monkeypatch.setattr("bilens.cli.process._stop", lambda message: (ended.set(), _stop(message)))
    threading.Thread(target=stop, daemon=True).start()
    code, _, err = run(*(places.get(word, word) for word in words.split()))
    line = err.splitlines()[-1]
    assert code == 130, err
    assert line.startswith("bilens: interrupted: ")
    assert str(tmp_path / "out") in line
    assert how in line
    assert "stopped" in line


def test_a_tokenizer_is_stopped_in_its_trainer_and_leaves_nothing(run, tmp_path, monkeypatch):
    """The trainer is not Python and hears of a signal only where it asks for more text."""
    text = tmp_path / "text.txt"
    text.write_text("\n<|endoftext|>\n".join(f"{n} cats" for n in range(3000)))
    asked = []

    def stop(document):
        asked.append(document)
        if len(asked) == 2000:
            os.kill(os.getpid(), signal.SIGINT)
        yield document

    monkeypatch.setattr("bilens.training.tokenizer.pieces", stop)
    code, _, err = run("train", "tokenizer", "-o", tmp_path / "out", "--data", text)
    said = "interrupted: nothing is half-written. To begin anew: the same command again."
    assert (code, err) == (130, f"bilens: {said}\n")
    assert len(asked) >= 2000
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("job", ["image", "decompose"])
def test_a_folder_that_vanishes_is_one_line(job, run, there, tmp_path):
    words, reached, _ = JOBS[job]
    places = {"OUT": tmp_path / "out", "MODEL": there / "model"}

    def vanish():
        while not any((tmp_path / "out").glob(reached.removeprefix("OUT/"))):
            time.sleep(0.002)
        (tmp_path / "out").rename(tmp_path / "elsewhere")

    threading.Thread(target=vanish, daemon=True).start()
    code, _, err = run(*(places.get(word, word) for word in words.split()))
    assert code == 2, err
    assert str(tmp_path / "out") in err.splitlines()[-1]
    assert "Traceback" not in err


NEVER_DONE = """
import time
from contextlib import suppress

def work(line, what):
    line.send(None)
    time.sleep(600)
"""


def test_a_served_page_ends_with_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    """Ctrl-C, which a terminal sends to all of its processes, while a browser is still there and a
    question is being answered, by a process that takes its time.
    """
    (tmp_path / "never_done.py").write_text(NEVER_DONE)
    monkeypatch.syspath_prepend(tmp_path)
    start = processes._start
    monkeypatch.setattr(processes, "_start", lambda module: start("never_done"))
    child, out, err = begin(tmp_path, "serve", "tinystories-1l")
    try:
        for _ in range(2000):
            if out.exists() and out.read_text().count("\n") == 3:
                break
            time.sleep(0.01)
        port, token = re.search(r":(\d+)/\?token=(\S+)", out.read_text()).groups()
        others = psutil.Process(child.pid).children(recursive=True)
        asked = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
        idle = socket.create_connection(("127.0.0.1", int(port)))
        asked.request("POST", "/api/ask", '{"prompt": "a"}', {"X-Bilens-Token": token})
        time.sleep(0.2)
        os.killpg(child.pid, signal.SIGINT)
        child.join(20)
    finally:
        child.kill()
    ended = out.read_text().splitlines()[3:]
    assert re.fullmatch(r"Stopped\. [01] questions? answered\.", *ended), (ended, err.read_text())
    assert (child.exitcode, err.read_text()) == (0, "")
    gone, alive = psutil.wait_procs(others, timeout=10)
    assert (len(gone), alive) == (len(others), [])
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", int(port)))
    reply = asked.getresponse()
    assert (reply.status, reply.read()) == (503, b'{"error": "the server was stopped"}')
    idle.close()


def test_sigterm_ends_a_served_page_too(run, monkeypatch):
    from bilens.report import server

    stopped = []

    class Silent:
        def __init__(self, serving):
            threading.Thread(target=self.terminate, daemon=True).start()

        def terminate(self):
            line = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            line.request("GET", "/")  # answered as soon as it listens
            line.getresponse()
            os.kill(os.getpid(), signal.SIGTERM)

        def end(self):
            pass

        def stop(self):
            stopped.append(True)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(server, "Worker", Silent)
    monkeypatch.setattr("bilens.cli.commands.serve.begin", lambda module: None)
    code, out, err = run("serve", "nowhere", "--port", port)
    assert (code, err, stopped) == (0, "", [True])
    assert out.endswith("Ctrl-C stops it.\nStopped. 0 questions answered.\n")


class Dying:
    """Ends the command where Python drops what is raised: as it is thrown away."""

    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


@_terminable()
def stopped_within_a_del():
    dying = Dying()
    del dying
    time.sleep(60)


def test_a_stop_within_a_del_is_not_lost():
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        stopped_within_a_del()
    assert time.monotonic() - began < 30  # the wait is not waited for


def test_a_stop_of_which_a_library_makes_another_error(run, monkeypatch):
    def importing(*arguments):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            raise ModuleNotFoundError("Could not import module") from stop

    monkeypatch.setattr("bilens.load", importing)
    code, _, err = run("expand", "tinystories-1l", "--prompt", "Once")
    assert code == 130
    assert err.startswith("bilens: interrupted: nothing is half-written")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("other", [FileError("it", must="be whole", got="else"), ValueError("no")])
def test_a_stop_that_a_library_lost_is_no_fault_of_a_file(sent, other, run, monkeypatch):
    """What is not Python may clear a KeyboardInterrupt and raise an error of its own."""

    def reading(*arguments):
        with suppress(KeyboardInterrupt):
            signal.raise_signal(sent)
        raise other

    monkeypatch.setattr("bilens.load", reading)
    code, _, err = run("expand", "tinystories-1l", "--prompt", "Once")
    said = "interrupted: nothing is half-written. To begin anew: the same command again."
    assert (code, err) == (130, f"bilens: {said}\n")


PLACES = (
    "bilens.cli.process._prepare",  # before anything
    "bilens.cli.app._help_if_bare",  # in the command
    "bilens.cli.process._require_text",
    "typer.core.TyperGroup.make_context",  # in typer, before there is a command
    "bilens.cli.process._flush",  # after it
)


@pytest.mark.parametrize("place", PLACES)
def test_a_stop_at_any_moment_is_one_line(place, run, monkeypatch):
    def stopped(*given, **named):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(place, stopped)
    code, _, err = run("train")
    assert (code, err.count("\n")) == (130, 1)
    assert err.startswith("bilens: interrupted: nothing is half-written")


def test_a_stop_while_an_error_is_told(run, monkeypatch):
    told = []

    def stopped(message):
        told.append(message)
        if len(told) == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("bilens.cli.process.warn", stopped)
    code, _, _ = run("eval", "no/such/model", "digits")
    assert code == 130
    assert told[1].startswith("interrupted: ")


def test_a_stop_within_a_del_is_not_lost_where_ctrl_c_is_to_be_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        stopped_within_a_del()
    assert time.monotonic() - began < 30
