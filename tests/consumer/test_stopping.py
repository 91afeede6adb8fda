"""inlet.consumer.stopping: waits that a stop ends, and signal handlers that are put back."""

from __future__ import annotations

import os
import signal
import threading

from inlet.consumer.stopping import WAIT_SLICE_SECONDS, StopFlag, pauses, stopping_on


def test_a_signal_stops_once_and_its_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    flag = StopFlag()
    with stopping_on(flag.stop, [signal.SIGUSR1]):
        os.kill(os.getpid(), signal.SIGUSR1)
        flag.sleep(1e9)
    assert flag.stopped
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_second_signal_has_its_former_effect() -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: caught.append(number))
    try:
        stops: list[None] = []
        with stopping_on(lambda: stops.append(None), [signal.SIGUSR1]):
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGUSR1)
        assert (len(stops), caught) == (1, [signal.SIGUSR1] * 2)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_outside_the_main_thread_no_handler_is_set() -> None:
    seen: list[object] = []

    def look() -> None:
        with stopping_on(lambda: None, [signal.SIGUSR1]):
            seen.append(signal.getsignal(signal.SIGUSR1))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGUSR1)]


def test_pauses_are_short_and_end_at_once_where_stopped() -> None:
    assert list(pauses(1e9, lambda: True)) == []
    assert list(pauses(0, lambda: False)) == []
    assert 0 < next(pauses(1e9, lambda: False)) <= WAIT_SLICE_SECONDS
