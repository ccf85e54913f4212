"""Photographs of a set that are in it twice: the same file, or the same picture in another one.

used, rejected, warnings = screen(photographs, bits=8)     # those that are used; copies and near-copies
"""

from collections.abc import Iterable, Sequence
from itertools import combinations, groupby, product
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pawprint.data.quality import BITS, CUTS, MIRROR, Photograph, Rejected

LISTED = 5  # of the others in a group, in a sentence
NEIGHBOURS = 64  # compared with at first in each order: joins most of thousands that are alike
LOOKED_AT = 256  # pictures with edges cut off that share a word with another one, and are compared with it
PAIRED = 2048  # photographs that are compared all with all
WORDS = range(6, 10)  # in which hashes with edges cut off are divided, as is quickest for so many
PART = 4096  # photographs at a time, which bounds the memory
MOST_CUT = 0.05  # of a set, that may look like others with edges cut off before that means nothing in it

P = TypeVar("P", bound=Photograph)


def screen(seen: Sequence[P | Rejected], bits: int) -> tuple[list[P], list[Rejected], list[str]]:
    """(photographs that are used, sorted by hash; all rejections, sorted by path; warnings) of a whole set.

    Near-copies differ in at most `bits` bits. Where most of the set are near-copies under two labels, the scene is the
    same in all of it (a camera that never moves): then they are a warning, and none is rejected.
    """
    kept, copied = copies(one for one in seen if not isinstance(one, Rejected))
    near, warnings = near_copies(kept, bits), list[str]()
    if bits and len(near) > MOST_CUT * len(kept):
        joined, near = len(near), near_copies(kept, bits, cut=False)
        if len(near) < joined:
            warnings.append(
                f"{joined - len(near):,} of {len(kept):,} photographs look like another one with its edges cut off. "
                "Drawings of one thing on an even ground do, so none is rejected for that."
            )
    count = sum(one.reason == "two_labels" for one in near)
    if bits and count > len(kept) / 2:
        near = near_copies(kept, 0)
        warnings.append(
            f"{count:,} of {len(kept):,} photographs look like one of another class. That is most of them, so no "
            "near-copy is rejected: photographs of one scene look like this. Look at some; `preprocess.near_copy_bits` "
            f"(now {bits}) sets how near is near, and 0 turns this off."
        )
    gone = {one.path for one in near}
    rejected = [*(one for one in seen if isinstance(one, Rejected)), *copied, *near]
    return [one for one in kept if one.path not in gone], sorted(rejected, key=lambda one: one.path), warnings


def copies(photographs: Iterable[P]) -> tuple[list[P], list[Rejected]]:
    """One of each content and label, sorted by hash, and the rest. Under two labels: `near_copies` sees both."""
    kept: list[P] = []
    bad = []
    for one in sorted(photographs, key=lambda one: (one.hash, one.label)):
        if kept and (kept[-1].hash, kept[-1].label) == (one.hash, one.label):
            bad.append(Rejected(one.path, one.hash, "copy", f"the same file as {kept[-1].origin}"))
        else:
            kept.append(one)
    return kept, bad


def near_copies(photographs: Sequence[Photograph], bits: int, cut: bool = True) -> list[Rejected]:
    """Rejections of photographs whose picture is in another file too: within `bits` bits, or at 0 the same bytes.

    The same picture is also its mirror image, one with edges of 2.5 or 5 % cut off, and one with such a border or with
    any border of one colour; where edges are `cut`, within twice the bits, for no two cuts are quite the same.

    A group under two labels is rejected altogether, for one label is wrong. Of a group that spans splits, the
    photographs of validation and test are rejected: they would be evaluated on what the model learned. None is moved.
    """
    bad = []
    phashes, cuts = [one.phash for one in photographs], [one.cuts for one in photographs] if cut else []
    for group in near_groups(phashes, bits, cuts) if bits else _equal(photographs):
        members = [photographs[index] for index in group]
        labels, splits = {one.label for one in members}, {one.split for one in members}
        if len(labels) == 1 and len(splits) == 1:
            continue
        for one in members:
            others = _some([other for other in members[: LISTED + 2] if other is not one], len(members) - 1)
            if len(labels) > 1:
                bad.append(
                    Rejected(
                        one.path, one.hash, "two_labels", f"the same photograph has two labels: {one.origin}, {others}"
                    )
                )
            elif one.split != "train":
                bad.append(
                    Rejected(one.path, one.hash, "near_copy", f"in {one.split}, and the same photograph as {others}")
                )
    return bad


def near_to(known: Sequence[str], others: Sequence[str], bits: int = 8) -> set[int]:
    """Indices of the `others` whose picture, or its mirror image, is among the `known`; both are perceptual hashes."""
    first = len(known)
    groups = near_groups([*known, *others], bits)
    return {index - first for group in groups if min(group) < first for index in group if index >= first}


def _some(photographs: Sequence[Photograph], count: int) -> str:
    """The first few by name: there may be thousands."""
    more = count - LISTED
    return ", ".join(one.origin for one in photographs[:LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _equal(photographs: Sequence[Photograph]) -> list[list[int]]:
    """Indices of photographs of the same bytes, which are sorted by hash."""
    groups = [list(group) for _, group in groupby(range(len(photographs)), lambda index: photographs[index].hash)]
    return [group for group in groups if len(group) > 1]


def near_groups(phashes: Sequence[str] | NDArray[np.uint8], bits: int, cuts: Sequence[bytes] = ()) -> list[list[int]]:
    """Indices of pictures that are near each other, directly or by way of others; groups of two and more.

    `phashes` are in hex, or bytes [n, 18]. A mirror image is near its original. `cuts` are CUTS hashes of each picture,
    within twice the bits of which others are near it too.
    """
    if not isinstance(phashes, np.ndarray):
        if not any(phashes):
            return []
        phashes = np.frombuffer(bytes.fromhex("".join(phashes)), np.uint8).reshape(len(phashes), -1)
    joined = np.arange(len(phashes), dtype=np.int32)
    _join_near(phashes, joined.copy(), np.arange(BITS), 2, MIRROR, bits, joined)
    if cuts:
        _join_cuts(phashes, np.frombuffer(b"".join(cuts), np.uint8).reshape(-1, BITS // 8), 2 * bits, joined)
    groups = _roots(np.arange(len(joined)), joined)
    members = np.flatnonzero(np.bincount(groups)[groups] > 1)
    members = members[np.argsort(groups[members], kind="stable")]
    found = np.split(members, np.flatnonzero(np.diff(groups[members])) + 1)
    return [group.tolist() for group in found if len(group)]


def _join_near(
    hashes: NDArray[np.uint8],
    members: NDArray[np.int32],
    free: NDArray[np.int64],
    agreeing: int,
    mirror: NDArray[np.uint8],
    bits: int,
    joined: NDArray[np.int32],
) -> None:
    """Join all `members` whose `hashes` [n, 18] differ in at most `bits` (8) bits, as they are or one of them mirrored.

    Two that do so agree in `agreeing` of bits + `agreeing` pieces of the `free` bits (multi-index hashing; Norouzi,
    Punjani and Fleet, 2012). So these in turn order the set, and those of one order's place are compared. The order is
    by the smaller of a picture's and its mirror image's, which both have in common; `mirror` are the bits that differ.
    Many that agree are divided by their other bits in the same way.
    """
    pieces = np.array_split(free, max(bits, 8) + agreeing)
    words, turns = _words(hashes, pieces), _words(mirror[None], pieces)
    for some in combinations(range(len(pieces)), agreeing):
        key, turn = _key(words, some), _key(turns, some)
        mirrored = key ^ turn < key
        key[mirrored] ^= turn
        order, starts = _runs(key)
        del key
        rows, own = hashes.take(order, 0) ^ mirrored[order, None] * mirror, members[order]
        _join_neighbours(rows, own, starts, bits, joined)
        for run in np.flatnonzero(np.diff(starts) > NEIGHBOURS + 1):
            inside = slice(starts[run], starts[run + 1])
            alike, first, same = np.unique(rows[inside], axis=0, return_index=True, return_inverse=True)
            _join(own[inside], own[inside][first[same]], joined)
            names = own[inside][first]
            groups = _roots(names, joined)
            others = np.flatnonzero(groups != np.bincount(groups).argmax())  # not of the largest group
            if len(others) * len(names) > PAIRED**2:
                rest = _dividing(alike, np.setdiff1d(free, np.concatenate([pieces[piece] for piece in some])), bits)
                if len(rest):
                    _join_near(alike, names, rest, 1, np.zeros_like(mirror), bits, joined)
                    continue
            for start in range(0, len(others), 256):
                some_others = others[start : start + 256]
                one, other = np.nonzero(_apart(alike[some_others, None], alike[None]) <= bits)
                _join(names[some_others[one]], names[other], joined)


def _dividing(hashes: NDArray[np.uint8], free: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Those of the `free` bits in which hashes [n, 18] differ, in an order whose pieces divide them about equally; none
    where comparing within the pieces' runs would save less than half of comparing all with all."""
    varying = np.bitwise_or.reduce(hashes) ^ np.bitwise_and.reduce(hashes)
    rest = free[np.unpackbits(varying)[free] == 1]
    even = np.abs(np.unpackbits(hashes[:PART], axis=1)[:, rest].mean(0) - 0.5)
    dealt = rest[np.argsort(even, kind="stable")]
    count = max(bits, 8) + 1
    rest = np.concatenate([dealt[piece::count] for piece in range(count)])
    pairs = 0.0
    for word in _words(hashes, np.array_split(rest, count)) if len(rest) > bits else ():
        pairs += (np.unique(word, return_counts=True)[1].astype(np.float64) ** 2).sum()
    return rest if 0 < pairs < len(hashes) ** 2 / 2 else rest[:0]


def _words(hashes: NDArray[np.uint8], pieces: Sequence[NDArray[np.int64]]) -> NDArray[np.unsignedinteger[Any]]:
    """The bits of each piece of hashes [n, 18], as a number [pieces, n]; of 16 bits where these are enough."""
    small = max(map(len, pieces)) <= 16
    together = all(piece[-1] - piece[0] == len(piece) - 1 < 25 for piece in pieces)
    words = np.empty((len(pieces), len(hashes)), np.uint16 if small else np.uint32)
    for start in range(0, len(hashes), PART):
        some = hashes[start : start + PART]
        words[:, start : start + PART] = (
            [_cut_out(some, piece) for piece in pieces] if together else _put_together(some, pieces)
        )
    return words


def _cut_out(hashes: NDArray[np.uint8], piece: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Up to 25 bits that stand side by side, out of the four bytes in which they are: numbers [n]."""
    byte = min(piece[0] // 8, BITS // 8 - 4)
    four = np.ascontiguousarray(hashes[:, byte : byte + 4]).view(">u4")[:, 0].astype(np.uint32)
    return four >> np.uint32(8 * byte + 31 - piece[-1]) & np.uint32(2 ** len(piece) - 1)


def _put_together(hashes: NDArray[np.uint8], pieces: Sequence[NDArray[np.int64]]) -> NDArray[np.uint32]:
    """Any bits, up to 32 a piece: numbers [pieces, n]."""
    places = np.full((len(pieces), 32), BITS)
    for number, piece in enumerate(pieces):
        places[number, 32 - len(piece) :] = piece
    bits = np.pad(np.unpackbits(hashes, axis=1), ((0, 0), (0, 1)))
    return np.packbits(np.ascontiguousarray(bits[:, places.ravel()]), axis=1).view(">u4").T.astype(np.uint32)


def _key(words: NDArray[np.unsignedinteger[Any]], some: Sequence[int]) -> NDArray[np.uint32]:
    """Some of the words [m, n] together: numbers [n]."""
    key: NDArray[np.uint32] = words[some[0]].astype(np.uint32)
    for piece in some[1:]:
        key = key << np.uint32(16) | words[piece]
    return key


def _sorted(key: NDArray[np.unsignedinteger[Any]]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """(keys in their order, the index of each). Both are sorted as one number, much faster than argsort does."""
    both = key.astype(np.uint64) << np.uint64(32) | np.arange(len(key), dtype=np.uint64)
    both.sort()
    return (both >> np.uint64(32)).astype(np.uint32), both.astype(np.uint32)


def _runs(key: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """(indices of those whose key another one has, in the keys' order; where each run of equal keys starts, and the
    end)."""
    key, order = _sorted(key)
    same = key[1:] == key[:-1]
    place = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
    new = np.diff(key[place].astype(np.int64), prepend=-1, append=-1) != 0
    return order[place], np.flatnonzero(new)


def _join_neighbours(
    rows: NDArray[np.uint8],
    members: NDArray[np.int32],
    starts: NDArray[np.int64],
    bits: int,
    joined: NDArray[np.int32],
) -> None:
    """Join those near each other that stand at most NEIGHBOURS apart in a run; all of a short run, most of thousands
    that are alike."""
    run = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    place = np.arange(len(run))
    for apart in range(1, NEIGHBOURS + 1):
        place = place[: np.searchsorted(place, len(run) - apart)]
        place = place[run[place] == run[place + apart]]
        if not len(place):
            break
        if apart.bit_count() == 1:  # now and then: runs that are one group already are done
            groups = _roots(members, joined)
            mixed = np.minimum.reduceat(groups, starts[:-1]) != np.maximum.reduceat(groups, starts[:-1])
            place = place[mixed[run[place]]]
        for start in range(0, len(place), PART):
            some = place[start : start + PART]
            near = some[_apart(rows.take(some, 0), rows.take(some + apart, 0)) <= bits]
            _join(members[near], members[near + apart], joined)


def _apart(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """In how many bits hashes [..., 18] differ."""
    differ = np.bitwise_count(one.view(np.uint16) ^ other.view(np.uint16))
    return np.asarray(np.einsum("...i->...", differ))


def _roots(members: NDArray[np.integer[Any]], joined: NDArray[np.int32]) -> NDArray[np.int32]:
    """The group of each: `joined` names one that it was joined to, or itself."""
    found: NDArray[np.int32] = joined[members]
    while (further := joined[found] != found).any():
        found[further] = joined[found[further]]
    joined[members] = found
    return found


def _join(one: NDArray[np.integer[Any]], other: NDArray[np.integer[Any]], joined: NDArray[np.int32]) -> None:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends, links = np.unique(_roots(np.concatenate([one, other]), joined), return_inverse=True)
    if len(ends) > 1:
        graph = coo_array((np.ones(len(one), np.int8), links.reshape(2, -1)), shape=(len(ends), len(ends)))
        group = connected_components(graph, directed=False)[1]
        joined[ends] = ends[np.unique(group, return_index=True)[1][group]]


def _join_pairs(pairs: list[tuple[NDArray[Any], NDArray[Any]]], joined: NDArray[np.int32]) -> None:
    """Join all of them, and empty the list."""
    if pairs:
        _join(np.concatenate([one for one, _ in pairs]), np.concatenate([other for _, other in pairs]), joined)
        pairs.clear()


def _join_cuts(whole: NDArray[np.uint8], cuts: NDArray[np.uint8], bits: int, joined: NDArray[np.int32]) -> None:
    """Join pictures whose hash of `whole` [n, 18], mirrored or not, differs in at most `bits` from one of the others'
    `cuts` [CUTS * n, 18].

    Then one of six to nine words differs in few bits: the words of `whole` are looked up among those of `cuts`, as they
    are and with so many bits turned round. Longer words are looked up more often, and shared by chance by fewer.
    LOOKED_AT pictures of other groups at most are looked at for each; only where more share a word some may be missed.
    """

    def cost(count: int) -> float:
        lookups = sum(len(_turned(len(piece), bits, count, word)) for word, piece in enumerate(_pieces(count)))
        return lookups * (1 + 2 * len(cuts) / 2 ** (BITS / count))

    count = min(WORDS, key=cost)
    for word, piece in enumerate(_pieces(count)):
        groups = _roots(np.arange(len(whole)), joined)
        by_group = np.argsort(groups, kind="stable")[:, None] * CUTS + np.arange(CUTS)
        known = _words(cuts, [piece])[0][by_group.ravel()]
        known, place = _sorted(known)
        order = by_group.ravel()[place]  # in each word by group
        starts = np.append(np.flatnonzero(np.diff(known, prepend=~known[:1])), len(known))  # of each word's run
        run = np.zeros(2 ** len(piece), np.int32)  # of a word: the number of its run, or 0
        run[known[starts[:-1]]] = np.arange(1, len(starts))
        wanted, photographs = _sorted(_words(whole, [piece])[0])  # sorted: looked up in one place of the memory
        turns = [(MIRROR * side, _words(MIRROR[None] * side, [piece])[0, 0]) for side in (np.uint8(0), np.uint8(1))]
        turned = _turned(len(piece), bits, count, word)
        pairs = list[tuple[NDArray[Any], NDArray[Any]]]()  # found near; joined some thousands at a time
        for start, (mirror, turn), mask in product(range(0, len(whole), PART), turns, turned):
            looked_up = wanted[start : start + PART] ^ (turn ^ np.uint32(mask))
            found = run[looked_up]
            some = np.flatnonzero(found)
            one, found = photographs[start + some], found[some]
            first, last, own = starts[found - 1], starts[found], groups[one]
            lowest, highest = groups[order[first] // CUTS], groups[order[last - 1] // CUTS]
            first = np.where(lowest == own, np.maximum(first, last - LOOKED_AT), first)
            counts = np.minimum(last - first, LOOKED_AT) * ((lowest != own) | (highest != own))
            skipped = first - np.cumsum(counts) + counts
            other = order[np.arange(counts.sum()) + np.repeat(skipped, counts)]
            one = np.repeat(one, counts)
            near = _apart(whole.take(one, 0) ^ mirror, cuts.take(other, 0)) <= bits
            if near.any():
                pairs.append((one[near], other[near] // CUTS))
                if sum(len(some) for some, _ in pairs) > PART:
                    _join_pairs(pairs, joined)
        _join_pairs(pairs, joined)


def _pieces(count: int) -> list[NDArray[np.int64]]:
    return np.array_split(np.arange(BITS), count)


def _turned(size: int, bits: int, count: int, word: int) -> list[int]:
    """What is turned round in a word of `size` bits. Of `bits`, all of `count` words can differ in more than this only
    if they differ in more altogether."""
    most = bits // count - (word > bits % count)
    return [sum(1 << bit for bit in some) for few in range(most + 1) for some in combinations(range(size), few)]
