"""Documents as people have them, for the tests that read some."""

from __future__ import annotations

from pathlib import Path


def write_pdf(path: Path, *pages: str, title: str = "", password: str | None = None) -> Path:
    """Write a PDF with one page for each text, its lines in Helvetica; an empty text is a blank
    page."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    def names(**values: object) -> DictionaryObject:
        return DictionaryObject({NameObject(f"/{key}"): value for key, value in values.items()})

    writer = PdfWriter()
    font = names(
        Type=NameObject("/Font"), Subtype=NameObject("/Type1"), BaseFont=NameObject("/Helvetica")
    )
    for text in pages:
        page = writer.add_blank_page(612, 792)
        if text:
            shown = " ".join(f"({line}) Tj T*" for line in text.splitlines())
            stream = DecodedStreamObject()
            stream.set_data(f"BT /F1 11 Tf 14 TL 50 700 Td {shown} ET".encode("latin-1"))
            page[NameObject("/Resources")] = names(Font=names(F1=font))
            page[NameObject("/Contents")] = writer._add_object(stream)
    if title:
        writer.add_metadata({"/Title": title})
    if password is not None:
        writer.encrypt(password, algorithm="RC4-128")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        writer.write(stream)
    return path
