--- Convolution as outer products: a tile of `rows` output channels times `wide` vectors of neighbouring pixels in
-- registers, one broadcast weight and one vector of pixels per multiply-add; no matrix of patches is written.
--
-- A tile of the step is one block of output channels over up to LINES output rows and a stretch of columns. Its pixels are
-- walked row by row, or, where that wastes fewer lanes, as one flat run over the layout's pitch: the columns between rows
-- are then computed too, and left behind when the rows are brought together.

local copy = require "kernels.conv_copy"
local planes = require "kernels.planes"
local weights = require "kernels.conv_weights"

local M = {}

local RAW_BYTES = 36 * 1024 -- stack buffer of raw sums
local PIXELS, LINES = 1024, 16

-- Per instruction set: vector registers for sums, pixels and a broadcast weight; rows of a register tile where there are
-- enough channels, fewest and most; share of the time that a row less costs; taps of a loop that are written out, where
-- the loop's own instructions count.
local TILE = {
  avx512 = { room = 31, fewest = 8, most = 14, loss = 0, written = 1 },
  avx2 = { room = 15, fewest = 3, most = 6, loss = 0.05, written = 3 },
  scalar = { room = 13, fewest = 4, most = 4, loss = 0, written = 1 },
}
local SUMS = 12 -- independent sums that hide the latency of a multiply-add

-- Rows into which `each` channels are divided, best first: fewest left over, of equals the most rows.
local function row_choices(each, tile)
  if each <= tile.most then return { each } end
  local list = {}
  for rows = tile.most, tile.fewest, -1 do list[#list + 1] = rows end
  local function time(rows) return math.ceil(each / rows) * rows * (1 + tile.loss * (tile.most - rows)) end
  table.sort(list, function(a, b)
    if time(a) ~= time(b) then return time(a) < time(b) end
    return a > b
  end)
  return list
end

-- Output channels and pixel vectors of a register tile.
local function register_tile(k, c)
  local tile = TILE[k.isa]
  local rows = k:choice("conv_rows", row_choices(c.each, tile))
  local wide = math.max(1, math.floor((tile.room - 1) / (rows + 1)))
  while wide > 2 and rows * (wide - 1) >= SUMS do wide = wide - 1 end
  return { rows = rows, blocks = math.ceil(c.each / rows), wide = math.min(wide, 8) }
end

-- ---- the block ----

-- Words of the block, and those of the loops from word STEPS on: how often, step, jump.
local WORDS = { "lines", "strips", "rest", "x", "line_step", "out", "out_line", "row_step", "last_step", "panel" }
local STEPS = #WORDS

-- One tap: the pixels at x + shift, `wide` vectors, times the weights at w + at.
local function tap(b, p, acc, x, shift, w, at, wide, mask)
  local lanes, pixels = b.lanes * b.bytes, {}
  for v = 1, wide do pixels[v] = b:load(x, shift + (v - 1) * lanes, mask) end
  for j = 1, p.rows do
    local weight = b:bcast(w, at + (j - 1) * b.bytes)
    for v = 1, wide do b:set(acc[j][v], b:fma(weight, pixels[v], acc[j][v])) end
  end
end

-- The loops over taps, outermost first; `level` counts down to the body. x moves by the step of the loop, whose word
-- already takes off what the loops inside have moved; the weights, which lie tap by tap, likewise. body(shift, at): bytes
-- from x and from the weights. Gives how many taps the weights have moved.
local function taps(b, loops, level, x, weight, row, body)
  local loop = loops[level]
  if not loop then
    body(0, 0)
    return 0
  end
  if loop.written then
    for i = 0, loop.n - 1 do body(i * loop.written * b.bytes, i * row) end
    b:g_set(x, b:g_addk(x, loop.n * loop.written * b.bytes))
    b:g_set(weight, b:g_addk(weight, loop.n * row))
    return loop.n
  end
  local function run(count)
    b:loop(count, function()
      local moved = taps(b, loops, level - 1, x, weight, row, body)
      local step = (loop.phases and 2 or 1) * loop.taps - moved
      b:g_set(x, b:g_add(x, b:arg(STEPS + 3 * level - 2)))
      if step ~= 0 then b:g_set(weight, b:g_addk(weight, step * row)) end
    end)
  end
  if not loop.phases then
    run(b:arg(STEPS + 3 * level - 3))
    return loop.n * loop.taps
  end
  local count, start, first = b:copy(b:const(math.ceil(loop.phases / 2))), b:copy(x), b:copy(weight)
  b:loop(b:const(2), function()
    run(count)
    b:g_set(start, b:g_add(start, b:arg(STEPS + 3 * level - 1)))
    b:g_set(first, b:g_addk(first, loop.taps * row))
    b:g_set(x, start)
    b:g_set(weight, first)
    b:g_set(count, b:g_sub(b:const(loop.phases), count))
  end)
  return 2 * loop.taps
end

-- All taps of `wide` vectors of pixels at `at`, and their store. Channels are stored last to first: those that the last
-- block lacks go where its last one follows.
local function register_sums(b, c, p, loops, w, at, out, wide, mask)
  local acc, x, weight = {}, b:copy(at), b:copy(w.panel)
  for j = 1, p.rows do
    acc[j] = {}
    for v = 1, wide do acc[j][v] = c.bias and b:bcast(w.panel, (j - 1) * b.bytes) or b:splat(0) end
  end
  local row = p.rows * b.bytes
  if c.bias then b:g_set(weight, b:g_addk(weight, row)) end
  taps(b, loops, #loops, x, weight, row, function(shift, at) tap(b, p, acc, x, shift, weight, at, wide, mask) end)
  local to = b:copy(out)
  for j = p.rows, 1, -1 do
    for v = 1, wide do b:store(to, acc[j][v], (v - 1) * b.lanes * b.bytes, mask) end
    if j > 1 then b:g_set(to, b:g_sub(to, j <= p.whole and w.row_step or w.last_step)) end
  end
end

-- What the block depends on: the same for layers that differ in their depth alone.
local function key_of(k, c, p, loops)
  local parts = { "conv sums", p.rows, p.wide, p.whole, c.bias and 1 or 0, k.ordinal[k.group.anchor] }
  for i, loop in ipairs(loops) do
    local n = (i < #loops or loop.written) and loop.n or 0
    parts[#parts + 1] = ("%d*%d/%d/%d"):format(n, loop.taps, loop.phases or 0, loop.written or 0)
  end
  return table.concat(parts, " ")
end

local function sums_block(k, c, p, loops)
  return function(b)
    local w, vector = {}, b.lanes * b.bytes
    for i, name in ipairs(WORDS) do w[name] = b:arg(i - 1) end
    k:note(b, k.group.anchor)
    local line, out_line = b:copy(w.x), b:copy(w.out)
    b:loop(w.lines, function()
      local at, out = b:copy(line), b:copy(out_line)
      local function onwards(count)
        b:g_set(at, b:g_addk(at, count * vector))
        b:g_set(out, b:g_addk(out, count * vector))
      end
      b:loop(w.strips, function()
        register_sums(b, c, p, loops, w, at, out, p.wide)
        onwards(p.wide)
      end)
      local left = b:copy(w.rest)
      b:loop(b:g_shrk(b:g_addk(left, b.lanes - 1), math.log(b.lanes, 2)), function()
        register_sums(b, c, p, loops, w, at, out, 1, b.lanes > 1 and b:m_tail(left) or nil)
        b:g_set(left, b:g_addk(left, -b.lanes))
        onwards(1)
      end)
      b:g_set(line, b:g_add(line, w.line_step))
      b:g_set(out_line, b:g_add(out_line, w.out_line))
    end)
  end
end

-- Rows of a flat run brought together; words: channels, lines, columns, from, its line step, its channel step less all
-- lines' steps, and the same three of the target.
local function gather_block(b)
  local lines, n, from, to = b:arg(1), b:arg(2), b:copy(b:arg(3)), b:copy(b:arg(6))
  b:loop(b:arg(0), function()
    b:loop(lines, function()
      local x, y = b:copy(from), b:copy(to)
      b:each(n, { x, y }, function(mask) b:store(y, b:load(x, 0, mask), 0, mask) end)
      b:g_set(from, b:g_add(from, b:arg(4)))
      b:g_set(to, b:g_add(to, b:arg(7)))
    end)
    b:g_set(from, b:g_add(from, b:arg(5)))
    b:g_set(to, b:g_add(to, b:arg(8)))
  end)
end

-- ---- the step ----

-- Lines and columns of a tile, capacity of the raw buffer per channel (elements).
local function cut(k, c, p)
  local D, strip = k.dims, p.wide * k:lanes(c.dtype)
  local capacity = math.min(2 * PIXELS, math.floor(RAW_BYTES / k:bytes(c.dtype) / p.rows))
  local columns = math.max(strip, math.floor(math.min(PIXELS, capacity) / strip) * strip)
  local height, width = D:value(c.out[1]), D:value(c.out[2])
  local lines = width and width > 0 and math.max(1, math.ceil(PIXELS / 2 / width)) or LINES
  if height and height > 0 then lines = math.ceil(height / math.ceil(height / lines)) end
  return lines, columns, math.max(capacity, strip)
end

-- Three words per loop: how often it runs, its step, less what the loops inside have moved x, and the jump between its
-- phases.
local function loop_words(k, c, loops)
  local D, words, moved = k.dims, {}, k.dims:const(0)
  local function put(d) words[#words + 1] = d and ("%s * %dL"):format(k:dim(d), k:bytes(c.dtype)) or "0L" end
  for _, loop in ipairs(loops) do
    words[#words + 1] = ("%dL"):format(loop.n)
    put(D:sub(loop.step, moved))
    put(loop.jump)
    moved = D:mul(loop.jump or loop.step, D:const(loop.n))
  end
  return words
end

-- C locals of tile t: block, group, sample; first line and column (r0, c0), how many (lines, columns), valid channels.
local function decode(k, c, p, s)
  k:line("long block = t %% %dL, rest = t / %dL;", p.blocks, p.blocks)
  k:line("long c0 = rest %% %s * %dL; rest /= %s;", k:dim(s.column_parts), s.columns, k:dim(s.column_parts))
  k:line("long r0 = rest %% %s * %dL; rest /= %s;", k:dim(s.line_parts), s.lines, k:dim(s.line_parts))
  k:line("long group = rest %% %dL, sample = rest / %dL;", c.groups, c.groups)
  k:line("long lines = %s - r0 < %dL ? %s - r0 : %dL;", k:dim(c.out[1]), s.lines, k:dim(c.out[1]), s.lines)
  k:line("long columns = %s - c0 < %dL ? %s - c0 : %dL;", k:dim(c.out[2]), s.columns, k:dim(c.out[2]), s.columns)
  k:line("long valid = block == %dL ? %dL : %dL;", p.blocks - 1, p.whole, p.rows)
  k:line("long o = (sample * %dL + group) * %dL + block * %dL;", c.groups, c.each, p.rows)
  k:line("long start = (o * %s + r0) * %s + c0;", k:dim(c.out[1]), k:dim(c.out[2]))
end

-- C: the number of tile-vectors that `n` neighbouring pixels take; a single vector costs a little more than its share.
local function effort(n, strip, wide, lanes)
  return ("(%s / %dL * %dL + (%s %% %dL + %dL) / %dL * 9L)"):format(n, strip, 8 * wide, n, strip, lanes - 1, lanes)
end

-- C: flat = 1 when one run over the pitch beats row by row; `some` = lines of one pass.
local function choose_walk(k, l, s, direct)
  local pitch = k:dim(l.pitch)
  k:line("long flat = 0, some = %s;", direct and "lines" or ("%dL / columns"):format(s.capacity))
  if l.flat then
    local run = ("((lines - 1) * %s + columns)"):format(pitch)
    k:open("if (columns == %s && %s <= %dL)", k:dim(s.width), pitch, s.capacity)
    k:line("flat = %s < lines * %s;", effort(run, s.strip, s.wide, s.lanes), effort("columns", s.strip, s.wide, s.lanes))
    k:line("if (flat) some = %dL / %s;", s.capacity, pitch)
    k:close()
  end
  k:line("if (some > lines) some = lines;")
end

-- C: sums of `m` lines from line `pass` of the tile on, to the raw buffer or straight to the target.
local function compute(k, c, l, p, s, target, raw)
  local bytes, rows = k:bytes(c.dtype), s.capacity * k:bytes(c.dtype)
  local place = target and ("%s + (start + pass * %s) * %dL"):format(k:write(target), k:dim(s.width), bytes)
    or ("(char *)%s"):format(raw)
  local plane = target and ("%s * %dL"):format(k:dim(s.plane), bytes) or ("%dL"):format(rows)
  local line = target and ("%s * %dL"):format(k:dim(s.width), bytes) or ("columns * %dL"):format(bytes)
  k:line("char *to = %s;", place)
  k:line("long run = flat ? (m - 1) * %s + columns : columns, channel = flat ? %dL : %s;", k:dim(l.pitch), rows, plane)
  k:line("char *sums = flat ? (char *)%s : to;", raw or "0")
  local words = { "flat ? 1 : m", ("run / %dL"):format(s.strip), ("run %% %dL"):format(s.strip),
    ("x + pass * %s * %dL"):format(k:dim(l.pitch), bytes), ("%s * %dL"):format(k:dim(l.pitch), bytes),
    "sums + (valid - 1) * channel", line, "channel", ("block == %dL ? 0 : channel"):format(p.blocks - 1),
    p.address("group", "block") }
  for _, word in ipairs(loop_words(k, c, l.loops)) do words[#words + 1] = word end
  k:call(s.sums, words)
  if not l.flat then return end
  k:open("if (flat)")
  k:call(s.gather, { "valid", "m", "columns", "sums", ("%s * %dL"):format(k:dim(l.pitch), bytes),
    ("channel - m * %s * %dL"):format(k:dim(l.pitch), bytes), "to", ("columns * %dL"):format(bytes),
    ("%s - m * columns * %dL"):format(plane, bytes) })
  k:close()
end

-- The step before: panels of weights and, where x is not read in place, its copy. Panels that are kept have a step of
-- their own.
local function prepare(k, panels, copied)
  local D = k.dims
  if panels.kept then
    k:step { tiles = D:const(panels.tiles), label = "weights", when = "prepare" }
    k:tiles(panels.body)
    if not copied then return end
    k:step { tiles = copied.tiles, label = "padding" }
    return k:tiles(copied.body)
  end
  k:step { tiles = copied and D:add(D:const(panels.tiles), copied.tiles) or D:const(panels.tiles), label = "weights, padding" }
  k:tiles(function(t)
    if not copied then return panels.body(t) end
    k:open("if (%s < %dL)", t, panels.tiles)
    panels.body(t)
    k:close()
    k:open("else")
    k:line("long u = %s - %dL;", t, panels.tiles)
    copied.body("u")
    k:close()
  end)
end

--- Writes the steps. l: conv_form.lua's layout.
function M.emit(k, c, l)
  local D, p = k.dims, register_tile(k, c)
  local first = l.loops[1]
  local short = first and first.taps == 1 and not first.phases and first.n <= TILE[k.isa].written
  if short then first.written = D:value(first.step) end
  prepare(k, weights.part(k, c, p), copy.part(k, c, l))
  local s = { wide = p.wide, lanes = k:lanes(c.dtype), width = c.out[2], plane = D:mul(c.out[1], c.out[2]) }
  s.strip = s.wide * s.lanes
  s.lines, s.columns, s.capacity = cut(k, c, p)
  s.line_parts, s.column_parts = k:ceildiv(c.out[1], s.lines), k:ceildiv(c.out[2], s.columns)
  s.sums = k:block(sums_block(k, c, p, l.loops), c.dtype, key_of(k, c, p, l.loops))
  s.gather = l.flat and k:block(gather_block, c.dtype, "conv gather")
  local target = planes.target(k)
  k:step { tiles = k:product { c.samples, D:const(c.groups * p.blocks), s.line_parts, s.column_parts } }
  local raw = (l.flat or not target) and k:buffer(c.dtype, s.capacity * p.rows)
  k:tiles(function()
    decode(k, c, p, s)
    k:line("char *x = %s + (r0 * %s + c0) * %dL;", l.address("sample", ("group * %dL"):format(c.depth)), k:dim(l.pitch),
      k:bytes(c.dtype))
    choose_walk(k, l, s, target)
    k:open("for (long pass = 0; pass < lines; pass += some)")
    k:line("long m = lines - pass < some ? lines - pass : some;")
    compute(k, c, l, p, s, target, raw)
    k:line("long begin = start + pass * %s;", k:dim(s.width))
    planes.finish(k, { target = target, raw = ("(char *)%s"):format(raw), raw_plane = ("%dL"):format(s.capacity), start = "begin",
      planes = "valid", lines = "m", columns = "columns", width = s.width, plane = s.plane })
    k:close()
  end)
end

return M
