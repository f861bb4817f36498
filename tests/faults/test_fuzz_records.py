from tests.faults import fuzz_records


def test_no_record_ends_but_by_being_read_or_by_a_sentence_with_its_line():
    counts = fuzz_records.main(1500, seed=1)
    assert min(counts["read"], counts["refused"]) > 200
