"""The snippets of the README and of the docs run, and print what the pages say.

Blocks of one page share their names, in order. A block of text right behind a block of Python is what that
block prints. A repository id stands for a download, so the demo checkpoint takes its place.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import gliclass
import pytest
import typer
from safetensors.torch import save_file

from gliclass_fast import demo
from gliclass_fast.bench.gliznet_reference import GliZNet, Options
from gliclass_fast.cli.app import app
from gliclass_fast.gliznet import GliZNETTokenizer
from tests.adapters import adapted
from tests.tiny import QWEN3, backbone_config, byte_tokenizer, reference_model

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
REPOSITORY = re.compile(r'"(knowledgator|alexneakameni)/[\w.-]+"')


def snippets(page: Path) -> list[tuple[str, str | None]]:
    """Every block of Python of a page, and what it prints where the page says so."""
    return [(code, printed or None) for code, printed in BLOCK.findall(page.read_text(encoding="utf-8"))]


def save_gliznet(folder: Path) -> None:
    """A tiny random GliZNet checkpoint."""
    tokenizer = GliZNETTokenizer(byte_tokenizer.__wrapped__(lab=True))
    config = backbone_config("bert", {"vocab_size": len(tokenizer)})
    model = GliZNet(config, tokenizer.lab_token_id, Options())
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config_json()), encoding="utf-8")
    tokenizer.save_pretrained(folder)


def save_decoder_kv(folder: Path) -> None:
    """A tiny random checkpoint that reads from left to right."""
    reference_model("qwen3", QWEN3, architecture_type="decoder-kv").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def save_adapters(folder: Path) -> None:
    """Two random adapters of the demo checkpoint."""
    model = gliclass.GLiClassModel.from_pretrained(demo.PATH)
    for seed, name in enumerate(("legal", "medical")):
        adapted(model, folder / name, seed)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)], ids=lambda page: page.stem)
def test_the_snippets_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_gliznet(tmp_path / "gliznet")
    save_decoder_kv(tmp_path / "a-decoder-kv-model")
    if page.stem == "adapters":
        save_adapters(tmp_path / "adapters")
    folders = {"knowledgator": demo.PATH, "alexneakameni": tmp_path / "gliznet"}
    names: dict[str, object] = {}
    for code, expected in snippets(page):
        code = REPOSITORY.sub(lambda found: repr(str(folders[found[1]])), code)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(page), "exec"), names)
        if expected is not None:
            assert printed.getvalue() == expected, code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_command_has_every_option_the_pages_name() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    known = {option for each in commands.values() for item in each.params for option in item.opts}
    for page in [
        ROOT / "README.md",
        *(ROOT / "docs" / f"{name}.md" for name in ("command-line", "benchmarks", "batch")),
    ]:
        text = page.read_text(encoding="utf-8")
        lines = re.findall(r"gliclass-fast (classify|batch|serve|info|check|bench)\b([^\n`#|]*)", text)
        for command, arguments in lines:
            own = {option for item in commands[command].params for option in item.opts} | {"--help"}
            assert set(re.findall(r"--[a-z-]+", arguments)) <= own, f"{page.name}: {command}{arguments}"
    table = re.findall(r"^\| `(--[a-z-]+)", (ROOT / "docs" / "command-line.md").read_text(), re.MULTILINE)
    assert len(table) > 10 and set(table) <= known


@pytest.mark.parametrize(
    ("command", "page", "heading"),
    [
        ("classify", "command-line", "classify"), ("info", "command-line", "info"),
        ("check", "command-line", "check"), ("bench", "benchmarks", "Measure it yourself"),
        ("batch", "batch", "Options"),
    ],
)  # fmt: skip
def test_a_table_has_every_option_of_a_command(command: str, page: str, heading: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text.split(f"\n## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    listed = re.findall(r"--[a-z-]+", " ".join(re.findall(r"^\| (`-.*?) \|", section, re.MULTILINE)))
    params = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    names = {name for each in params for name in (*each.opts, *each.secondary_opts) if name[:2] == "--"}
    assert set(listed) == names


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_page_is_in_the_navigation() -> None:
    """mkdocs warns of it too, where it is installed."""
    listed = set(re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE))
    assert listed == {
        str(page.relative_to(ROOT / "docs")) for page in PAGES if (ROOT / "docs") in page.parents
    }
