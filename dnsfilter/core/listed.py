"""What a policy's lists name of all that an answer tells: its chain, its addresses, its additional records."""

from dnsfilter.core.addresses import answer_addresses, record_addresses
from dnsfilter.core.cache import Entry
from dnsfilter.core.policy import Policy


def look_up(entry: Entry, policy: Policy) -> None:
    """Note it in the entry: it holds as long as the policy is in force, for whichever client."""
    find, rules = policy.index.find, policy.addresses
    entry.generation = policy.generation
    entry.sets = tuple(map(find, entry.chain))
    entry.additional_sets = tuple(tuple(map(find, each.names)) for each in entry.additional)
    entry.addresses, entry.additional_masks = (), (0,) * len(entry.additional)
    if rules:
        found = [(packed, rules.find(packed)) for packed, is_additional in answer_addresses(entry) if not is_additional]
        entry.addresses = tuple((packed, mask) for packed, mask in found if mask)
        entry.additional_masks = tuple(_masks(entry, policy))
    entry.is_listed = (
        any(entry.sets) or any(map(any, entry.additional_sets)) or bool(entry.addresses) or any(entry.additional_masks)
    )


def _masks(entry: Entry, policy: Policy) -> list[int]:
    """Return, for each additional record, the lists in whose ranges it has addresses."""
    first = len(entry.ttls) - len(entry.additional)
    masks = []
    for at, _ttl in entry.ttls[first:]:
        mask = 0
        for packed in record_addresses(entry.body, at):
            mask |= policy.addresses.find(packed)
        masks.append(mask)
    return masks
