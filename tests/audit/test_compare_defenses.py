"""The ranked table, reports as files, and the pages of what was found."""

import base64
import json
import re
import struct
import zlib

import numpy as np
import pytest

pd = pytest.importorskip("pandas")

from sklearn.datasets import load_wine  # noqa: E402
from sklearn.naive_bayes import GaussianNB  # noqa: E402

from skpoison.audit import (  # noqa: E402
    AuditReport,
    audit,
    compare_defenses,
    defend,
)
from skpoison.compose import FilteredEstimator  # noqa: E402

X, Y = load_wine(return_X_y=True)
OPTIONS = {"budgets": [0.2], "cv": 2, "random_state": 0, "verbose": 0}
NAMES = {"attacks": ["adversarial-flips"], "defenses": ["sanitizer"]}
HOSTILE = "<img src=x onerror=alert(1)>\n\"'&$x$"


def _image(row, before, after):
    return {
        "row": row,
        "before": before,
        "after": after,
        "y_before": None if before is None else "3",
        "y_after": HOSTILE,
    }


GREY, RED = [[[0.0, 0.5], [0.5, 1.0]]], [[[1.0]], [[0.0]], [[0.0]]]
FINDINGS = {
    "suspects": [
        {
            "row": 17,
            "label": HOSTILE,
            "suggested": None,
            "n_dropped": 3,
            "n_seen": 4,
            "by": ["sanitizer", HOSTILE],
            "score": float("nan"),
        }
    ],
    "poisons": [
        {
            "attack": "adversarial-flips",
            "estimator": None,
            "defense": None,
            "budget": 0.2,
            "kind": "image",
            "shape": [1, 2, 2],
            "columns": None,
            "rows": [
                _image(4, GREY, [[[0.0, 0.5], [0.75, 1.0]]]),
                _image(5, GREY, GREY),
                _image(-1, None, GREY),
            ],
        },
        {
            "attack": "adversarial-flips",
            "estimator": "estimator",
            "defense": "sanitizer",
            "budget": 0.2,
            "kind": "image",
            "shape": [3, 1, 1],
            "columns": None,
            "rows": [_image(6, RED, RED)],
        },
        {
            "attack": "adversarial-flips",
            "estimator": "estimator",
            "defense": None,
            "budget": 0.2,
            "kind": "table",
            "shape": None,
            "columns": ["first", HOSTILE, "kind", "same"],
            "rows": [
                {
                    "row": 8,
                    "before": [1.0, float("nan"), "old", 5.0],
                    "after": [1.25, 2.0, HOSTILE, 5.0],
                    "y_before": "0",
                    "y_after": "0",
                }
            ],
        },
    ],
}


@pytest.fixture(scope="module")
def report():
    found = audit(GaussianNB(), X, Y, **NAMES, **OPTIONS)
    copy = AuditReport([], [], found.meta, {**found.findings, **FINDINGS})
    copy.table, copy.timings = found.table, found.timings
    return copy


@pytest.mark.slow
def test_the_table_is_that_of_the_audit(report):
    table = compare_defenses(GaussianNB(), X, Y, **NAMES, **OPTIONS)
    timed = ["seconds", "relative_seconds"]
    expected = report.ranking().drop(columns=timed)
    pd.testing.assert_frame_equal(table.drop(columns=timed), expected)
    assert sorted(table["defense"]) == ["none", "sanitizer"]
    assert table["reason"].str.len().min() > 20
    # the numbers are those of the summary
    summary = report.summary().set_index(["defense", "budget"])["damage"]
    for _, row in table.iterrows():
        assert row["worst_damage"] == summary[row["defense"], 0.2]
    pd.testing.assert_frame_equal(compare_defenses(report), report.ranking())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"X": X}, "takes nothing beside a report.*got X"),
        ({"defenses": [], "cv": 3}, "got defenses, cv"),
    ],
    ids=["X", "options"],
)
def test_a_report_comes_alone(report, arguments, message):
    with pytest.raises(TypeError, match=message):
        compare_defenses(report, **arguments)


def test_what_is_missing_or_unknown_is_named():
    with pytest.raises(TypeError, match="needs X and y"):
        compare_defenses(GaussianNB(), X)
    with pytest.raises(TypeError, match="bugdets"):
        compare_defenses(GaussianNB(), X, Y, bugdets=[0.1])


def test_json_round_trip_is_exact(report, tmp_path):
    path = tmp_path / "r.json"
    report.table.loc[0, "attack_success"] = np.nan
    report.to_json(path)

    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    again = AuditReport.from_json(path)
    pd.testing.assert_frame_equal(again.table, report.table, check_exact=True)
    pd.testing.assert_frame_equal(again.timings, report.timings, check_exact=True)
    assert again.meta == report.meta and again.findings == report.findings
    assert again.recommendation == report.recommendation
    pages = [tmp_path / "a.html", tmp_path / "b.html"]
    for found, page in zip((report, again), pages, strict=True):
        found.to_html(page)
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(FileNotFoundError, match="the folder does not exist"):
        report.to_json(tmp_path / "no" / "r.json")


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "holds no JSON"),
        ("[]", "holds no report of an audit"),
        ('{"format": "skpoison audit report", "version": 9}', "of version 9"),
        ('{"format": "skpoison audit report", "version": 1}', "damaged: no table"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        AuditReport.from_json(tmp_path / "r.json")


def test_suspects_and_poisons_as_tables(report):
    (suspect,) = report.suspects().to_dict("records")
    assert suspect["share"] == 0.75 and suspect["by"].startswith("sanitizer, ")
    poisons = report.poisons()
    assert poisons["row"].tolist() == [4, 5, -1, 6, 8]
    assert poisons.loc[2, "before"] is None and poisons.loc[3, "defense"] == "sanitizer"
    assert report.findings["poisons"][2]["rows"][0]["before"][1] is None


def _pixels(address):
    """Read a picture's pixels without the code that wrote it."""
    data = base64.b64decode(address)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    blocks, at = {}, 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        (check,) = struct.unpack(">I", data[at + 8 + size : at + 12 + size])
        assert check == zlib.crc32(kind + body)
        blocks[kind] = body
        at += 12 + size
    width, height, depth, colour = struct.unpack(">IIBB", blocks[b"IHDR"][:10])
    rows = np.frombuffer(zlib.decompress(blocks[b"IDAT"]), np.uint8)
    rows = rows.reshape(height, -1)
    assert depth == 8 and (rows[:, 0] == 0).all()
    return rows[:, 1:].reshape(height, width, 3 if colour == 2 else 1)


def test_page_shows_what_was_found_and_escapes_it(report, tmp_path):
    report.to_html(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "onerror" in text and "<img src=x" not in text
    pictures = re.findall(
        r'<img src="data:image/png;base64,([^"]*)" alt="([^"]+)">', text
    )
    assert len(pictures) == 3 + 3 + 1 + 3 and text.count("<img ") == len(pictures)
    before, after, change = (_pixels(data)[..., 0] for data, _ in pictures[:3])
    np.testing.assert_array_equal(before, [[0, 128], [128, 255]])
    np.testing.assert_array_equal(after, [[0, 128], [191, 255]])
    # the largest change, a quarter of the range, is shown twice as large from grey
    np.testing.assert_array_equal(change, [[128, 128], [255, 128]])
    assert "difference x 2; largest 0.25 of the range" in text
    assert "before, after, difference (none)" in text and "added row" in text
    np.testing.assert_array_equal(_pixels(pictures[-1][0]), [[[128, 128, 128]]])
    np.testing.assert_array_equal(_pixels(pictures[-2][0]), [[[255, 0, 0]]])
    # columns that did not change are left out
    assert ">missing<" in text and ">first<" in text and ">same<" not in text
    assert "adversarial-flips against estimator behind sanitizer" in text


def test_a_name_of_the_ranking_becomes_an_estimator():
    model = GaussianNB()
    defended = defend(model, "sanitizer")
    assert isinstance(defended, FilteredEstimator) and not hasattr(model, "classes_")
    assert defended.fit(X, Y).score(X, Y) > 0.9
    bare = defend(model, "none")
    assert type(bare) is GaussianNB and bare is not model


@pytest.mark.parametrize(
    "name, message",
    [
        ("sanitiser", "'sanitiser' is not known; there are .*sanitizer"),
        ("mixup", "is for a TorchClassifier or a pipeline"),
        ("trim", "'trim' is not for classification"),
        ("krum", "'krum' is a server's"),
    ],
)
def test_a_defense_for_other_estimators_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        defend(GaussianNB(), name)
