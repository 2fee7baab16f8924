"""Signals: noted once, obeyed at once the second time, left alone where they are ignored or cannot come."""

import os
import signal
import threading

import pytest

from spp.training.checkpoints import HANGUP, SIGNALS, Interrupted, deferred


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_is_noted_and_the_second_raises(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), deferred() as asked:
        assert asked.number is None
        os.kill(os.getpid(), number)
        assert asked.number == number
        if number == HANGUP:  # of a closed terminal both the system and the shell tell
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM if number == HANGUP else number)
    assert signal.getsignal(number) is before


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred() as asked:
            os.kill(os.getpid(), signal.SIGINT)
        assert asked.number is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_change_nothing():
    found = []

    def work():
        with deferred() as asked:
            found.append((asked.number, signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(None, before)]


def test_an_interruption_is_a_keyboard_interrupt_with_its_signal():
    error = Interrupted(signal.SIGTERM)
    assert isinstance(error, KeyboardInterrupt)
    assert (error.number, str(error)) == (15, "stopped by SIGTERM")
