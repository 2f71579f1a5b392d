"""The threads of csrc/cpu/parallel.cpp, in a program of their own whose tasks sleep."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "csrc" / "cpu"
PROGRAM = """
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "parallel.h"

std::atomic<int> now{0}, most{0};

int main(int, char** arguments) {
  const int callers = std::atoi(arguments[1]), threads = std::atoi(arguments[2]);
  const auto call = [](int own) {
    parallel_for(4 * own, own, [](int) {
      const int seen = ++now;
      for (int known = most; known < seen && !most.compare_exchange_weak(known, seen);) {}
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
      now--;
    });
  };
  call(std::atoi(arguments[3]));
  most = 0;
  std::vector<std::thread> all;
  for (int n = 0; n < callers; n++) all.emplace_back(call, threads);
  for (auto& each : all) each.join();
  std::printf("%d", int(most));
  std::fflush(stdout);
  std::_Exit(0);  // The helpers sleep.
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "main.cpp").write_text(PROGRAM)
    built = folder / "program"
    files = [str(folder / "main.cpp"), str(SOURCE / "parallel.cpp")]
    command = ["g++", "-std=c++17", "-O1", "-pthread", f"-I{SOURCE}", *files, "-o", str(built)]
    subprocess.run(command, check=True, timeout=120)
    return built


@pytest.mark.slow
@pytest.mark.parametrize(
    ("callers", "threads", "at_most"),
    [(1, 4, 4), (1, 2, 2), (2, 2, 4), (2, 4, 8), (3, 2, 6), (4, 1, 4)],
)
def test_callers_have_threads_of_their_own(program: Path, callers: int, threads: int, at_most: int) -> None:
    """Eight threads were there before, so that helpers do not lack."""
    arguments = [str(program), str(callers), str(threads), "8"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) == at_most
