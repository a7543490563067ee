"""A folder and its copy at an address that fsspec knows (s3://, gs://, file://, ...), where no disk is shared."""

from pathlib import Path, PurePosixPath

import fsspec

from utils.config import InputError


class Mirror:
    """``folder`` here, its copy at ``address``. What makes a saved state or a fold whole is copied last."""

    def __init__(self, folder: Path, address: str):
        self.folder = folder
        try:
            self.files, self.root = fsspec.url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise InputError(f"{address!r} cannot be used: {error}.") from None
        self.same: dict[str, tuple[int, int]] = {}  # stamps of the files that are the same here and there

    def pull(self, *names: str) -> None:
        """Copy the named files and folders here, but for states that were being copied when their writer died."""
        self.files.invalidate_cache()
        for name in names:
            there = {str(PurePosixPath(path).relative_to(self.root)): path
                     for path in self.files.find(f"{self.root}/{name}")}  # fmt: skip
            for file, path in there.items():
                folders = PurePosixPath(file).parts
                if "state" in folders and f"{PurePosixPath(file).parent}/manifest.json" not in there:
                    continue
                (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
                self.files.get_file(path, str(self.folder / file))
                self.same[file] = self.stamp(file)

    def push(self, *names: str) -> None:
        """Copy there what has changed here since it was last the same, and remove what is gone.

        Raises FileNotFoundError if a file is replaced meanwhile; the next call makes good for it.
        """
        here = set()
        for name in names:
            places = [self.folder / name, *(self.folder / name).rglob("*")]
            here |= {path.relative_to(self.folder).as_posix() for path in places if path.is_file()}
        here = {name for name in here if not any(part.startswith(".") for part in name.split("/"))}  # being written
        for name in sorted(here, key=lambda name: (name.endswith(("manifest.json", "result.json")), name)):
            stamp = self.stamp(name)
            if self.same.get(name) != stamp:
                remote = f"{self.root}/{name}"
                self.files.makedirs(str(PurePosixPath(remote).parent), exist_ok=True)
                self.files.put_file(str(self.folder / name), remote)
                self.same[name] = stamp
        for name in [known for known in self.same if known not in here and known.split("/")[0] in names]:
            if self.files.exists(f"{self.root}/{name}"):
                self.files.rm_file(f"{self.root}/{name}")
            del self.same[name]

    def stamp(self, name: str) -> tuple[int, int]:
        found = (self.folder / name).stat()
        return found.st_mtime_ns, found.st_size
