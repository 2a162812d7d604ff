"""The first signal asks, the second insists, and afterwards signals are what they were."""

import signal
import threading

import pytest

from histocli.base.errors import Stopped
from histocli.base.interrupts import graceful_signals, raise_if_stopped, stop_requested


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_insists(number):
    # raise_signal, not os.kill: the system may give a signal for the process to another thread, and
    # then the handler runs a little later, perhaps after the test.
    before = signal.getsignal(number)
    with graceful_signals():
        assert not stop_requested()
        raise_if_stopped("nothing happens")
        signal.raise_signal(number)
        assert stop_requested()
        with pytest.raises(Stopped, match="saved") as stopped:
            raise_if_stopped("all is saved")
        assert stopped.value.exit_code == 75
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before
    assert not stop_requested()


def test_handlers_return_even_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), graceful_signals():
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_leave_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with graceful_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
