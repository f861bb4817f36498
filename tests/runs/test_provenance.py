"""What a stage has read is compared when it goes on."""

import pytest

from icegrt_jax import files
from icegrt_jax.data import token_build
from icegrt_jax.data.records import Text
from icegrt_jax.data.tokenizers import train_bpe
from icegrt_jax.errors import UserError
from icegrt_jax.runs import provenance
from icegrt_jax.runs.stage import Reading

TEXTS = [Text(f"the cat sat on mat {i}") for i in range(20)]


def test_a_token_store_of_as_many_other_records_stops_a_stage_in_the_middle_and_the_same_built_anew_does_not(tmp_path):
    tokenizer = train_bpe([text.text for text in TEXTS], 280, tmp_path / "tokenizer")
    store, stage = tmp_path / "store", tmp_path / "run" / "pretrain"

    def built(records):
        if store.exists():
            store.rename(tmp_path / f"before{len(list(tmp_path.iterdir()))}")
        token_build.write(store, records, Text, tokenizer)

    built(TEXTS)
    reading = Reading("pretrain.sources.a", f"tokens:{store}", Text, lambda records: (records, {}), "tokens")
    recorded = provenance.record([reading], "", tmp_path / "run")
    (stage / "checkpoints" / "10").mkdir(parents=True)
    files.write_json_atomic(stage / "data.json", {provenance.NAME: recorded})
    check = lambda: provenance.check(tmp_path / "run", "", ["pretrain"])
    built(TEXTS)
    assert check() == []
    built(TEXTS[::-1])
    with pytest.raises(UserError, match=f"pretrain.sources.a='tokens:{store}' holds other data than {stage} has begun"):
        check()
    files.write_json_atomic(stage / "done.json", {"data": recorded})
    assert "pretrain has finished with other data than pretrain.sources.a has now" in check()[0]
