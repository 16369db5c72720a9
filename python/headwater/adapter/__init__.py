"""The names and behaviour that trainers of an older, pure-Python loader were written against, over this one's core.

Methods that are coroutines have a blocking form whose name ends in ``_sync``, for use with or without a running event loop.
"""

from headwater.adapter.cache import CacheMetrics, SmartLRUCache
from headwater.adapter.prefetcher import AsyncPrefetcher, PrefetchMetrics

__all__ = [
    "AsyncPrefetcher",
    "CacheMetrics",
    "PrefetchMetrics",
    "SmartLRUCache",
]
