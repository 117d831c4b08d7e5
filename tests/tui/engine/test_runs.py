"""Budgets as a person writes them."""

from emcfsys_tui.engine.runs import budget_of


def test_budgets_are_steps_or_minutes() -> None:
    assert budget_of("2,000") == "training.steps=2000"
    assert budget_of(" 30 min ") == "training.minutes=30"
    assert budget_of("0.5min") == "training.minutes=0.5"
