"""The decisions of set-up that cost gigabytes, tried without fetching them: what pip is asked for is written down instead of installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from core import install

pytestmark = pytest.mark.quick

CPU, CUDA_ONLY, UNREACHABLE = "Available versions: 2.14.0, 2.13.0+cpu, 2.13.0", "Available versions: 2.14.0, 2.13.0", ""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A Linux machine without an NVIDIA GPU, before torch is there; what pip is asked to install."""
    (tmp_path / "requirements.txt").write_text("numpy==2.4.6\ntorch==2.13.0\n")
    monkeypatch.setattr(install, "HERE", tmp_path)
    monkeypatch.setattr(install, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(install.sys, "platform", "linux")
    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    monkeypatch.setattr(install, "DRIVER", tmp_path / "no driver")
    installed: list[list[str]] = []
    monkeypatch.setattr(install, "_pip", lambda arguments, label, lock: installed.append(arguments))
    return installed


def offers(monkeypatch: pytest.MonkeyPatch, versions: str) -> None:
    """Let the registry list these versions of torch; none at all is a registry that cannot be reached."""
    answer = subprocess.CompletedProcess([], 0 if versions else 1, stdout=versions)
    monkeypatch.setattr(install, "_quietly", lambda words: answer)


def refuse(*_: object) -> None:
    raise install.Refused("the index cannot be reached")


def test_the_cpu_build_is_taken_where_the_registry_has_it(asked, monkeypatch):
    offers(monkeypatch, CPU)
    install._install_small_torch(0)
    assert asked == [["--no-deps", "torch==2.13.0+cpu"]]


def test_the_cpu_build_is_asked_of_pytorchs_own_index_where_the_registry_lacks_it(asked, monkeypatch):
    offers(monkeypatch, CUDA_ONLY)
    install._install_small_torch(0)
    assert asked == [["--no-deps", "--index-url", install.CPU_INDEX, "torch==2.13.0+cpu"]]


def test_where_only_cuda_can_be_had_its_size_is_said_before_going_on(asked, monkeypatch, capsys):
    offers(monkeypatch, CUDA_ONLY)
    monkeypatch.setattr(install, "_pip", refuse)
    monkeypatch.setattr(install.sys, "stdin", None)
    install._install_small_torch(0)
    said = capsys.readouterr().err
    assert "no NVIDIA GPU" in said and "about 3 GB larger" in said


def test_a_person_at_a_terminal_can_say_no_to_cuda(asked, monkeypatch):
    offers(monkeypatch, CUDA_ONLY)
    monkeypatch.setattr(install, "_pip", refuse)
    monkeypatch.setattr(install.sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", lambda question: "")
    with pytest.raises(install.Refused, match="Stopped before the large download"):
        install._install_small_torch(0)
    monkeypatch.setattr("builtins.input", lambda question: "y")
    install._install_small_torch(0)


def test_an_unreachable_registry_is_no_reason_to_speak_of_cuda(asked, monkeypatch):
    offers(monkeypatch, UNREACHABLE)
    monkeypatch.setattr(install, "_pip", refuse)
    with pytest.raises(install.Refused, match="the index cannot be reached"):
        install._install_small_torch(0)


def test_with_a_gpu_on_another_system_or_with_torch_in_place_pip_decides(asked, monkeypatch, tmp_path: Path):
    offers(monkeypatch, CPU)
    with monkeypatch.context() as gpu:
        gpu.setattr(install.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
        install._install_small_torch(0)
    with monkeypatch.context() as driver:
        driver.setattr(install, "DRIVER", tmp_path)
        install._install_small_torch(0)
    with monkeypatch.context() as mac:
        mac.setattr(install.sys, "platform", "darwin")
        install._install_small_torch(0)
    (tmp_path / ".venv/lib/python3.11/site-packages/torch-2.13.0+cpu.dist-info").mkdir(parents=True)
    install._install_small_torch(0)
    assert asked == []


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "asking the registry"),
        (["Collecting scikit-learn==1.9.1 (from -r x)\n"], "finding scikit-learn"),
        (["Collecting a\n", "  Downloading numpy-2.4.6-cp311.whl (16.9 MB)\n"], "downloading numpy (16.9 MB)"),
        (["Processing /wheels/torch-2.13.0.whl\n", "WARNING: Location x is ignored\n"], "found torch"),
        (["Requirement already satisfied: six==1.17.0 in ./x\n"], "have six"),
        (["Installing collected packages: six\n"], "unpacking, 0 packages in place"),
    ],
)
def test_what_pip_is_at_is_said_in_a_few_words_and_its_warnings_are_not(asked, lines: list[str], words: str):
    assert install._doing(lines) == words


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "The disk is full"),
        ("ERROR: No matching distribution found for torch==2.13.0", "use Python 3.11, 3.12 or 3.13"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'", "set PIP_CERT"),
        ("ERROR: something nobody foresaw", "Set-up failed: ERROR: something nobody foresaw"),
    ],
)
def test_what_pip_writes_becomes_a_sentence_with_a_remedy(written: str, sentence: str):
    assert sentence in install.explain(f"noise\n{written}\n")
