"""Secrets that a user's code holds are found in the pipeline and in the main session."""

import apache_beam as beam
from apache_beam.internal import pickler
from hypothesis import given
from hypothesis import strategies as st

from beam_k8s.launcher.leaks import leak_errors

WORD = "hunter2-ZZZ"


def proto(function):
    pipeline = beam.Pipeline()
    pipeline | beam.Create([1]) | beam.Map(function)
    return pipeline.to_runner_api().SerializeToString()


def test_a_closure_that_holds_a_secret_is_found_and_one_that_does_not_is_not():
    password = WORD
    (error,) = leak_errors({"db_password": WORD, "topic": "words"}, [proto(lambda _: password)])
    assert "--db_password" in error.message
    assert WORD not in str(error)
    assert leak_errors({"db_password": WORD}, [proto(lambda x: x)]) == []


def test_only_what_is_named_like_a_secret_is_one():
    assert leak_errors({"topic": WORD, "api_key": "abc", "token": None}, [WORD.encode()]) == []
    assert len(leak_errors({"api_key": WORD}, [WORD.encode()])) == 1


@given(st.binary(max_size=50), st.binary(max_size=50), st.text(min_size=0, max_size=40))
def test_a_pickle_is_read_whatever_stands_around_it(before, after, padding):
    blob = before + pickler.dumps({padding: WORD}) + after
    assert len(leak_errors({"secret": WORD}, [blob])) == 1
