"""One way to open a URI, local path or `s3://bucket/key`: retries, digests, atomic writes, leases.

Used by driver, Ray tasks and train workers alike for shards, plans, run folders, checkpoints and results.
"""

from longspan.storage.arrow import arrow_filesystem, open_input
from longspan.storage.cache import let_go
from longspan.storage.digest import digest_bytes, digest_file
from longspan.storage.failures import NotFoundError
from longspan.storage.holding import adopted, carried, current_leases, hold, taking_over
from longspan.storage.objects import (
    check_lease,
    clear_unfinished,
    delete,
    delete_tree,
    download_file,
    exists,
    list_files,
    list_folders,
    list_sizes,
    read_bytes,
    read_json,
    read_ranges,
    read_text,
    size,
    upload_file,
    write_bytes,
    write_json,
    write_text,
)
from longspan.storage.retry import RetryPolicy, get_policy, set_policy, use_policy
from longspan.storage.trees import download_tree, local_copy, local_directory, upload_tree
from longspan.storage.writable import check_output
from longspan.uri import absolute, anonymous, is_remote, join, relative_name, signed

__all__ = [
    "NotFoundError",
    "RetryPolicy",
    "absolute",
    "adopted",
    "anonymous",
    "arrow_filesystem",
    "carried",
    "check_lease",
    "check_output",
    "clear_unfinished",
    "current_leases",
    "delete",
    "delete_tree",
    "digest_bytes",
    "digest_file",
    "download_file",
    "download_tree",
    "exists",
    "get_policy",
    "hold",
    "is_remote",
    "join",
    "let_go",
    "list_files",
    "list_folders",
    "list_sizes",
    "local_copy",
    "local_directory",
    "open_input",
    "read_bytes",
    "read_json",
    "read_ranges",
    "read_text",
    "relative_name",
    "set_policy",
    "signed",
    "size",
    "taking_over",
    "upload_file",
    "upload_tree",
    "use_policy",
    "write_bytes",
    "write_json",
    "write_text",
]
