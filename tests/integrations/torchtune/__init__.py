import pytest

pytest.register_assert_rewrite("tests.integrations.torchtune.both_runs")
