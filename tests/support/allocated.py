"""The bytes that a call's tensors take at their peak, counted by PyTorch's own profiler: the same in every run.

A process's resident memory also holds what the allocator keeps and has not given back, so it differs from run to run.
What earlier work left in cycles is freed first, or it would be counted off when it is freed within the call.
"""

import gc
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object]) -> int:
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
