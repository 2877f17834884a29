"""Drivers that hold an output in a test: this one, one on another machine, one that is dead; and what they leave."""

import os
import subprocess
from dataclasses import replace

from longspan.storage.lease import Holder, new_holder
from longspan.storage.process import this_process
from longspan.uri import Location
from tests.s3 import raw_client


def holder(expiry_s: float = 60.0) -> Holder:
    return replace(new_holder("train", "longspan train recipe.yaml"), expiry_s=expiry_s)


def someone(expiry_s: float = 60.0) -> Holder:
    """A holder on another machine: of whom nothing is known but the file."""
    made = holder(expiry_s)
    return replace(made, process=replace(made.process, host="gpu-7", pid=4711, scope="another boot"))


def dead() -> Holder:
    """A holder that was a process of this machine and has ended."""
    with subprocess.Popen(["sleep", "60"]) as process:
        scope = this_process().scope
        started = int(open(f"/proc/{process.pid}/stat").read().rpartition(")")[2].split()[19])  # noqa: SIM115
        process.kill()
    made = holder()
    return replace(made, process=replace(made.process, pid=process.pid, scope=scope, started=started))


def everything(output: Location) -> list[str]:
    """All names below the output, those that longspan does not list too."""
    if output.is_remote:
        url = os.environ["AWS_ENDPOINT_URL_S3"]
        page = raw_client(url).list_objects_v2(Bucket=output.bucket, Prefix=output.path)
        return sorted(item["Key"] for item in page.get("Contents", []))
    return sorted(name for _, folders, files in os.walk(output.path) for name in (*folders, *files))
