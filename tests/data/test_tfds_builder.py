import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from icegrt_jax.data.records import Prompt, Text, user
from icegrt_jax.data.sources import load_source
from icegrt_jax.data.tfds_builder import build_dataset
from icegrt_jax.errors import UserError

PROMPTS = [Prompt(user(f"Question {i}\u2028é?"), f"{i}", {"task": "sums", "choices": ["1", "2"]}) for i in range(20)]

ROUND_TRIP = """
import sys
from icegrt_jax.data.records import Text
from icegrt_jax.data.sources import load_source
from icegrt_jax.data.tfds_builder import build_dataset
build_dataset({"train": [Text("a")]}, "small", sys.argv[1])
assert load_source("tfds:small", kind=Text, data_dir=sys.argv[1]) == [Text("a")]
assert "tensorflow" not in sys.modules and "torch" not in sys.modules
"""


def test_records_come_back_whole_and_in_order(tmp_path):
    folder = build_dataset({"train": PROMPTS, "validation": PROMPTS[:3]}, "sums", str(tmp_path))
    assert list(folder.glob("*.array_record*"))
    assert load_source("tfds:sums", kind=Prompt, data_dir=str(tmp_path)) == PROMPTS
    assert load_source(f"tfds:sums@{tmp_path}#validation", kind=Prompt) == PROMPTS[:3]
    assert load_source("tfds:sums#train[5:7]", kind=Prompt, data_dir=str(tmp_path)) == PROMPTS[5:7]


def test_columns_of_a_foreign_data_set_become_fields(tmp_path):
    class Foreign(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        name = "foreign"
        __module__ = "elsewhere"

        def _info(self):
            text = tfds.features.Text()
            features = tfds.features.FeaturesDict({"prompt": text, "reference": text, "source": text})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield "a", {"prompt": "2 + 2?", "reference": "4", "source": "a book"}

    Foreign(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    assert load_source("tfds:foreign", kind=Prompt, data_dir=str(tmp_path)) == [Prompt(user("2 + 2?"), "4")]
    with pytest.raises(UserError, match="example 0: field 'text' is missing"):
        load_source("tfds:foreign", kind=Text, data_dir=str(tmp_path))


def test_tensorflow_is_never_imported(tmp_path):
    result = subprocess.run([sys.executable, "-c", ROUND_TRIP, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_bad_requests_say_what_to_do(tmp_path):
    build_dataset({"train": PROMPTS}, "sums", str(tmp_path))
    for splits, name, problem in [
        ({"train": PROMPTS}, "sums", "is there already"),
        ({"train": PROMPTS}, "My-Sums", "small letters"),
        ({"train": []}, "none", "split 'train' has no records"),
        ({}, "none", "split 'train' has no records"),
    ]:
        with pytest.raises(UserError, match=problem):
            build_dataset(splits, name, str(tmp_path))
    with pytest.raises(UserError, match="'test'"):
        load_source("tfds:sums#test", kind=Prompt, data_dir=str(tmp_path))
