"""Builds a small but complete wheel, and the page of the index that says on which host it lies."""
import base64
import hashlib
import pathlib
import zipfile

NAME, VERSION = "demo_package", "1.0"
INFO = f"{NAME}-{VERSION}.dist-info"
FILES = {
    f"{NAME}/__init__.py": f'VERSION = "{VERSION}"\n',
    f"{INFO}/METADATA": f"Metadata-Version: 2.1\nName: demo-package\nVersion: {VERSION}\n",
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\nGenerator: demo\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}


def digest(text):
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


record = "".join(f"{path},sha256={digest(text)},{len(text)}\n" for path, text in FILES.items())
page, files = pathlib.Path("index/simple/demo-package"), pathlib.Path("files")
page.mkdir(parents=True)
files.mkdir()
wheel = f"{NAME}-{VERSION}-py3-none-any.whl"
with zipfile.ZipFile(files / wheel, "w") as archive:
    for path, text in {**FILES, f"{INFO}/RECORD": f"{record}{INFO}/RECORD,,\n"}.items():
        archive.writestr(path, text)
link = f'<a href="https://files.packages.test/{wheel}">{wheel}</a>'
(page / "index.html").write_text(f"<!DOCTYPE html><html><body>{link}</body></html>\n")
