"""A detector on the sets of a folder, as COCO-O has them: how much of what it finds on photos it finds elsewhere.

The measure is the mean over domains, and the effective robustness mean - 0.45 AP, AP on the test split of its training:
detectors that learnt on COCO lose 55 % on COCO-O, and what is above that is robust. So both are of all images, which
the head has not learnt from. Source: COCO-O (arXiv:2307.12730).
"""

from collections.abc import Mapping

import numpy

from dinokit.core.messages import info

COCO_O = frozenset(("sketch", "weather", "cartoon", "painting", "tattoo", "handmake"))
KEPT = 0.45  # of the AP on COCO, by the line through published detectors


def over_domains(
    numbers: Mapping[str, Mapping[str, float]], own: Mapping[str, object] | None, *, limit: int | None = None
) -> dict[str, float]:
    """Return the mean of what was measured in every domain, the AP of each and, of COCO-O, `ER`.

    Args:
        own: what the head's training measured on its own test split, if it is known: AP, held_out, limit.
        limit: images of each domain; None: all.
    """
    names = dict.fromkeys(name for each in numbers.values() for name in each if name != "images")
    found = {name: float(numpy.mean([each[name] for each in numbers.values() if name in each])) for name in names}
    found |= {f"AP/{domain}": each["AP"] for domain, each in numbers.items()}
    if set(numbers) != COCO_O:
        absent = sorted(COCO_O - set(numbers))
        if len(absent) < len(COCO_O):
            info(f"no effective robustness: of COCO-O {', '.join(absent) or 'other sets'} differ")
    elif own is None:
        info("no effective robustness: the head does not say its AP on COCO; train it with evaluate detection --save")
    elif not own.get("held_out"):
        info("no effective robustness: the head's own AP is on images that it has learnt from")
    elif "limit" not in own:
        info("no effective robustness: the head does not say whether its own AP is of all images; train it anew")
    elif limit is not None or own["limit"] is not None:
        which = "each set" if own["limit"] is None else f"the head's own AP, {own['images']:,} of {own['split']}"
        info(f"no effective robustness: --limit left images out, of {which}")
    else:
        found["ER"] = found["AP"] - KEPT * float(str(own["AP"]))
        info(f"effective robustness against AP {own['AP']:.1f} on {own['split']} of {own['data']}")
    return found | {"images": float(sum(each["images"] for each in numbers.values()))}
