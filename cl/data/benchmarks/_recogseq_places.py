"""What each set of recogseq consists of: where that lies in the set's folder, and where it can be fetched."""

from __future__ import annotations

from pathlib import Path

from cl.data.fetch import Remote
from cl.errors import UserError

DEEPEST = 3
"""How many folders may lie between that of a set and what it needs: archives bring folders of their own."""
NEEDED = {
    "flowers": ("jpg", "imagelabels.mat", "setid.mat"),
    "scenes": ("Images", "TrainImages.txt", "TestImages.txt"),
    "birds": ("images", "images.txt", "image_class_labels.txt", "train_test_split.txt"),
    "cars": ("cars_train", "cars_test", "cars_train_annos.mat", "cars_test_annos_withlabels.mat", "cars_meta.mat"),
    "aircraft": ("images", "images_variant_trainval.txt", "images_variant_test.txt"),
    "actions": ("ImageSets", "Annotations", "JPEGImages"),
    "letters": ("GoodImg",),
    "svhn": ("train_32x32.mat", "test_32x32.mat"),
}
"""What a set's folder has to hold, there or in folders below."""
NOWHERE = {"cars"}
"""Sets that cannot be fetched: their only public address is gone."""


def remotes(name: str) -> dict[str, Remote]:
    """Where what a set needs can be fetched; empty for those that are `NOWHERE`."""
    from torchvision import datasets  # loads torch

    if name == "flowers":
        kinds = {"jpg": "image", "imagelabels.mat": "label", "setid.mat": "setid"}
        files = {what: datasets.Flowers102._file_dict[kind] for what, kind in kinds.items()}
        return {
            what: Remote(datasets.Flowers102._download_url_prefix + file, file, md5)
            for what, (file, md5) in files.items()
        }
    if name == "scenes":
        archive = "http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar"
        lists = {file: f"http://web.mit.edu/torralba/www/{file}" for file in ("TrainImages.txt", "TestImages.txt")}
        return {what: _unchecked(url) for what, url in {"Images": archive, **lists}.items()}
    if name == "svhn":
        files = {file: (url, md5) for url, file, md5 in datasets.SVHN.split_list.values()}
        return {what: Remote(files[what][0], what, files[what][1]) for what in NEEDED[name]}
    if name == "actions":
        voc = datasets.voc.DATASET_YEAR_DICT["2012"]
        return dict.fromkeys(NEEDED[name], Remote(voc["url"], voc["filename"], voc["md5"]))
    archives = {
        "birds": "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        "aircraft": datasets.FGVCAircraft._URL,
        "letters": "http://www.ee.surrey.ac.uk/CVSSP/demos/chars74k/EnglishImg.tgz",
    }
    return dict.fromkeys(NEEDED[name], _unchecked(archives[name])) if name in archives else {}


def _unchecked(url: str) -> Remote:
    return Remote(url, url.rpartition("/")[2], None)


def find(folder: Path, name: str) -> str | None:
    """Where in the folder a file or folder of this name is, relative to it; None where it is not."""
    for depth in range(DEEPEST + 1):
        for path in sorted(folder.glob("*/" * depth + name)):
            return path.relative_to(folder).as_posix()
    return None


def place(folder: Path, name: str) -> str:
    """As `find`; raises `UserError` where it is not."""
    path = find(folder, name)
    if path is None:
        raise UserError(f"{folder}: no {name} there, nor in the folders below")
    return path
