--- Scaled dot-product attention in one pass over the keys; the score matrix never exists in memory.
--
-- A tile is R query rows of one head (attention_blocks.lua says how they lie). Keys come in pieces: scores to a buffer
-- that stays in L1, masks applied, then the running softmax (Milakov and Gimelshein, "Online normalizer calculation
-- for softmax", 2018): with m the maximum so far and l the sum of exp(s - m), a new maximum rescales l and the sums of
-- weighted values by exp(m_old - m_new). Pieces that no row of the tile sees are left out. At the end the sums are
-- divided by l; a row without a visible key is 0.

local blocks_of = require "kernels.attention_blocks"

local LINE = 64              -- bytes that buffers are aligned to
local PAGE = 4096            -- bytes after which addresses fall into the same set of L1
local STACK = 55 * 1024      -- of all buffers of a tile; what does not fit is workspace
local LOG2E = 1.4426950408889634
local FOLDED = 1e-30         -- scales from here on are applied to differences of scores, so that nothing overflows before

-- The mask's strides in the axes of the scores: aligned from the right, 0 where it has extent 1.
local function mask_strides(k, arg, shape, scores)
  local strides = {}
  for axis = 1, #scores do
    local at = axis - (#scores - #shape)
    strides[axis] = at >= 1 and shape[at] == scores[axis] and arg.strides[at] or k.dims:const(0)
  end
  return strides
end

-- All that the emitters below share: shapes, operands, sizes.
local function describe(k, group)
  local D, id = k.dims, group.anchor
  local inputs, out = k.graph:inputs(id), k.graph:shape(id)
  local rank, dtype = #out, k.graph:dtype(id)
  local q, key, v, mask = unpack(group.args[id])
  local a = { id = id, q = q, k = key, v = v, rank = rank, dtype = dtype, bytes = k:bytes(dtype), lanes = k:lanes(dtype),
    tokens = out[rank - 1], width = out[rank], depth = k.graph:shape(inputs[1])[rank], keys = k.graph:shape(inputs[2])[rank - 1],
    lead = { unpack(out, 1, rank - 2) }, layout = group.layout, causal = k.graph:attr(id, "causal") == 1, stack = 0 }
  -- One vector of rows hides less of a causal tile in vain, two need half as many keys at once: 16 keys whose rows are whole
  -- pages apart would push each other out of L1.
  local step = D:value(key.strides[rank - 1])
  local few = a.lanes * a.bytes < 64 or step and step * a.bytes % PAGE == 0
  a.nv = k:choice("attention_rows", a.lanes == 1 and { 4 } or few and { 2, 1 } or { 1, 2 })
  a.piece = k:choice("attention_keys", { 128, 64, 256 })
  local most = (a.lanes * a.bytes == 64 and 16 or a.lanes > 1 and 8 or 16) / a.nv -- accumulators in registers
  a.groups = most > 4 and { most, 4, 1 } or { most, 1 }
  a.rows, a.line = a.nv * a.lanes, a.nv * a.lanes * a.bytes
  a.scale = k.graph:attr(id, "scale")
  if a.scale == 0 then a.scale = 1 / math.sqrt(assert(D:value(a.depth), "head size must be constant")) end
  if mask then
    local scores = { unpack(out, 1, rank - 1) }
    scores[rank] = a.keys
    a.mask = { arg = mask, dtype = mask.dtype, bytes = k:bytes(mask.dtype),
      strides = mask_strides(k, mask, k.graph:shape(inputs[4]), scores) }
    a.mask.line = D:value(a.mask.strides[rank - 1]) == 0 -- one line of the mask serves all queries
    a.mask.packed = D:value(a.mask.strides[rank]) == 1
    a.mask.added = mask.dtype ~= "bool"
  end
  a.folded = a.scale > FOLDED and not (a.mask and a.mask.added)
  return a
end

local function make_blocks(k, a)
  local function block(name, ...)
    local given = { ... }
    local key = { "attention", name }
    for i, v in ipairs(given) do
      key[i + 2] = type(v) == "table" and table.concat(v, ",") or type(v) == "number" and ("%.17g"):format(v) or tostring(v)
    end
    return k:block(function(b)
      k:note(b, a.id)
      blocks_of[name](unpack(given))(b)
    end, a.dtype, table.concat(key, " "))
  end
  local nv, column = a.nv, k.dims:value(a.v.strides[a.rank])
  local made = {
    begin = block("begin", nv), pack = block("pack", nv),
    score = block("score", nv, a.groups, a.folded and 1 or a.scale),
    weigh = block("weigh", nv, a.folded and a.scale * LOG2E or LOG2E),
    value = block("value", nv, a.groups, column and column * a.bytes), finish = block("finish", nv),
  }
  if a.causal then made.hide = block("hide", nv) end
  if a.mask then
    made.add = block("add", nv, a.mask.line)
    if not a.mask.added and a.mask.packed and not a.mask.line then made.bytes = block("bytes", nv) end
  end
  return made
end

-- A buffer of `count` (dim) elements for this tile, aligned: on the stack if there is room, else in workspace. The C name.
local function room(k, a, name, count)
  local D, n = k.dims, k.dims:value(count)
  local bytes = n and n * a.bytes + LINE
  if bytes and a.stack + bytes <= STACK then
    a.stack = a.stack + bytes
    local buffer = k:buffer(a.dtype, bytes / a.bytes)
    k:line("char *const %s = (char *)(((long)%s + %dL) & -%dL);", name, buffer, LINE - 1, LINE)
    return function() end
  end
  local size = D:mul(D:ceildiv(D:mul(count, D:const(a.bytes)), LINE), D:const(LINE))
  local temp = k:temp(D:mul(a.tiles, size))
  return function(t) k:line("char *const %s = %s + %s * %s;", name, k:ptr(temp), t, k:dim(size)) end
end

-- Calls `pack` for the `rows` rows of this tile and `count` columns of x (C expressions; steps in bytes). `contiguous`:
-- the column step is one element, so whole tiles are transposed in registers.
local function pack(k, a, blocks, out, contiguous, count, x, step, column)
  local chunks = k:name("chunks")
  k:line("const long %s = %s;", chunks, contiguous and ("rows == %dL ? %s / %dL : 0"):format(a.rows, k:atom(count), a.lanes) or "0")
  k:call(blocks.pack, { chunks, "rows", ("%s - %s * %dL"):format(k:atom(count), chunks, a.lanes), x, step, column, out,
    ("rows == %dL ? 0 : %s * %dL"):format(a.rows, k:atom(count), a.nv) })
end

local function low(k, name, dtype)
  k:line("union { unsigned %s u; %s f; } %s; %s.u = %s;", dtype == "f32" and "int" or "long", k:ctype(dtype), name, name,
    dtype == "f32" and "0xff800000u" or "0xfff0000000000000ul")
end

-- Mask elements as numbers to add, to `out`, through C: rows of `width` queries (1: a line).
local function mask_by_hand(k, a, width, from, row_step, key_step, out)
  local m = a.mask
  low(k, "hidden", a.dtype)
  k:open("for (long j = 0; j < keys; j++)")
  k:open("for (long i = 0; i < %s; i++)", width == 1 and "1" or "rows")
  local value = "*" .. k:raw(("%s + i * %s + j * %s"):format(from, row_step, key_step), m.dtype)
  k:line("%s[j * %dL + i] = %s;", k:raw(out, a.dtype), width, m.added and value or value .. " ? 0 : hidden.f")
  k:close()
  k:close()
end

-- Applies the mask to scores of keys first .. first + keys - 1.
local function apply_mask(k, a, blocks, at)
  local m, rank = a.mask, a.rank
  local index = { unpack(at) }
  index[rank - 1], index[rank] = "q0", "first"
  k:line("char *masks = %s + (%s) * %dL;", k:read(m.arg), k:offset(m.arg.offset, m.strides, index), m.bytes)
  local row_step = ("%s * %dL"):format(k:dim(m.strides[rank - 1]), m.bytes)
  local key_step = ("%s * %dL"):format(k:dim(m.strides[rank]), m.bytes)
  if m.line then
    mask_by_hand(k, a, 1, "masks", row_step, key_step, "mt")
    k:call(blocks.add, { "keys", "s", "mt" })
  elseif m.added then
    pack(k, a, blocks, "mt", m.packed, "keys", "masks", row_step, key_step)
    k:call(blocks.add, { "keys", "s", "mt" })
  else
    if m.packed then
      -- Bytes in units of an element; the last unit may reach back over keys that are hidden already.
      local unit = a.bytes
      k:open("if (keys >= %dL)", unit)
      k:line("const long units = keys / %dL, back = keys - %dL;", unit, unit)
      pack(k, a, blocks, "mt", true, "units", "masks", row_step, unit .. "L")
      k:call(blocks.bytes, { "units", "s", "mt" })
      k:open("if (keys > units * %dL)", unit)
      pack(k, a, blocks, "mt", false, "1", "(masks + back)", row_step, unit .. "L")
      k:call(blocks.bytes, { "1", ("s + back * %dL"):format(a.line), "mt" })
      k:close()
      k:close(" else {")
      k.depth = k.depth + 1
    end
    mask_by_hand(k, a, a.rows, "masks", row_step, key_step, "mt")
    k:call(blocks.add, { "keys", "s", "mt" })
    if m.packed then k:close() end
  end
end

local function each_piece(k, a, blocks, at)
  local function step(d) return ("%s * %dL"):format(k:dim(d), a.bytes) end
  local function from(arg)
    local index = { unpack(at) }
    index[a.rank - 1] = "first"
    return k:at(arg, index)
  end
  k:open("for (long first = 0; first < visible; first += %dL)", a.piece)
  k:line("long keys = visible - first < %dL ? visible - first : %dL;", a.piece, a.piece)
  -- How often each group of lines runs, for `count` lines.
  local function grouped(words, count)
    for i, n in ipairs(a.groups) do
      words[#words + 1] = i == 1 and ("%s / %dL"):format(count, n) or ("%s %% %dL / %dL"):format(count, a.groups[i - 1], n)
    end
    return words
  end
  k:call(blocks.score, grouped({ k:dim(a.depth), from(a.k), step(a.k.strides[a.rank - 1]), step(a.k.strides[a.rank]), "qt", "s" },
    "keys"))
  if a.mask then apply_mask(k, a, blocks, at) end
  if a.causal then -- last: no mask brings back what is hidden
    k:line("long seen = q0 + 1 - first;")
    k:line("if (seen < 0) seen = 0;")
    k:open("if (seen < keys)")
    k:call(blocks.hide, { "keys - seen", ("s + seen * %dL"):format(a.line), "first + seen - q0" })
    k:close()
  end
  k:call(blocks.weigh, { "keys", "s", "state" })
  k:call(blocks.value, grouped({ "keys", from(a.v), step(a.v.strides[a.rank - 1]), step(a.v.strides[a.rank]), "s", "o", "state" },
    k:dim(a.width)))
  k:close()
end

-- Declares `start`, the tile's first element in what the group stores, and `raw`, where its rows go when the anchor is stored.
local function results(k, a, queries)
  k:line("const long start = %s;", a.layout and k:offset(nil, a.layout, queries)
    or ("(head * %s + q0) * %s"):format(k:dim(a.tokens), k:dim(a.width)))
  if k.stored then k:line("char *const raw = %s + start * %dL;", k:write(a.id), a.bytes) end
end

local function emit(k, group)
  local D, a = k.dims, describe(k, group)
  local blocks = make_blocks(k, a)
  local per_head = D:ceildiv(a.tokens, a.rows)
  a.tiles = D:mul(k:product(a.lead), per_head)
  k:step { tiles = a.tiles }
  local R, out_row = D:const(a.rows), ("%s * %dL"):format(k:dim(a.layout and a.layout[a.rank - 1] or a.width), a.bytes)
  local places = { room(k, a, "s", D:const(a.piece * a.rows)), room(k, a, "state", D:const(3 * a.rows)) }
  local mask_rows = a.mask and (a.mask.line and 1 or a.rows)
  if a.mask then places[3] = room(k, a, "mt", D:const(a.piece * mask_rows)) end
  places[#places + 1] = room(k, a, "o", D:mul(a.width, R))
  places[#places + 1] = room(k, a, "qt", D:mul(a.depth, R))
  if not k.stored then places[#places + 1] = room(k, a, "raw", D:mul(a.width, R)) end
  k:tiles(function(t)
    for _, place in ipairs(places) do place(t) end
    k:line("const long head = %s / %s, q0 = %s %% %s * %dL;", t, k:dim(per_head), t, k:dim(per_head), a.rows)
    k:line("const long rows = %s - q0 < %dL ? %s - q0 : %dL;", k:dim(a.tokens), a.rows, k:dim(a.tokens), a.rows)
    k:line("long visible = %s;", k:dim(a.keys))
    if a.causal then k:line("if (visible > q0 + rows) visible = q0 + rows;") end
    local at = k:unravel(a.lead, "head")
    if #a.lead == 0 then at = {} end
    local queries = { unpack(at) }
    queries[a.rank - 1] = "q0"
    results(k, a, queries)
    k:call(blocks.begin, { ("%s * %dL"):format(k:dim(a.width), a.nv), "o", "state" })
    pack(k, a, blocks, "qt", D:value(a.q.strides[a.rank]) == 1, k:dim(a.depth), k:at(a.q, queries),
      ("%s * %dL"):format(k:dim(a.q.strides[a.rank - 1]), a.bytes), ("%s * %dL"):format(k:dim(a.q.strides[a.rank]), a.bytes))
    each_piece(k, a, blocks, at)
    k:line("const long turned = rows == %dL ? %s / %dL : 0;", a.rows, k:dim(a.width), a.lanes)
    k:call(blocks.finish, { "turned", "rows", ("%s - turned * %dL"):format(k:dim(a.width), a.lanes), "o", "state", "raw", out_row })
    k:epilogue { start = "start", n = ("rows * %s"):format(k:dim(a.width)), from = not k.stored and "raw" or nil }
  end)
end

return { name = "attention", emit = emit }
