"""Builds a small but complete wheel, and the page of the index that lists it."""
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
page = pathlib.Path("index/simple/demo-package")
page.mkdir(parents=True)
wheel = f"{NAME}-{VERSION}-py3-none-any.whl"
with zipfile.ZipFile(page / wheel, "w") as archive:
    for path, text in {**FILES, f"{INFO}/RECORD": f"{record}{INFO}/RECORD,,\n"}.items():
        archive.writestr(path, text)
(page / "index.html").write_text(f'<!DOCTYPE html><html><body><a href="{wheel}">{wheel}</a></body></html>\n')
