"""What the tests of the store share: a server that speaks S3."""

from s3_server import s3

__all__ = ["s3"]
