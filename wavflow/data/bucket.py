"""Copying shards into a bucket."""

from __future__ import annotations

from pathlib import Path

from wavflow.data.pieces import one_error

NEEDED = "`upload` must name a bucket that can be written"


def check_bucket(url: str) -> tuple[str, str]:
    """Returns bucket and folder of `s3://bucket/folder`.

    Raises:
        ValueError: It is none.
        OSError: There is no such bucket, or the key does not open it.
    """
    bucket, _, folder = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not bucket:
        raise ValueError(f"`upload` must be s3://bucket/folder, got {url}: copy the shards elsewhere by a tool of that place.")
    import boto3  # litdata needs it

    with one_error(url, NEEDED):
        boto3.client("s3").head_bucket(Bucket=bucket)
    return bucket, folder.strip("/")


def upload_folder(source: Path, url: str) -> None:
    """Copies the files of a folder into a bucket, all but hidden ones; the indices last, without which there are no shards.

    Raises:
        OSError: What is missing, or went wrong, in one line.
    """
    bucket, folder = check_bucket(url)
    import boto3

    names = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    with one_error(url, NEEDED):
        client = boto3.client("s3")
        for name in sorted(names, key=lambda name: (name.suffix == ".json", name)):
            client.upload_file(str(source / name), bucket, f"{folder}/{name.as_posix()}".lstrip("/"))
