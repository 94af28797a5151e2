"""When late records are worth a line, and that each of them is told of."""

import math
import re

from hypothesis import given
from hypothesis import strategies as st

from beam_k8s.lateness import LateRecords


def told(line):
    return {step: int(count.replace(",", "")) for count, step in re.findall(r"([\d,]+) at (\w+)", line)}


def test_the_first_late_record_is_told_at_once_and_the_next_ones_together_after_a_pause():
    late = LateRecords(pause=60)
    assert not late.line(0, {"Count": 0})
    assert told(late.line(5, {"Count": 1200})) == {"Count": 1200}
    assert not late.line(10, {"Count": 1201})
    assert not late.line(15, {"Count": 1202, "Sum": 7})
    assert told(late.line(65, {"Count": 1203, "Sum": 7})) == {"Count": 3, "Sum": 7}
    assert not late.line(500, {"Count": 1203, "Sum": 7})


def test_the_way_out_is_named():
    line = LateRecords().line(0, {"Count": 3})
    assert "max_out_of_orderness" in line
    assert "allowed_lateness" in line


def test_a_counter_that_began_anew_with_the_job_counts_from_zero():
    late = LateRecords(pause=0)
    late.line(0, {"Count": 100})
    assert not late.line(1, {})
    assert told(late.line(2, {"Count": 4})) == {"Count": 4}


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 50)), max_size=30), st.floats(0, 200))
def test_every_late_record_is_told_once(steps, pause):
    late, at, count, sum_told = LateRecords(pause=pause), 0.0, 0, 0
    for seconds, more in steps:
        at, count = at + seconds, count + more
        sum_told += told(late.line(at, {"Count": count})).get("Count", 0)
    sum_told += told(late.line(math.inf, {"Count": count})).get("Count", 0)
    assert sum_told == count
