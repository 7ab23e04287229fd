"""Which elements of a GGUF file those of transformers' tensors are."""

import numpy as np


def origins(numbered, places, zeros):
    """For each tensor of transformers' file the one of the GGUF file that has its elements, and how: `=`, `+1` (larger by 1),
    an expert's or a row's number, `halves D` (heads of D rows, stored as pairs there), `after N` (N rows lie before them), `squeezed` (without
    a dimension of 1 in the middle), `transposed`, `groups Q D` (the queries of Q heads of D rows, their key, their value, and so on), or
    with a second tensor `pairs` and `transposed pairs` (the rows of both take turns), `joined` (those of each expert behind each other) or
    `keys and values` (of each head those of the first, transposed, then those of the second). Otherwise rearranged rows or columns are
    `rows`, `squeezed rows`, `log rows` (logarithms of the opposites) or `columns`, with runs of them, each the first and how many; those
    of a second tensor are counted on. None for anything else."""
    owner = {int(n): name for name, where in places.items() for n in where.flatten()}
    out = {}
    for name, numbers in numbered.items():
        source, *others = dict.fromkeys(owner[int(n)] for n in numbers.flat if int(n) in owner)
        if others:
            a, b = places[source], places[others[0]]
            hows = []
            if a.shape == b.shape:
                both = np.stack([a, b], 2).reshape(a.shape[0], -1, *a.shape[2:])
                hows = [("pairs", both), ("transposed pairs", both.swapaxes(1, -1)), ("joined", np.concatenate([a, b], 1))]
            elif a.ndim == 3 and a.shape[1] == b.shape[2]:
                hows = [("keys and values", np.concatenate([a.swapaxes(1, 2), b], 1).reshape(-1, b.shape[2]))]
            how = next((how for how, w in hows if w.shape == numbers.shape and (w == numbers).all()), None)
            if how:
                out[name] = [source, how, others[0]]
            elif a.shape[1:] == b.shape[1:] and len(others) == 1 and (rows := runs(numbers, np.concatenate([a, b]))):
                out[name] = [source, "rows", rows, others[0]]
            else:
                return None
            continue
        where, added = places[source], zeros[source].flatten()[0]
        hows = [("=" if added == 0 else f"+{added:.0f}", where)]
        if numbers.ndim == 3 and numbers.shape[1] == 1:
            hows.append(("squeezed", where[:, None]))
        if where.ndim == 2:
            hows += [("transposed", where.T)]
            hows += [(f"row {r}", row) for r, row in enumerate(where) if numbers.ndim == 1]
        if source.endswith(("attn_qkv.weight", "attn_qkv.bias")):
            hows += groups(where)
        if where.ndim == 3:
            hows += [(f"expert {e}", matrix) for e, matrix in enumerate(where)] + [("transposed", where.swapaxes(1, 2))]
        for dim in (24, 32, 40):
            if where.shape[0] % dim == 0:
                pairs = where.reshape(-1, dim // 2, 2, *where.shape[1:])
                hows.append((f"halves {dim}", pairs.swapaxes(1, 2).reshape(where.shape)))
        before = numbers.shape[0] - where.shape[0]
        if before > 0 and numbers[before:].shape == where.shape and (numbers[before:] == where).all():
            hows.append((f"after {before}", numbers))
        how = next((how for how, w in hows if w.shape == numbers.shape and (w == numbers).all()), None)
        how = None if name.endswith("A_log") else how
        if how:
            out[name] = [source, how]
        elif rows := runs(numbers, where):
            kind = "log " if name.endswith("A_log") else "squeezed " if numbers.ndim == 3 else ""
            out[name] = [source, f"{kind}rows", rows]
        elif numbers.ndim == 2 and (columns := runs(numbers.T, where.T)):
            out[name] = [source, "columns", columns]
        else:
            return None
    return out


def runs(numbers, where):
    """The rows of `where` that those of `numbers` are, as the first and the number of those that follow each other; None where they are not."""
    place = {row.tobytes(): i for i, row in enumerate(where.astype(np.int64).reshape(len(where), -1))}
    out = []
    for row in numbers.astype(np.int64).reshape(len(numbers), -1):
        i = place.get(row.tobytes())
        if i is None:
            return None
        if out and sum(out[-1]) == i:
            out[-1][1] += 1
        else:
            out.append([i, 1])
    return out


def groups(where):
    """What queries, keys and values may be stored as, a group of heads behind the other."""
    for dim in (16, 24):
        if len(where) % dim:
            continue
        heads = where.reshape(-1, dim, *where.shape[1:])
        for queries in (1, 2, 4):
            count = len(heads) // (queries + 2)
            if len(heads) != count * (queries + 2):
                continue
            q, k, v = heads[: count * queries], heads[count * queries : -count], heads[-count:]
            q = q.reshape(count, queries, *heads.shape[1:])
            yield f"groups {queries} {dim}", np.concatenate([q, k[:, None], v[:, None]], 1).reshape(where.shape)
