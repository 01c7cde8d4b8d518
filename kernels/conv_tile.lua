--- The register tile of a convolution: `rows` output channels times `wide` vectors of neighbouring pixels, one broadcast
-- weight and one vector of pixels per multiply-add. What conv_direct.lua calls for every block of channels and pixels.

local M = {}

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

--- The tile for a convolution (conv_form.lua): rows, blocks of them per group, wide. Marks the layout's loop that is written
-- out.
function M.of(k, c, l)
  local tile = TILE[k.isa]
  local rows = k:choice("conv_rows", row_choices(c.each, tile))
  local wide = math.max(1, math.floor((tile.room - 1) / (rows + 1)))
  local most = wide
  while wide > 2 and rows * (wide - 1) >= SUMS do wide = wide - 1 end
  wide = k:choice("conv_unroll", most > wide and { wide, most } or { wide })
  local first = l.loops[1]
  local short = first and first.taps == 1 and not first.phases and first.n <= tile.written
  if short then first.written = k.dims:value(first.step) end
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

-- What the block depends on: the same for layers that differ in their depth alone.
local function key_of(k, c, p, loops)
  local parts = { "conv sums", p.rows, p.wide, p.whole, c.bias and 1 or 0, k.ordinal[k.group.anchor] }
  for i, loop in ipairs(loops) do
    local n = (i < #loops or loop.written) and loop.n or 0
    parts[#parts + 1] = ("%d*%d/%d/%d"):format(n, loop.taps, loop.phases or 0, loop.written or 0)
  end
  return table.concat(parts, " ")
end

--- The block that sums all taps; p: the tile, with p.whole = rows of the last block (conv_weights.lua).
function M.block(k, c, p, loops) return k:block(sums_block(k, c, p, loops), c.dtype, key_of(k, c, p, loops)) end

--- Three words per loop: how often it runs, its step, less what the loops inside have moved x, and the jump between its
-- phases.
function M.loop_words(k, c, loops)
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

return M
