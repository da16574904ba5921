"""The same tiny corpus and runs as in tests/train."""

from tests.train.conftest import cache, corpus, make_spec, use_cache

__all__ = ["cache", "corpus", "make_spec", "use_cache"]
