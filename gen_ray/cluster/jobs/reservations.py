"""Resources reserved outside the queue: placement groups, Serve replicas and plain actors."""

from collections import Counter
from collections.abc import Collection, Iterable

from ray._private.state import state  # Ray's public tables lack the job ids
from ray.core.generated.gcs_pb2 import ActorTableData, PlacementGroupTableData


def reserved_by_others(jobs: Collection[str]) -> dict[str, float]:
    """Return the resources that actors and placement groups of all other jobs hold now.

    An actor inside a placement group counts with the group. Pending actors and groups hold nothing. Tasks do not count:
    Ray keeps no table of their resources, and they end.
    """
    accessor = state._connect_and_get_accessor()
    actors = map(ActorTableData.FromString, accessor.get_actor_table(None, "ALIVE"))
    groups = map(PlacementGroupTableData.FromString, accessor.get_placement_group_table())
    return total(jobs, actors, groups)


def total(
    jobs: Collection[str], actors: Iterable[ActorTableData], groups: Iterable[PlacementGroupTableData]
) -> dict[str, float]:
    """Return the summed resources of the rows that do not belong to the given jobs."""
    resources = Counter[str]()
    for actor in actors:
        if actor.job_id.hex() not in jobs and not actor.placement_group_id.strip(b"\xff"):
            resources.update(dict(actor.required_resources))
    for group in groups:
        if group.creator_job_id.hex() not in jobs and group.state == PlacementGroupTableData.CREATED:
            for bundle in group.bundles:
                resources.update(dict(bundle.unit_resources))
    return {kind: amount for kind, amount in resources.items() if amount > 0}
