"""Packing folders of views."""

import tarfile
import zipfile
from pathlib import Path

TAR_FORMATS = {"ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}


def pack(root: Path, folder: str, form: str) -> None:
    """Write `root/folder.tar` or `.zip`, with paths relative to `root`, in an order that is not that of the names."""
    files = sorted((path for path in (root / folder).rglob("*.png")), reverse=True)
    if form == "zip":
        with zipfile.ZipFile(root / f"{folder}.zip", "w") as archive:
            for path in files:
                archive.write(path, path.relative_to(root))
        return
    with tarfile.open(root / f"{folder}.tar", "w", format=TAR_FORMATS[form]) as archive:
        for path in files:
            archive.add(path, path.relative_to(root))
