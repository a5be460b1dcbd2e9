"""Copying shards into a bucket."""

from __future__ import annotations

from pathlib import Path

from wavflow.data.pieces import bucket_and_folder, one_error

NEEDED = "`upload` must name a bucket that can be written"


def check_bucket(url: str) -> None:
    """Looks for the bucket of `s3://bucket/folder`.

    Raises:
        ValueError: The address has another form.
        OSError: There is no such bucket, or the key does not open it.
    """
    bucket, _ = bucket_and_folder(url)
    if not url.startswith("s3://") or not bucket:
        raise ValueError(f"`upload` must be s3://bucket/folder, got {url}: copy the shards elsewhere by a tool of that place.")
    import boto3  # litdata needs it

    with one_error(url, NEEDED):
        boto3.client("s3").head_bucket(Bucket=bucket)


def upload_folder(source: Path, url: str) -> None:
    """Copies the files of a folder to `s3://bucket/folder`, all but hidden ones.

    The indices come last: until then there are no shards to read.

    Raises:
        OSError: Something went wrong; the message is one line.
    """
    import boto3  # litdata needs it

    bucket, folder = bucket_and_folder(url)
    names = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    with one_error(url, NEEDED):
        client = boto3.client("s3")
        for name in sorted(names, key=lambda name: (name.suffix == ".json", name)):
            client.upload_file(str(source / name), bucket, f"{folder}/{name.as_posix()}".lstrip("/"))
