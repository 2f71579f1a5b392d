"""The README's figures are those of the committed results."""

from bench.report import README, rendered


def test_the_readme_matches_the_results() -> None:
    readme = README.read_text(encoding="utf-8")
    assert rendered(readme) == readme
