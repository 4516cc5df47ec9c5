"""Pascal VOC as other tools write it: lists, encodings and sizes of any kind give the boxes that are meant."""

from pathlib import Path

import pytest

from dinokit.annotations.boxes import open_boxes
from dinokit.core.messages import UserError
from tests.annotations.test_boxes import picture

SIZE = "<size><width>20</width><height>12</height></size>"
XML = (
    f"<annotation><filename>a.jpg</filename>{SIZE}<object><name>chât</name><bndbox><xmin>2</xmin><ymin>3</ymin>"
    "<xmax>9</xmax><ymax>8</ymax></bndbox></object></annotation>"
)
BOX = [1, 2, 9, 8]


def write(root: Path, xml: str | bytes = XML, *, name: str = "a", listed: str | None = None) -> Path:
    picture(root / "JPEGImages" / f"{name}.jpg")
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "Annotations" / f"{name}.xml").write_bytes(xml if isinstance(xml, bytes) else xml.encode())
    if listed is not None:
        (root / "ImageSets" / "Main").mkdir(parents=True)
        (root / "ImageSets" / "Main" / "train.txt").write_text(listed)
    return root


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("my cat", "my cat\n"),
        ("a", "a  1\n\na\n"),  # once
        ("a", "a -1\n"),
        ("a 1", "a 1\n"),
        ("a", "a.jpg\n"),
        ("a.b", "JPEGImages/a.b.JPG 0\n"),
        ("a", "data\\VOC\\a.xml\n"),
    ],
)
def test_a_line_of_a_list_means_the_image_of_its_name(tmp_path: Path, name: str, listed: str) -> None:
    data = open_boxes(str(write(tmp_path, XML.replace("a.jpg", ""), name=name, listed=listed)))
    assert [one.image.stem for one in data.marks] == [name]


def test_a_line_of_nothing_is_said_with_its_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected .*Annotations/b.xml, a line of .*train.txt, which is not there"):
        open_boxes(str(write(tmp_path, listed="a\nb\n")))


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "windows-1252", "UTF-8", "UTF-16", "utf-8-sig", "GB2312"])
def test_an_encoding_is_the_one_that_is_declared(tmp_path: Path, encoding: str) -> None:
    word = "猫" if encoding == "GB2312" else "chât"
    said = "" if encoding == "utf-8-sig" else f'<?xml version="1.0" encoding="{encoding}"?>'
    data = open_boxes(str(write(tmp_path, f"{said}{XML.replace('chât', word)}".encode(encoding))))
    assert data.marks[0].names == (word,)


def test_utf_16_that_can_be_read_as_it_stands_is_none(tmp_path: Path) -> None:
    data = open_boxes(str(write(tmp_path, f'<?xml version="1.0" encoding="utf-16"?>{XML}')))
    assert data.marks[0].names == ("chât",)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (XML.encode("latin-1"), "a.xml is no text of UTF-8; save it as UTF-8"),
        (f'<?xml version="1.0" encoding="klingon"?>{XML}', "a.xml is no text of KLINGON; save it as UTF-8"),
        (f'<?xml version="1.0" encoding="undefined"?>{XML}', "a.xml is no text of UNDEFINED; save it as UTF-8"),
        (f'<?xml version="1.0" encoding="punycode"?>{XML}', "a.xml is no text of PUNYCODE; save it as UTF-8"),
        (XML.replace("annotation>", "html>"), "expected <annotation> in .*a.xml, as Pascal VOC has it, got <html>"),
        (XML.replace("20", "wide"), "expected numbers of pixels in the size in .*a.xml, got .*wide"),
        (
            XML.replace("<ymax>8</ymax>", ""),
            "numbers of pixels in every bndbox of .*a.xml, got 2, 3, 9, nothing; correct",
        ),
    ],
)
def test_an_xml_that_is_none_is_named(tmp_path: Path, xml: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_boxes(str(write(tmp_path, xml)))


@pytest.mark.parametrize("size", ["", "<size/>", SIZE.replace("20", "0").replace("12", "0"), SIZE.replace("20", " ")])
def test_a_size_that_is_not_said_is_that_of_the_image(tmp_path: Path, size: str) -> None:
    data = open_boxes(str(write(tmp_path, XML.replace(SIZE, size))))
    assert (data.marks[0].size, data.marks[0].boxes.tolist()) == ((20, 12), [BOX])
    assert data.read(0).shape == (3, 12, 20)


@pytest.mark.parametrize(
    ("said", "difficult"), [("1", True), (" True ", True), ("yes", True), ("0", False), ("False", False), ("", False)]
)
def test_what_is_difficult_is_said_in_several_ways(tmp_path: Path, said: str, difficult: bool) -> None:
    xml = XML.replace("<bndbox>", f"<difficult>{said}</difficult><bndbox>")
    assert open_boxes(str(write(tmp_path, xml))).marks[0].difficult.tolist() == [difficult]


def test_endings_are_read_in_any_case(tmp_path: Path) -> None:
    root = write(tmp_path, listed="a\n")
    (root / "Annotations" / "a.xml").rename(root / "Annotations" / "a.XML")
    assert open_boxes(str(root)).marks[0].boxes.tolist() == [BOX]
    (root / "ImageSets" / "Main" / "train.txt").unlink()
    assert open_boxes(str(root)).marks[0].boxes.tolist() == [BOX]


def test_a_name_that_is_too_long_for_a_file_is_not_there(tmp_path: Path) -> None:
    data = open_boxes(str(write(tmp_path, XML.replace("a.jpg", "a" * 5000))))
    assert data.marks[0].image.name == "a.jpg"
