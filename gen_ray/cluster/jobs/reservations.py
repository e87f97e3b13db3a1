"""What others have reserved on a cluster: placement groups, Serve's replicas and plain actors that ask no queue."""

from collections import Counter
from collections.abc import Collection, Iterable

from ray._private.state import state  # the public tables name no job
from ray.core.generated.gcs_pb2 import ActorTableData, PlacementGroupTableData


def reserved_by_others(jobs: Collection[str]) -> dict[str, float]:
    """Return the resources that actors and placement groups of other jobs than these hold at the moment.

    An actor inside a placement group counts with the group. What only waits for resources holds none. Tasks are not
    counted: Ray keeps no table of their resources, and they end.
    """
    accessor = state._connect_and_get_accessor()
    actors = map(ActorTableData.FromString, accessor.get_actor_table(None, "ALIVE"))
    groups = map(PlacementGroupTableData.FromString, accessor.get_placement_group_table())
    return total(jobs, actors, groups)


def total(
    jobs: Collection[str], actors: Iterable[ActorTableData], groups: Iterable[PlacementGroupTableData]
) -> dict[str, float]:
    """Return the sum over the tables of a cluster, without the rows of some jobs."""
    found = Counter[str]()
    for actor in actors:
        if actor.job_id.hex() not in jobs and not actor.placement_group_id.strip(b"\xff"):
            found.update(dict(actor.required_resources))
    for group in groups:
        if group.creator_job_id.hex() not in jobs and group.state == PlacementGroupTableData.CREATED:
            for bundle in group.bundles:
                found.update(dict(bundle.unit_resources))
    return {kind: amount for kind, amount in found.items() if amount > 0}
