"""Reading label files: MEDS folders however they are cut, single files, EHRSHOT's; and what is refused."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path

import polars as pl
import pytest

from ehrjax.core.errors import InputError
from ehrjax.ingest.labels import making
from ehrjax.ingest.labels.ehrshot import CHEXPERT
from ehrjax.ingest.labels.reading import read_labels
from ehrjax.ingest.labels.settings import choose
from tests.ingest.labels.histories import frame, stay
from tests.ingest.labels.test_making import write

T = [datetime.datetime(1969, 1, 1), datetime.datetime(2020, 2, 3, 4, 5, 6, 789000), datetime.datetime(2021, 1, 1)]


def meds_labels(subjects: list[int], values: list, column: str = "boolean_value", **more: list) -> pl.DataFrame:
    times = pl.Series([T[i % 3] for i in range(len(subjects))], dtype=pl.Datetime("us"))
    types = {"boolean_value": pl.Boolean, "integer_value": pl.Int64, "float_value": pl.Float32}
    return pl.DataFrame(
        {
            "subject_id": pl.Series(subjects, dtype=pl.Int64),
            "prediction_time": times,
            column: pl.Series(values, dtype=types.get(column, pl.String)),
            **more,
        }
    )


def put(part: pl.DataFrame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part.write_csv(path) if path.suffix == ".csv" else part.write_parquet(path)
    return path


def test_a_nested_meds_folder_with_empty_files(tmp_path: Path) -> None:
    put(meds_labels([7, 3], [True, False]), tmp_path / "task" / "held_out" / "a" / "0.parquet")
    put(meds_labels([], []), tmp_path / "task" / "train" / "0.parquet")
    put(meds_labels([5, 2, 2], [False, True, True]), tmp_path / "task" / "elsewhere" / "1.parquet")
    labels = read_labels(tmp_path / "task")
    assert (labels.name, labels.value, labels.info) == ("task", "boolean_value", {})
    assert labels.frame["subject_id"].to_list() == [2, 2, 3, 5, 7]
    assert labels.frame["split"].to_list() == [None, None, "held_out", None, "held_out"]
    assert labels.frame["boolean_value"].to_list() == [True, True, False, False, True]
    assert labels.frame["prediction_time"][3] == T[0]
    assert labels.frame.schema["prediction_time"] == pl.Datetime("us")


@pytest.mark.parametrize("column", ["boolean_value", "integer_value", "float_value", "categorical_value"])
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_every_kind_in_a_single_file_with_columns_null_throughout(column: str, suffix: str, tmp_path: Path) -> None:
    values = {"boolean_value": [True, False], "integer_value": [3, -1], "float_value": [0.5, 1e-9]}
    given = values.get(column, ["stage 1", "stage 2"])
    part = meds_labels([1, 2], given, column)
    others = {
        "boolean_value": pl.Boolean,
        "integer_value": pl.Int64,
        "float_value": pl.Float64,
        "categorical_value": pl.String,
    }
    # MEDS 0.3.3 wrote all value columns, three of them null.
    part = part.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in others.items() if name != column)
    part = part.select(sorted(part.columns, reverse=True))
    labels = read_labels(put(part, tmp_path / f"labels.{suffix}"))
    assert labels.value == column
    assert labels.frame.columns == ["subject_id", "prediction_time", "split", column]
    assert labels.frame[column].to_list() == pytest.approx(given) if column == "float_value" else given
    assert labels.frame["prediction_time"].to_list() == T[:2]


def test_other_types_that_mean_the_same(tmp_path: Path) -> None:
    part = meds_labels([1, 2], [1, 0], "integer_value").rename({"integer_value": "boolean_value"})
    part = part.cast({"subject_id": pl.Int32, "prediction_time": pl.Datetime("ns")})
    labels = read_labels(put(part, tmp_path / "labels.parquet"))
    assert labels.frame["boolean_value"].to_list() == [True, False]
    assert labels.frame.schema["subject_id"] == pl.Int64 and labels.frame["prediction_time"].to_list() == T[:2]


def ehrshot(kind: str, values: list[str], **more: list[str]) -> pl.DataFrame:
    times = ["2019-07-23T18:00:00", "2011-01-01 23:59:00", "1969-05-06T07:08"][: len(values)]
    ids = ["30", "20", "10"][: len(values)]
    columns = {"value": values, "label_type": [kind] * len(values), "prediction_time": times, "patient_id": ids, **more}
    return pl.DataFrame(columns)


def test_ehrshot_by_name_of_column(tmp_path: Path) -> None:
    part = ehrshot("boolean", ["True", "False", "True"])
    for number, order in enumerate((part.columns, part.columns[::-1])):
        path = put(part.select(order), tmp_path / f"guo_los{number}" / "labeled_patients.csv")
        for given in (path, path.parent):
            labels = read_labels(given)
            assert labels.frame["subject_id"].to_list() == [10, 20, 30]
            assert labels.frame["boolean_value"].to_list() == [True, False, True]
            assert labels.frame["prediction_time"].to_list() == [
                datetime.datetime(1969, 5, 6, 7, 8),
                datetime.datetime(2011, 1, 1, 23, 59),
                datetime.datetime(2019, 7, 23, 18),
            ]
    assert read_labels(tmp_path / "guo_los0").name == "guo_los0"


def test_ehrshot_labs_survival_numbers_and_chexpert(tmp_path: Path) -> None:
    labs = put(ehrshot("categorical", ["0", "3", "1"]), tmp_path / "lab" / "labeled_patients.csv")
    assert read_labels(labs).frame["integer_value"].to_list() == [1, 3, 0]
    binary = read_labels(labs, decode="at_least_one")
    assert binary.value == "boolean_value" and binary.frame["boolean_value"].to_list() == [True, True, False]

    times = put(ehrshot("survival", ["1440", "720", "0"], is_censored=["True", "False", "False"]), tmp_path / "tte.csv")
    labels = read_labels(times)
    assert labels.frame["event_time_days"].to_list() == [0.0, 0.5, 1.0]
    assert labels.frame["censored"].to_list() == [False, False, True]
    assert labels.frame["boolean_value"].to_list() == [True, True, False]

    numbers = put(ehrshot("numeric", ["1.5", "-2", "1e3"]), tmp_path / "numbers.csv")
    assert read_labels(numbers).frame["float_value"].to_list() == [1000.0, -2.0, 1.5]

    # Index 0 of the zero-padded binary text is the first finding.
    bits = ["10000000000001", "00000000000000", "01100000000000"]
    chexpert = put(ehrshot("categorical", [str(int(b, 2)) for b in bits]), tmp_path / "chexpert.csv")
    labels = read_labels(chexpert, decode="chexpert")
    expected = [[name for name, bit in zip(CHEXPERT, text) if bit == "1"] for text in reversed(bits)]
    assert labels.frame["label_codes"].to_list() == expected
    assert expected[2] == ["No Finding", "Support Devices"]
    # The MEDS release holds the same numbers in integer_value.
    meds_release = put(meds_labels([1], [int(bits[0], 2)], "integer_value"), tmp_path / "x" / "labels.parquet")
    assert read_labels(meds_release, decode="chexpert").frame["label_codes"].to_list() == [expected[2]]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    rows = [r for s in range(40) for r in (*stay(s, 0, 50), *stay(s, 100, 200), *stay(s, 300, 500, died=s % 3 == 0))]
    write(tmp_path / "meds", frame(rows), 2)
    for task in ("time_to_event", "readmission_30d"):
        making.make(tmp_path / "meds", tmp_path / "labels", choose(task))
    return tmp_path / "labels"


def test_our_own_folders_with_their_extension(own: Path) -> None:
    labels = read_labels(own / "time_to_event")
    assert labels.info["task"] == "time_to_event"
    assert {"event_time_days", "censored", "censored_by_death"} < set(labels.frame.columns)
    assert set(labels.frame["split"].unique()) == {"train", "tuning", "held_out"}
    row_of = labels.frame.filter(pl.col("subject_id") == 0)
    assert row_of["event_time_days"].to_list() == [450 / 24, 300 / 24]
    assert row_of["boolean_value"].to_list() == [True, True]
    alive = labels.frame.filter(pl.col("subject_id") == 1)
    assert alive["censored"].to_list() == [True, True]


def test_the_folder_of_a_single_task_need_not_be_named(tmp_path: Path, own: Path) -> None:
    shutil.copytree(own / "time_to_event", tmp_path / "single" / "time_to_event")
    outer, inner = read_labels(tmp_path / "single"), read_labels(own / "time_to_event")
    assert outer.name == inner.name == "time_to_event" and outer.frame.equals(inner.frame)


def test_an_extension_of_other_labels_is_refused(own: Path) -> None:
    folder = own / "time_to_event" / "extension" / "train"
    for name, message in (("swap", "does not belong"), ("cut", "Arrow file"), ("gone", "is missing")):
        path = sorted(folder.glob("*.arrow"))[0]
        before = path.read_bytes()
        if name == "swap":
            path.write_bytes(next((folder.parent / "tuning").glob("*.arrow")).read_bytes())
        elif name == "cut":
            path.write_bytes(before[:100])
        else:
            path.unlink()
        with pytest.raises(InputError, match=message):
            read_labels(own / "time_to_event")
        path.write_bytes(before)
    with pytest.raises(InputError, match="several tasks"):
        read_labels(own)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("subject_id,prediction_time,boolean_value\n", "holds no labels"),
        ("subject_id,boolean_value\n1,True\n", "no column 'prediction_time'"),
        ("prediction_time,boolean_value\n2020-01-01,True\n", "no column 'subject_id'"),
        ("subject_id,prediction_time\n1,2020-01-01\n", "no value column"),
        ("subject_id,prediction_time,boolean_value\n1,2020-01-01,maybe\n", "1 values in 'boolean_value'"),
        ("subject_id,prediction_time,boolean_value\n1,01/02/2020,True\n", "2019-07-23"),
        ("subject_id,prediction_time,boolean_value\nx,2020-01-01,True\n", "subject_id"),
        ("subject_id,prediction_time,boolean_value\n,2020-01-01,True\n", "without subject_id"),
        ("subject_id,prediction_time,boolean_value\n1,,True\n", "without prediction_time"),
        ("subject_id,prediction_time,boolean_value\n1,2020-01-01,True\n2,2020-01-01,\n", "1 labels without a value"),
        (
            "subject_id,prediction_time,boolean_value,float_value\n1,2020-01-01,True,1\n",
            "boolean_value and in float_value",
        ),
        ("subject_id,prediction_time,integer_value\n1,2020-01-01,1.5\n", "integer_value"),
        ("subject_id,prediction_time,float_value\n1,2020-01-01,1\n2,2020-01-01,nan\n", "subject 2 at"),
        (
            "subject_id,prediction_time,boolean_value,event_time_days,censored\n1,2020-01-01,True,inf,False\n",
            "event_time_days is not a finite number",
        ),
        (
            "subject_id,prediction_time,boolean_value,event_time_days,censored\n1,2020-01-01,True,-3,False\n",
            "event_time_days below 0",
        ),
        (
            "subject_id,prediction_time,boolean_value,event_time_days,censored\n1,2020-01-01,True,3,perhaps\n",
            "1 values in 'censored'",
        ),
        ("subject_id,prediction_time,boolean_value,event_time_days\n1,2020-01-01,True,3\n", "no column 'censored'"),
        (
            "patient_id,prediction_time,label_type,value\n1,2020-01-01,boolean,True\n2,2020-01-01,numeric,3\n",
            "label types",
        ),
        ("patient_id,prediction_time,label_type,value\n1,2020-01-01,boolean,Maybe\n", "1 values that are not boolean"),
        ("patient_id,prediction_time,label_type,value\n1,2020-01-01,survival,3\n", "is_censored"),
        ("patient_id,prediction_time,label_type,value\n1,2020-01-01,categorical,0.5\n", "not whole"),
        ("who,prediction_time,label_type,value\n1,2020-01-01,boolean,True\n", "patient_id"),
    ],
)
def test_csv_that_cannot_be_labels(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_labels(path)
    assert message in str(error.value) and str(tmp_path) in str(error.value)


def test_times_in_a_table_of_text(tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    path.write_text(
        "subject_id,prediction_time,boolean_value,event_time_days,censored\n1,2020-01-01,True,3.5,False\n"
        "2,2020-01-01,False,90,True\n"
    )
    found = read_labels(path).frame
    assert found["event_time_days"].to_list() == [3.5, 90.0] and found["censored"].to_list() == [False, True]


def test_parquet_that_cannot_be_labels(tmp_path: Path) -> None:
    good = meds_labels([1, 2], [True, False])
    zoned = good.with_columns(pl.col("prediction_time").dt.replace_time_zone("UTC"))
    bad = good.with_columns(pl.Series("boolean_value", [2, 0]))
    for name, part, message in (
        ("zoned", zoned, "time zone"),
        ("numbers", bad, "other numbers than 0 and 1"),
        ("nulls", good.with_columns(pl.Series("boolean_value", [True, None])), "1 labels without a value"),
        ("other", good.rename({"boolean_value": "label"}), "no value column"),
    ):
        with pytest.raises(InputError, match=message):
            read_labels(put(part, tmp_path / name / "0.parquet"))
    path = put(good, tmp_path / "cut" / "0.parquet")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="cannot be read as parquet"):
        read_labels(path.parent)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="holds no labels"):
        read_labels(tmp_path / "nothing")
    with pytest.raises(InputError, match="do not exist"):
        read_labels(tmp_path / "nowhere")
    path = put(good, tmp_path / "good.parquet")
    with pytest.raises(InputError, match="decode is 'bits'"):
        read_labels(path, decode="bits")
    with pytest.raises(InputError, match="no whole numbers"):
        read_labels(path, decode="chexpert")
    with pytest.raises(InputError, match="no set of the 14"):
        read_labels(put(meds_labels([1], [16384], "integer_value"), tmp_path / "big.parquet"), decode="chexpert")
    mixed = put(good, tmp_path / "mixed" / "0.parquet").parent
    put(meds_labels([3], [0.5], "float_value"), mixed / "1.parquet")
    with pytest.raises(InputError, match="boolean_value and in float_value"):
        read_labels(mixed)
