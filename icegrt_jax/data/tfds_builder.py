"""Records as a TensorFlow Datasets data set in ArrayRecord files, TensorFlow itself never imported.

Each record is one example with one text feature, `record`: its JSON form. The
order of the records is kept.
"""

import json
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence

import tensorflow_datasets as tfds

from icegrt_jax.data.fields import parse_json
from icegrt_jax.data.records import Record
from icegrt_jax.errors import UserError

VERSION = "1.0.0"


class RecordsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # of a class that is not read
    """A builder over records already in memory; `build_dataset` gives each data set a subclass with its name."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, splits: Mapping[str, Sequence[Record]], **kwargs):
        self._records = splits
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"record": tfds.features.Text()})
        # disable_shuffling keeps the order the records came in.
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        return {split: self._generate_examples(records) for split, records in self._records.items()}

    def _generate_examples(self, records: Sequence[Record]) -> Iterator[tuple[int, dict[str, str]]]:
        for index, record in enumerate(records):
            yield index, {"record": json.dumps(record.to_json(), ensure_ascii=False)}


def build_dataset(splits: Mapping[str, Sequence[Record]], name: str, data_dir: str) -> pathlib.Path:
    """Writes {split: records} as the TFDS data set DATA_DIR/NAME and returns its folder."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"TFDS name {name!r}: use small letters, digits and underscores, a letter first.")
    empty = [split for split, records in splits.items() if not records]
    if empty or not splits:
        raise UserError(
            f"TFDS data set {name!r}: split {(empty or ['train'])[0]!r} has no records; nothing was written."
        )
    folder = pathlib.Path(data_dir).expanduser() / name / VERSION
    if folder.exists():
        raise UserError(f"{folder} is there already and is written whole; remove it or choose another name.")
    for left in folder.parent.glob(f"incomplete.*_{VERSION}"):  # what a killed build wrote; TFDS renames it at its end
        shutil.rmtree(left, ignore_errors=True)
    # TFDS looks for files beside a builder's module, through a package that TFDS itself doesn't install
    # (importlib_resources), unless the module has no file.
    attributes = {"name": name, "__module__": f"{name}_records"}
    subclass = type(name, (RecordsBuilder,), attributes, skip_registration=True)
    tfds.disable_progress_bar()
    subclass(splits, data_dir=str(folder.parent.parent), file_format="array_record").download_and_prepare()
    return folder


def read_dataset(name: str, data_dir: str | None, split: str) -> Iterator[dict]:
    """The examples of a split as plain Python values; for data sets built here, the record's JSON object.

    Args:
      name: any TFDS name ("my_records", "name/config:version") prepared in ArrayRecord form.
      data_dir: the folder it lies in; None is TFDS's own default.
      split: such as "train" or "train[:100]".
    """
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        source = builder.as_data_source(split)
    except Exception as e:  # TFDS raises its own types, plain ValueErrors and AssertionErrors here.
        first_line = str(e).strip().partition("\n")[0]
        raise UserError(
            f"tfds:{name}: split {split!r} cannot be read in {data_dir or 'the default folder'}: {first_line}"
            " Build it with `icegrt data build`, or prepare it with file_format='array_record'."
        ) from e
    return (_example(example, f"tfds:{name}, split {split!r}, example {i}") for i, example in enumerate(source))


def folder_of(name: str, data_dir: str | None) -> pathlib.Path:
    """Where a data set that has been prepared lies."""
    try:
        return pathlib.Path(tfds.builder(name, data_dir=data_dir).data_dir)
    except Exception as e:  # as above
        raise UserError(f"tfds:{name}: not found in {data_dir or 'the default folder'}: {e}") from e


def _example(raw: Mapping, where: str) -> dict:
    try:
        example = _plain(raw)
    except UnicodeDecodeError as e:
        raise UserError(f"{where}: not UTF-8 ({e.reason} at byte {e.start}); prepare it from whole characters.") from e
    return parse_json(example["record"], f"{where}: field 'record'") if set(example) == {"record"} else example


def _plain(value):
    """Bytes decoded, arrays made lists, all the way down."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
