"""Who goes along in the next tick: shares of a batch between requests that want more rows than there is room for."""

from collections.abc import Sequence

from gen_ray.engine.inference.batcher.latency_profile import LatencyProfile


def max_min_shares(wanted: Sequence[int], room: int) -> list[int]:
    """Return the max-min fair shares of room between those who want so many rows each.

    Nobody gets more than wanted, and nobody less than another who does not want less. Where there is not one for each,
    the first ones have it: the caller's order decides whose turn it is.
    """
    given = [0] * len(wanted)
    hungry = [i for i, want in enumerate(wanted) if want > 0]
    while room > 0 and hungry:
        each = max(1, room // len(hungry))
        for i in hungry:
            more = min(each, wanted[i] - given[i], room)
            given[i] += more
            room -= more
        hungry = [i for i in hungry if given[i] < wanted[i]]
    return given


def max_min_shares_by_key(keys: Sequence[str], wanted: Sequence[int], room: int) -> list[int]:
    """Return the max-min fair shares of room between keys, and within each key between its requests.

    keys names the key of each request; keys and requests that come first have what cannot be divided.
    """
    members: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        members.setdefault(key, []).append(i)
    of_key = max_min_shares([sum(wanted[i] for i in mine) for mine in members.values()], room)
    given = [0] * len(wanted)
    for mine, share in zip(members.values(), of_key, strict=True):
        for i, rows in zip(mine, max_min_shares([wanted[i] for i in mine], share), strict=True):
            given[i] = rows
    return given


def batch_size(wanted: Sequence[int], costs: LatencyProfile) -> int:
    """Return how many rows the next tick has, so that none of k requests is slower than k times it alone.

    That is what each would have if they took turns. A lone request of one row beside a large one would wait for ticks
    many times as long as its own; so a tick takes at most k times what the smallest would take by itself. With many
    requests that binds nothing, and a batch is as large as pays.
    """
    hungry = [want for want in wanted if want > 0]
    return costs.most(len(hungry) * costs.of(min(*hungry, costs.best))) if hungry else 0
