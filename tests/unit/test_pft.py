"""Lung function tables: what spreadsheets make of them is read; every slip is one error that says where."""

from __future__ import annotations

import io
import logging
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siccs_net.errors import DataError, MissingPathError
from siccs_net.io.pft import LungFunction, check_pft, read_pft
from siccs_net.io.table import read_table
from siccs_net.testing.phantom import PFT_COLUMNS, PhantomPatient, draw_cohort, write_dataset

CASES = ("ssc_001", "ssc_002", "ssc_003")
GOOD = "case,fev1_fvc,fev1_pp\nssc_001,81.5,72\nssc_002,78,\nssc_003,90,105.25\n"


@pytest.fixture
def table(tmp_path):
    def write(content):
        path = tmp_path / "pft.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def _refused(path, *words, cases=CASES, **settings):
    """One DataError on one line that names the file and holds these words."""
    with pytest.raises(DataError) as caught:
        read_pft(path, cases, **settings)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    for word in words:
        assert word in text, text
    return caught.value


EXPECTED = LungFunction(
    ("fev1_fvc", "fev1_pp"),
    {
        "fev1_fvc": {"ssc_001": 81.5, "ssc_002": 78.0, "ssc_003": 90.0},
        "fev1_pp": {"ssc_001": 72.0, "ssc_002": None, "ssc_003": 105.25},
    },
)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(GOOD, id="plain"),
        pytest.param(b"\xef\xbb\xbf" + GOOD.encode(), id="byte order mark"),
        pytest.param(GOOD.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(GOOD.replace(",", ";").replace(".", ","), id="European Excel"),
        pytest.param(GOOD.replace(",", ";"), id="semicolons with decimal points"),
        pytest.param(GOOD.replace(",", "\t"), id="tabs"),
        pytest.param(GOOD.replace(",", " , "), id="blanks"),
        pytest.param(GOOD.replace("case", "Case").replace("fev1_pp", "FEV1_PP"), id="capitals"),
        pytest.param(GOOD.replace("81.5", '"81,5"'), id="quoted decimal comma"),
        pytest.param(GOOD.replace("72\n", "72 %\n"), id="per cent sign"),
        pytest.param(GOOD.replace("\n", ",,\n"), id="empty columns behind"),
        pytest.param(GOOD + "\n,,\n", id="blank lines"),
        pytest.param(GOOD.removesuffix("\n"), id="no last line break"),
    ],
)
def test_reads_what_spreadsheets_write(table, content):
    assert read_pft(table(content), CASES) == EXPECTED


@pytest.mark.parametrize("text", ["", " ", "NA", "na", "N/A", "nan", "NaN", "n.a.", "none", "-"])
def test_an_empty_cell_is_a_test_that_was_not_done(table, text):
    function = read_pft(table(f"case,fev1_pp,fvc_pp\nssc_001,{text},80\n"), ["ssc_001"])
    assert function.values == {"fev1_pp": {"ssc_001": None}, "fvc_pp": {"ssc_001": 80.0}}


def test_reads_the_phantoms_table_and_keeps_none(tmp_path):
    import numpy as np

    records = draw_cohort(6, seed=3)
    patients = [
        PhantomPatient(
            record.case,
            record.patient,
            record.date,
            record.kernel,
            np.zeros((2, 2, 2), np.int16),
            np.zeros((2, 2, 2), np.uint8),
            (1.0, 1.0, 1.0),
            record.pft,
        )
        for record in records
    ]
    write_dataset(tmp_path, patients, name="N")
    function = read_pft(tmp_path / "pft.csv", [record.case for record in records])
    assert function.columns == PFT_COLUMNS
    for record in records:
        assert {column: function.values[column][record.case] for column in PFT_COLUMNS} == record.pft


@given(st.lists(st.tuples(st.floats(10, 250), st.none() | st.floats(10, 250)), min_size=1, max_size=8), st.data())
def test_any_percentages_come_back(tmp_path_factory, numbers, data):
    """Written with either separator, in any order of rows, among columns that are no lung function."""
    comma = data.draw(st.booleans())
    order = data.draw(st.permutations(range(len(numbers))))
    shown = [("" if a is None else repr(a), "" if b is None else repr(b)) for a, b in numbers]
    lines = ["sex,case,fvc_pp,date,kco_percent"]
    lines += [f"F,c{row},{shown[row][0]},2020-01-01,{shown[row][1]}" for row in order]
    text = "\n".join(lines)
    path = tmp_path_factory.mktemp("pft") / "pft.csv"
    path.write_text(text.replace(",", ";").replace(".", ",") if comma else text)
    cases = [f"c{row}" for row in range(len(numbers))]
    function = read_pft(path, cases)
    assert function.columns == ("fvc_pp", "kco_percent")
    assert [(function.values["fvc_pp"][case], function.values["kco_percent"][case]) for case in cases] == numbers


def test_other_columns_are_left_out_and_numbers_among_them_are_told(table, caplog):
    header = "case,sex,date,comment,age,scanner,height,fev1_pp"
    text = f"{header}\nssc_001,F,2019-03-07,tired; coughed,61,A,170.5,80\n"
    with caplog.at_level(logging.INFO):
        function = read_pft(table(text), ["ssc_001"])
    assert function.columns == ("fev1_pp",)
    (said,) = caplog.messages
    assert "the column height holds numbers and is left out" in said
    assert "_pp" in said


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *[("FEV1/FVC", "fev1_fvc"), ("fev1_fcv", "fev1_fvc"), ("fev1pp", "fev1_pp"), ("FEV1 %", "fev1_pp")],
        *[("FEV1 % predicted", "fev1_pp"), ("fvc_pred", "fvc_pp"), ("DLCO pp", "dlco_pp"), ("fev1_p", "fev1_pp")],
    ],
)
def test_a_misspelt_lung_function_is_not_left_out_silently(table, name, meant):
    _refused(table(f"case,{name},tlc_pp\nssc_001,80,70\n"), repr(name.lower()), f"Rename it to {meant}")


def test_no_lung_function(table):
    _refused(table("case,sex\nssc_001,F\n"), "no column is a lung function", "case, sex", "fev1_fvc, fev1_pp")


def test_a_case_without_a_row(table):
    _refused(table("case,fev1_pp\nssc_001,80\nssc_003,80\n"), "1 case has no row: ssc_002", "Add a row")


def test_many_cases_without_a_row_list_ten(table):
    cases = [f"ssc_{number:03d}" for number in range(1, 31)]
    error = _refused(table("case,fev1_pp\nssc_001,80\n"), "29 cases have no row", "and 19 more", cases=cases)
    assert error.message.count("ssc_") == 10


def test_a_mistyped_case_is_shown_beside_the_missing_one(table):
    text = GOOD.replace("ssc_002", "scc_002")
    _refused(table(text), "no row: ssc_002", "'scc_002' in line 3 (near ssc_002)", "exactly as the dataset's files")


def test_a_spreadsheet_that_dropped_zeros_is_recognised(table):
    text = "case,fev1_pp\n1,80\n2,80\n"
    _refused(table(text), "'1' in line 2 (near 001)", "exactly as", cases=["001", "002"])


def test_patients_in_place_of_cases(table):
    patients = {"scan_a": "P1", "scan_b": "P2"}
    text = "case,fev1_pp\nP1,80\nP2,70\n"
    _refused(table(text), "names patients of patients.csv", cases=list(patients), patients=patients)
    _refused(table(text), "Add a row for each", cases=list(patients))


def test_rows_of_other_cases_are_a_warning(table, caplog):
    function = read_pft(table(GOOD + "ssc_03,text,5000\nother,1,1\n"), CASES)
    assert function == EXPECTED
    (said,) = caplog.messages
    for words in ("2 rows", "left out", "'ssc_03' in line 5 (near ssc_003)", "'other' in line 6"):
        assert words in said
    assert "'other' in line 6 (near" not in said


def test_a_case_with_two_rows(table):
    _refused(table(GOOD + "ssc_001,81.5,72\n"), "line 5", "'ssc_001'", "has a row already, line 2", "Keep one")


def test_a_row_without_a_case(table):
    _refused(table(GOOD + ",81.5,72\n"), "line 5: names no case")


@pytest.mark.parametrize("text", ["seventy", "72 (good)", "7 2", "1e2", "7_2", "1.234,5", "<80", "٧٢", "--", "0x50"])
def test_text_in_a_number(table, text):
    written = f'case,fev1_pp\nssc_001,80\nssc_002,"{text}"\nssc_003,70\n'
    _refused(table(written), "line 3, case ssc_002, column fev1_pp: is not a number", repr(text), "leave it empty")


@pytest.mark.parametrize("text", ["-1", "-72.5", "250.1", "999", "inf", "-inf", "Infinity"])
def test_a_number_out_of_range(table, text):
    written = f"case,fvc_pp\nssc_001,80\nssc_002,{text}\nssc_003,70\n"
    _refused(table(written), "line 3, case ssc_002, column fvc_pp: is out of range", repr(text), "0 to 250", "999")


def test_several_wrong_cells_are_counted_and_all_found(table):
    path = table("case,fvc_pp,tlc_pp\nssc_001,x,80\nssc_002,-1,80\nssc_003,70,y\n")
    _refused(path, "line 2, case ssc_001", "the first of 3 problems")
    _, findings = check_pft(read_table(path, ["case"]), CASES)
    assert [finding.case for finding in findings] == ["ssc_001", "ssc_002", "ssc_003"]


def test_litres(table):
    text = "case,fev1_pp\nssc_001,2.1\nssc_002,3.45\nssc_003,\n"
    _refused(table(text), "column fev1_pp: looks like litres", "2 values from 2.1 to 3.45", "percent of the predicted")
    _refused(table(text.replace("fev1_pp", "fvc_percent")), "column fvc_percent: looks like litres")


def test_fractions(table):
    text = "case,fev1_fvc\nssc_001,0.81\nssc_002,0.9\nssc_003,1.0\n"
    _refused(table(text), "column fev1_fvc: looks like a fraction of 1", "from 0.81 to 1", "Multiply the column by 100")
    _refused(table(text.replace("fev1_fvc", "dlco_pp")), "column dlco_pp: looks like a fraction of 1")


@pytest.mark.parametrize("column", ["fev1_pp", "fvc_pp", "fev1_fvc"])
def test_one_value_in_litres_among_percents(table, column):
    text = f"case,{column}\nssc_001,80\nssc_002,2.1\nssc_003,70\n"
    _refused(table(text), f"line 3, case ssc_002, column {column}: is not plausible as percent", "found 2.1", "litres")


def test_one_fraction_among_percents(table):
    text = "case,dlco_pp\nssc_001,80\nssc_002,0.71\nssc_003,70\n"
    _refused(table(text), "line 3, case ssc_002, column dlco_pp: is not plausible as percent", "found 0.71")


def test_a_very_low_diffusion_capacity_is_a_value(table):
    function = read_pft(table("case,dlco_pp\nssc_001,80\nssc_002,9.5\nssc_003,70\n"), CASES)
    assert function.values["dlco_pp"]["ssc_002"] == 9.5


def test_a_ratio_above_100_and_an_empty_column_are_told(table, caplog):
    read_pft(table("case,fev1_fvc,fvc_pp\nssc_001,104,\nssc_002,90,\nssc_003,88,\n"), CASES)
    assert "fev1_fvc is up to 104" in caplog.messages[0]
    assert "fvc_pp has no value" in caplog.messages[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["is empty", "a header such as case"]),
        ("\n \n,,\n", ["is empty"]),
        (b"\xef\xbb\xbf", ["is empty"]),
        ("case,fev1_pp\n", ["has a header but no row"]),
        ("Case_ID,fev1_pp\nssc_001,80\n", ["has no column 'case'", "case_id, fev1_pp", "Rename case_id to case"]),
        ("id,fev1_pp\nssc_001,80\n", ["has no column 'case'", "Name the column case"]),
        ("case,fev1_pp,FEV1_PP\nssc_001,80,80\n", ["two columns have one name", "fev1_pp"]),
        ("case,fev1_pp\nssc_001,72,5\n", ["line 2", "3 cells, the first 'ssc_001'", "expected 2", "decimal comma"]),
        ("case,fev1_pp,fvc_pp\nssc_001,72\n", ["line 2", "2 cells", "expected 3", "cut-off"]),
        ("case,,fev1_pp\nssc_001,x,80\n", ["line 2", "column 2, which has no name"]),
        ('case,fev1_pp\nssc_001,"80\nssc_002,80\n', ["is not CSV", "unpaired quote"]),
        ("case,fev1_pp,comment\nssc_001,80,fatigué\n".encode("latin-1"), ["is not text in UTF-8", "0xe9 in line 2"]),
        ("case,fev1_pp\nssc_001,80\n".encode("utf-16"), ["UTF-16", "Save the sheet as CSV in UTF-8"]),
        (b"case,fev1_pp\nssc_001,\0\n", ["is not a CSV file", "zero bytes"]),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(64), ["old Excel workbook (.xls)"]),
    ],
)
def test_what_is_no_table(table, content, words):
    _refused(table(content), *words)


def test_a_workbook(table):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    _refused(table(stream.getvalue()), "is not a CSV file", ".xlsx", "Save the sheet as CSV")


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(MissingPathError, match=r"absent\.csv.*does not exist"):
        read_pft(tmp_path / "absent.csv", CASES)
    with pytest.raises(MissingPathError, match="is a folder"):
        read_pft(tmp_path, CASES)
