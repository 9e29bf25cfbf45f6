"""Where the published data sets lie: below a root in their usual folders, or else on a server, checked by SHA-256."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hatebm.errors import UsageError


@dataclass(frozen=True)
class Source:
    """A published data set.

    folders: where its files usually lie below the root, the first being where they are downloaded to; page: where a
    person finds them; files: name -> (address, SHA-256).
    """

    folders: tuple[str, ...]
    page: str
    files: dict[str, tuple[str, str]]


def _source(folders: tuple[str, ...], page: str, base: str, hashes: dict[str, str]) -> Source:
    return Source(folders, page, {file: (base + file, sha256) for file, sha256 in hashes.items()})


def _drive(key: str) -> str:
    return f"https://drive.usercontent.google.com/download?id={key}&export=download&confirm=t"


SOURCES = {
    "mnist": _source(
        ("mnist", "mnist/raw", "MNIST/raw", "MNIST", "raw", "."),
        "https://github.com/cvdfoundation/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        {
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion-mnist": _source(
        ("fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "fashion-mnist/data/fashion", "data/fashion", "raw", "."),
        "https://github.com/zalandoresearch/fashion-mnist",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
    "cifar10": _source(
        ("cifar10", "CIFAR10", "cifar-10", "."),
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    ),
    "svhn": _source(
        ("svhn", "SVHN", "."),
        "http://ufldl.stanford.edu/housenumbers/",
        "http://ufldl.stanford.edu/housenumbers/",
        {
            "train_32x32.mat": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        },
    ),
    "celeba": Source(
        (*(f"{top}{sub}" for top in ("celeba", "CelebA") for sub in ("", "/Img", "/Eval")), "Img", "Eval", "."),
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        {
            "img_align_celeba.zip": (
                _drive("0B7EVK8r0v71pZjFTYXZWM3FlRnM"),
                "46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74",
            ),
            "list_eval_partition.txt": (
                _drive("0B7EVK8r0v71pY0NSMzRuSXJEVkk"),
                "fc955bcb3ef8fbdf7d5640d9a8693a8431b5f2ee291a5c1449a1549e7e073fe7",
            ),
        },
    ),
}


def obtain(name: str, root: Path, file: str, *unpacked: str) -> Path:
    """The path of a published file, or of the first of its unpacked forms, below `root`; downloaded where is none."""
    source = SOURCES[name]
    for folder in source.folders:
        for form in (*unpacked, file):
            path = root / folder / form
            if path.exists():
                return path
    return _download(name, root / source.folders[0], file)


def _download(name: str, folder: Path, file: str) -> Path:
    """Fetch one file into the folder, where it appears only when it is whole and of the published hash."""
    import pooch

    page = SOURCES[name].page
    url, sha256 = SOURCES[name].files[file]
    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", fname=file, path=folder))
    except OSError as error:  # no network, a refusal of the server, a folder that cannot be written
        raise UsageError(
            f"--data-root: {file} of {name} is not below {folder.parent} and cannot be downloaded from {url} "
            f"({type(error).__name__}); name the folder that holds it, or get it from {page} into {folder}"
        ) from error
    except ValueError as error:
        raise UsageError(
            f"--data: what came from {url} is not the published {file} of {name} (its SHA-256 differs) and was not "
            f"kept; try again, or get it from {page} into {folder}"
        ) from error
    finally:
        with suppress(OSError):
            folder.rmdir()  # where nothing came, not even an empty folder stays


@contextmanager
def intact(path: Path) -> Iterator[None]:
    """Let whatever a reader stumbles over in this file be one line that says what to do."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # each reader has its own way to fail on a broken file
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise UsageError(
            f"--data-root: {path} cannot be read as it was published ({reason}); put a whole one in its place, or "
            "remove it and it is downloaded"
        ) from error
