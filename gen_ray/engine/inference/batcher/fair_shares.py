"""Fair shares of the next batch between requests that want more rows than it has."""

from collections.abc import Sequence

from gen_ray.engine.inference.batcher.latency_profile import LatencyProfile


def max_min_shares(demands: Sequence[int], available: int) -> list[int]:
    """Return the max-min fair shares of the available rows between requests that want the given numbers of rows.

    No request gets more than it wants, and none gets less than another unless it wants less. Where there are fewer rows
    than requests, the first requests get them: the order is the caller's decision.
    """
    shares = [0] * len(demands)
    unsatisfied = [i for i, want in enumerate(demands) if want > 0]
    while available > 0 and unsatisfied:
        each = max(1, available // len(unsatisfied))
        for i in unsatisfied:
            more = min(each, demands[i] - shares[i], available)
            shares[i] += more
            available -= more
        unsatisfied = [i for i in unsatisfied if shares[i] < demands[i]]
    return shares


def max_min_shares_by_key(keys: Sequence[str], demands: Sequence[int], available: int) -> list[int]:
    """Return the max-min fair shares of the available rows between keys, and within each key between its requests.

    keys names the key of each request. Rows that cannot be divided equally go to the keys and requests that come first.
    """
    members: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        members.setdefault(key, []).append(i)
    of_key = max_min_shares([sum(demands[i] for i in mine) for mine in members.values()], available)
    shares = [0] * len(demands)
    for mine, share in zip(members.values(), of_key, strict=True):
        for i, rows in zip(mine, max_min_shares([demands[i] for i in mine], share), strict=True):
            shares[i] = rows
    return shares


def batch_size(demands: Sequence[int], profile: LatencyProfile) -> int:
    """Return the rows of the next batch such that each of k requests takes at most k times its time in an idle batcher.

    That is also the time if the requests took turns. Beside a large request, a request of one row would wait for
    evaluations many times as long as its own; an evaluation therefore takes at most k times that of the smallest
    request by itself. With many requests this does not limit the batch, and it has the best size.
    """
    sizes = [want for want in demands if want > 0]
    return profile.rows_within(len(sizes) * profile.seconds_of(min(*sizes, profile.best_rows))) if sizes else 0
