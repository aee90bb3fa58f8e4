"""Bulk restoration of photos in numbered shards on any number of machines, each photo once in the output.

`plan_job` lists photos and divides them into shards, `restore_shard` restores one shard, `restore_job` restores all
unfinished shards with Ray, and `read_manifest` reads the record of each photo. Only `restore_job` needs Ray.
"""

from .cluster import restore_job
from .inputs import Input, list_inputs
from .job import BulkJob, BulkSettings, plan_job, read_manifest
from .shards import ShardResult, restore_shard

__all__ = [
    "BulkJob",
    "BulkSettings",
    "Input",
    "ShardResult",
    "list_inputs",
    "plan_job",
    "read_manifest",
    "restore_job",
    "restore_shard",
]
