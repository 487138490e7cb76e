"""The log can't hold what is private, whoever writes to it and with what."""

import io
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earmark_shared.log import LOGGER, NUMBERS, Event, EventFormatter, log_event, start_log

SECRET = "/home/ada/therapy session.wav"


@pytest.fixture
def stream():
    stream = io.StringIO()
    start_log(stream)
    yield stream
    start_log(io.StringIO())


def test_an_event_and_its_numbers_are_one_line(stream):
    log_event(Event.ADD_DONE, files=12, seconds=3.25)
    assert stream.getvalue() == "earmark add.done files=12 seconds=3.25\n"


def test_a_text_sent_to_our_logger_is_not_written(stream):
    logging.getLogger(LOGGER).error("failed on %s", SECRET)
    logging.getLogger(LOGGER).error(SECRET)
    assert stream.getvalue() == "earmark unlisted\nearmark unlisted\n"


def test_a_traceback_is_not_written(stream):
    try:
        Path(SECRET).read_bytes()
    except OSError:
        logging.getLogger(LOGGER).exception(SECRET, stack_info=True, extra={"path": SECRET, "numbers": {"files": SECRET}})
    assert stream.getvalue() == "earmark unlisted\n"


@pytest.mark.parametrize("value", [SECRET, [0.1, 0.2], float("nan"), True, None, b"x", {"a": 1}, 1 + 2j])
def test_only_plain_finite_numbers_are_written(stream, value):
    log_event(Event.ADD_DONE, files=value)
    assert stream.getvalue() == "earmark add.done\n"


def test_a_number_with_an_unlisted_name_is_not_written(stream):
    log_event(Event.SEARCH_DONE, hits=2, **{SECRET: 1, "score": 0.5})
    assert stream.getvalue() == "earmark search.done hits=2\n"


def test_somebody_elses_handler_sees_no_more(stream):
    seen = []

    class Collect(logging.Handler):
        def emit(self, record):
            seen.append(repr(record.__dict__))

    collect = Collect()
    logging.getLogger(LOGGER).addHandler(collect)
    logging.getLogger(LOGGER).warning("about %s", SECRET, extra={"query": SECRET})
    logging.getLogger(LOGGER).removeHandler(collect)
    assert len(seen) == 1
    assert "therapy" not in seen[0]


def test_a_plain_handler_would_have_written_it():
    """Positive control: without the filter and the formatter the secret does come out."""
    stream = io.StringIO()
    plain = logging.getLogger("a plain one")
    plain.addHandler(logging.StreamHandler(stream))
    plain.error("failed on %s", SECRET)
    assert SECRET in stream.getvalue()


@given(message=st.text(), name=st.text(min_size=1), value=st.one_of(st.text(), st.floats(), st.integers(), st.lists(st.floats())))
def test_whatever_is_logged_the_line_is_made_of_listed_words_and_numbers(message, name, value):
    record = logging.makeLogRecord({"msg": message, "args": (value,), "numbers": {name: value}, "exc_text": message})
    event, *numbers = EventFormatter().format(record).removeprefix("earmark ").split(" ")
    assert event in set(Event)
    assert all(part.split("=")[0] in NUMBERS and float(part.split("=")[1]) is not None for part in numbers)
