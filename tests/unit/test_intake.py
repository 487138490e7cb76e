"""What is claimed, counted and given a path while sound is added; the whole way is in tests/integration."""

import threading

from earmark_client.ingest import Claims


def test_a_content_is_taken_once_whoever_asks():
    claims = Claims([], {})
    taken = []
    lanes = [threading.Thread(target=lambda: taken.append(claims.take("a"))) for _ in range(8)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    assert sorted(taken, key=str) == [0.0] + [None] * 7


def test_stored_content_is_not_taken():
    assert Claims(["a"], {}).take("a") is None


def test_interrupted_content_goes_on_where_it_was():
    assert Claims([], {"a": 12.5}).take("a") == 12.5
