"""The marker, run in a pytest of its own."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]


def test_marked_tests_run_on_virtual_time(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import asyncio
        import pytest
        from hypothesis import given, settings, strategies as st

        @pytest.fixture
        def seconds():
            return 3599

        @pytest.mark.virtual(limit=3600, start=10)
        async def test_hour(seconds):
            await asyncio.sleep(seconds)
            assert asyncio.get_running_loop().time() == 3609

        @pytest.mark.virtual(limit=5)
        async def test_too_long():
            await asyncio.sleep(6)

        @pytest.mark.virtual
        @settings(max_examples=5)
        @given(st.integers(1, 9))
        async def test_given(n):
            await asyncio.sleep(n)
            assert asyncio.get_running_loop().time() == n

        @pytest.mark.virtual
        class TestGroup:
            async def test_method(self):
                await asyncio.sleep(1)

            def test_sync(self):
                pass
        """
    )
    result = pytester.runpytest_subprocess("-p", "duologue.testing.pytest_plugin", "--strict-markers")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*VirtualLimitError*5.000 s*"])


def test_a_misspelt_option_is_refused_at_collection(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.virtual(limt=5)
        async def test_it():
            pass
        """
    )
    result = pytester.runpytest_subprocess("-p", "duologue.testing.pytest_plugin", "--collect-only")
    assert result.ret != 0
    result.stderr.fnmatch_lines(["*no option 'limt'*Did you mean 'limit'*"])
