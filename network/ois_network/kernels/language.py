"""Our kernels in the Triton language.

`dot_channels` is a head's last convolution. The others are the masked cross-attention: one pass
over the keys, then a sum.

A program of the first kernel computes one object, one head, one tile of slots and one share of the
keys. The keys are divided because 8 heads of one object cannot fill a GPU. It keeps a running
softmax in base 2, always in fp32:

    top        largest logit so far         logit = log2(e) (q·k/√d - σ |D_k - D_q|)
    total      sum of 2^(logit - top)
    gathered   sum of 2^(logit - top) v

All shares but the last hold patches of the image, with K and V that all objects share. The last
one holds the patches that the object's disks touch, with what the disks add to K and V; it exists
only with dense prompts. Those patches are left out of the other shares, so each patch counts once.
The second kernel adds the shares, all of them in one tile.

The output for a slot that may attend to no key is 0, not NaN. `slots.visible_bits` makes no such
slot.
"""

# No `from __future__ import annotations`: the compiler reads `tl.constexpr` from annotations.
import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)
_NOTHING = tl.constexpr(-1e30)  # a `top` below every logit; finite, so no difference is NaN
# Flags of a patch. Each slot needs one of them, and attends to the patches that have it.
_FRONT = tl.constexpr(1)  # some foreground, for positive slots
_BACK = tl.constexpr(2)  # some background, for negative slots
_ALWAYS = tl.constexpr(4)  # exists; for empty slots, and for all slots if nothing is blocked


@triton.jit
def _fold(
    query,
    key,
    value,
    scale,
    bias,
    need,
    flags,
    top,
    total,
    gathered,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Add one tile of keys to the running softmax."""
    if WIDEN:
        query, key = query.to(tl.float32), key.to(tl.float32)
    logits = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale - bias
    seen = (need[:, None] & flags[None, :]) != 0
    logits = tl.where(seen, logits, float("-inf"))
    new_top = tl.maximum(top, tl.max(logits, 1))
    fade = tl.exp2(top - new_top)
    weight = tl.exp2(logits - new_top[:, None])
    total = total * fade + tl.sum(weight, 1)
    weight = weight.to(value.dtype)
    if WIDEN:
        weight, value = weight.to(tl.float32), value.to(tl.float32)
    weighed = tl.dot(weight, value, input_precision=PRECISION)
    return new_top, total, gathered * fade[:, None] + weighed


@triton.jit
def _flags(row, start, words, COUNT: tl.constexpr):
    """Flags `start` to `start` + COUNT - 1 of a packed row; False beyond its last word."""
    word = start // 32 + tl.arange(0, COUNT // 32)
    packed = tl.load(row + word, mask=word < words, other=0)
    flags = (packed[:, None] >> tl.arange(0, 32)[None, :]) & 1
    return tl.reshape(flags, [COUNT]) != 0


@triton.jit
def _flag(row, index, mask):
    """Flag `index` of a packed row, for each of several indices."""
    return ((tl.load(row + index // 32, mask=mask, other=0) >> (index % 32)) & 1) != 0


@triton.jit
def _sum(a, b):
    """a + b, rounded once to their type."""
    return (a.to(tl.float32) + b.to(tl.float32)).to(a.dtype)


@triton.jit
def masked_attention(
    query,  # (N, queries, C)
    key,  # (N or 1, keys, C)
    value,  # (N or 1, keys, C)
    key_part,  # (N, parts, C)
    value_part,  # (N, parts, C)
    label,  # (N, queries) int32: 1, 0, -1
    centre,  # (N, queries) fp32
    depth,  # (N or 1, keys) fp32
    sigma,  # (1) or (HEADS) fp32
    visible,  # (N, 2, words) int32 bits
    touched,  # (N, words) int32 bits
    index,  # (N, parts) int32
    fresh,  # (N, parts) int8
    out,  # (N, queries, C)
    sums,  # (N, HEADS, shares, queries, DIM) fp32
    stats,  # (N, HEADS, shares, queries, 2) fp32: top, total
    queries,
    keys,
    parts,
    splits,  # number of common shares; the share of touched patches, if any, comes after
    scale,  # 1 / sqrt(DIM)
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    KEYS_SHARED: tl.constexpr,  # key and value are one image's
    DEPTH_SHARED: tl.constexpr,
    SIGMA_PER_HEAD: tl.constexpr,
    ORDER: tl.constexpr,  # centre, depth and sigma are given
    ALLOW: tl.constexpr,  # visible is given
    PARTS: tl.constexpr,  # key_part, value_part, touched, index and fresh are given
    SKIP: tl.constexpr,  # leave out tiles to which no slot attends
    DIRECT: tl.constexpr,  # one share: write `out`, not `sums` and `stats`
    PRECISION: tl.constexpr,  # of products of fp32 inputs
    WIDEN: tl.constexpr,  # multiply in fp32: the interpreter computes bf16 products wrongly
):
    CHANNELS: tl.constexpr = HEADS * DIM
    share = tl.program_id(0)
    tile = tl.program_id(1) // HEADS
    head = tl.program_id(1) % HEADS
    item = tl.program_id(2).to(tl.int64)
    words = (keys + 31) // 32

    slot = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    real = slot < queries
    channel = head * DIM + tl.arange(0, DIM)
    places = (item * queries + slot)[:, None] * CHANNELS + channel[None, :]
    q = tl.load(query + places, mask=real[:, None], other=0.0)
    scale *= _LOG2_E
    kind = tl.load(label + item * queries + slot, mask=real, other=-2)
    need = tl.where(real, _ALWAYS, 0)  # the flag that a patch must have
    if ALLOW:
        need = tl.where(kind == 1, _FRONT, tl.where(kind == 0, _BACK, need))
    steepness = tl.zeros([BLOCK_Q], tl.float32)
    middle = tl.zeros([BLOCK_Q], tl.float32)
    if ORDER:
        strength = tl.load(sigma + head * SIGMA_PER_HEAD)
        steepness = tl.where(kind >= 0, strength * _LOG2_E, 0.0)
        middle = tl.load(centre + item * queries + slot, mask=real, other=0.0)

    needs = 0  # all flags that slots of this tile need
    if SKIP:
        needs = tl.max(need & _FRONT, 0) | tl.max(need & _BACK, 0) | tl.max(need & _ALWAYS, 0)

    common = item * 0 if KEYS_SHARED else item * keys * CHANNELS
    key += common
    value += common
    depth += item * 0 if DEPTH_SHARED else item * keys
    visible += item * 2 * words
    top = tl.full([BLOCK_Q], _NOTHING, tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    gathered = tl.zeros([BLOCK_Q, DIM], tl.float32)

    if share < splits:
        tiles = (keys + BLOCK_K - 1) // BLOCK_K
        length = (tiles + splits - 1) // splits * BLOCK_K
        first = share * length
        for start in range(first, min(first + length, keys), BLOCK_K):
            patch = start + tl.arange(0, BLOCK_K)
            there = patch < keys
            if PARTS:
                there &= ~_flags(touched + item * words, start, words, BLOCK_K)
            flags = tl.where(there, _ALWAYS, 0)
            if ALLOW:
                front = _flags(visible, start, words, BLOCK_K)
                back = _flags(visible + words, start, words, BLOCK_K)
                flags |= tl.where(there & front, _FRONT, 0) | tl.where(there & back, _BACK, 0)
            wanted = True
            if SKIP:
                wanted = tl.max(flags & needs, 0) != 0
            if wanted:
                rows = patch[:, None] * CHANNELS + channel[None, :]
                k = tl.load(key + rows, mask=there[:, None], other=0.0)
                v = tl.load(value + rows, mask=there[:, None], other=0.0)
                bias = tl.zeros([BLOCK_Q, BLOCK_K], tl.float32)
                if ORDER:
                    far = tl.load(depth + patch, mask=there, other=0.0)
                    bias = steepness[:, None] * tl.abs(far[None, :] - middle[:, None])
                top, total, gathered = _fold(
                    q, k, v, scale, bias, need, flags, top, total, gathered, PRECISION, WIDEN
                )
    elif PARTS:
        for start in range(0, parts, BLOCK_K):
            entry = start + tl.arange(0, BLOCK_K)
            inside = entry < parts
            there = tl.load(fresh + item * parts + entry, mask=inside, other=0) != 0
            patch = tl.load(index + item * parts + entry, mask=inside, other=0)
            flags = tl.where(there, _ALWAYS, 0)
            if ALLOW:
                front = _flag(visible, patch, there)
                back = _flag(visible + words, patch, there)
                flags |= tl.where(there & front, _FRONT, 0) | tl.where(there & back, _BACK, 0)
            rows = patch[:, None] * CHANNELS + channel[None, :]
            own = (item * parts + entry)[:, None] * CHANNELS + channel[None, :]
            k = tl.load(key + rows, mask=there[:, None], other=0.0)
            v = tl.load(value + rows, mask=there[:, None], other=0.0)
            k = _sum(k, tl.load(key_part + own, mask=there[:, None], other=0.0))
            v = _sum(v, tl.load(value_part + own, mask=there[:, None], other=0.0))
            bias = tl.zeros([BLOCK_Q, BLOCK_K], tl.float32)
            if ORDER:
                far = tl.load(depth + patch, mask=there, other=0.0)
                bias = steepness[:, None] * tl.abs(far[None, :] - middle[:, None])
            top, total, gathered = _fold(
                q, k, v, scale, bias, need, flags, top, total, gathered, PRECISION, WIDEN
            )

    if DIRECT:
        result = gathered / tl.where(total > 0, total, 1.0)[:, None]
        tl.store(out + places, result.to(out.dtype.element_ty), mask=real[:, None])
    else:
        shares = splits + (1 if PARTS else 0)
        place = ((item * HEADS + head) * shares + share) * queries + slot
        tl.store(stats + place * 2, top, mask=real)
        tl.store(stats + place * 2 + 1, total, mask=real)
        dims = tl.arange(0, DIM)
        tl.store(sums + place[:, None] * DIM + dims[None, :], gathered, mask=real[:, None])


@triton.jit
def add_shares(
    sums,  # (N, HEADS, shares, queries, DIM) fp32
    stats,  # (N, HEADS, shares, queries, 2) fp32
    out,  # (N, queries, C)
    queries,
    shares,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_S: tl.constexpr,  # at least `shares`
):
    # One slot of one head, and all shares in one tile: every load is under way at the same time. A
    # loop over the shares would wait for the L2 cache once per share.
    CHANNELS: tl.constexpr = HEADS * DIM
    slot = tl.program_id(0)
    head = tl.program_id(1)
    item = tl.program_id(2).to(tl.int64)
    share = tl.arange(0, BLOCK_S)
    there = share < shares
    dims = tl.arange(0, DIM)
    place = ((item * HEADS + head) * shares + share) * queries + slot
    tops = tl.load(stats + place * 2, mask=there, other=_NOTHING)
    totals = tl.load(stats + place * 2 + 1, mask=there, other=0.0)
    rows = place[:, None] * DIM + dims[None, :]
    partial = tl.load(sums + rows, mask=there[:, None], other=0.0)
    weight = tl.exp2(tops - tl.max(tops, 0))
    total = tl.sum(totals * weight, 0)
    gathered = tl.sum(partial * weight[:, None], 0)
    result = gathered / tl.where(total > 0, total, 1.0)
    places = (item * queries + slot) * CHANNELS + head * DIM + dims
    tl.store(out + places, result.to(out.dtype.element_ty))


@triton.jit
def dot_channels(
    x,  # (pixels, CHANNELS)
    weight,  # (CHANNELS) fp32
    bias,  # (1) fp32
    out,  # (pixels) fp32
    pixels,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The last convolution of a head, to one channel: a dot product per pixel, in one pass."""
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = pixel < pixels
    channel = tl.arange(0, CHANNELS)
    values = tl.load(x + pixel[:, None] * CHANNELS + channel[None, :], mask=there[:, None], other=0)
    products = values.to(tl.float32) * tl.load(weight + channel)[None, :]
    tl.store(out + pixel, tl.sum(products, 1) + tl.load(bias), mask=there)
