"""Which points of a replica are not those of the W&B run."""

from __future__ import annotations

from mlflow_wandb_plugin.targets.mlflow.comparison.points import without_shifted_steps


def test_a_second_more_or_less_is_no_difference_where_the_start_is_not_known() -> None:
    """The same time and value, one step apart; not two steps, another value, or one side alone."""
    missing = [(4, 1000, 0.5), (4, 1000, 0.7), (9, 9000, 1.5), (1, 50, 2.0)]
    extra = [(5, 1000, 0.5), (3, 1000, 0.7), (11, 9000, 1.5), (1, 60, 2.0)]
    assert without_shifted_steps(missing, extra) == (missing[2:], extra[2:])
