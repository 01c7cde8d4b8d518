--- Convolution with a vector of output channels per sum, straight from x: no copy, no padding, any width. For windows with many taps,
-- whose sums pay for being turned into planes afterwards. Third way of conv.lua.
--
-- A tile of the step is one block of F vectors of channels over some output lines and columns. Register tiles of Q neighbouring
-- pixels of a line go to a stack buffer [pixel][channel], which a second block turns into planes in squares of registers.
-- Taps outside of x are never read: rows by their range in every call, columns by jumps over single multiply-adds, of which
-- only the first and last pixels of a tile have some. Weights: panels of conv_weights.lua with F vectors of rows.
-- A depthwise convolution, whose sums read a channel each (c.own), is one of depth 1 over vectors of channels where its lines are
-- narrow or its columns strided (elsewhere: conv_depthwise.lua): what a pass reads of x is turned on the way into a second stack buffer.

local planes = require "kernels.planes"
local turn = require "kernels.conv_turn"
local weights = require "kernels.conv_weights"

local M = {}

local BUFFER = 256                  -- pixels of the stack buffer
local LINES, COLUMNS = 16, 224      -- of a tile
local FEWEST, FEWEST_POINTS = 128, 256 -- taps that pay for turning the sums, in windows and in single points
local OWN = { columns = 28, pixels = 480, narrow = 20 } -- depthwise: columns of a tile, room for what a pass reads, widths that suit
local MOST_PAD = 8                  -- columns of padding: each is a jump in the code
local PIXELS = {                    -- of a register tile, for one and two vectors of channels
  avx512 = { { 14, 8, 4, 1 }, { 14, 8, 4, 1 } },
  avx2 = { { 12, 7, 4, 1 }, { 6, 4, 1 } },
}

-- ---- the sums ----

local WORDS = { "lines", "x", "line_step", "out", "out_line", "bias", "panel", "depth", "high", "row_step", "channel_step",
  "panel_step" }

-- Words of the flags, 1 or 0: is padding column t to the left (right) of x outside of this tile, for t = 1 .. pad?
local function flag(side, t, pad) return #WORDS + (side == "right" and pad or 0) + t - 1 end

-- One window column for Q pixels.
local function tap(b, c, p, acc, x, w, kw, q)
  local stride, pad, ahead = c.stride[2], c.pad[2], kw * c.dilation[2]
  local behind, vector = (c.tap[2] - 1) * c.dilation[2] - ahead, b.lanes * b.bytes
  local weight = {}
  for f = 1, p.vectors do weight[f] = b:load(w, (kw * p.vectors + f - 1) * vector) end
  for i = 0, q - 1 do
    local function add()
      local at = ahead + i * stride
      local pixel = c.own and b:load(x, at * vector) or b:bcast(x, at * b.bytes)
      for f = 1, p.vectors do b:set(acc[i][f], b:fma(weight[f], pixel, acc[i][f])) end
    end
    local left, right = pad - ahead - i * stride, pad - behind - (q - 1 - i) * stride
    local inner = right < 1 and add or function() b:loop(b:arg(flag("right", right, pad)), add) end
    if left < 1 then inner() else b:loop(b:arg(flag("left", left, pad)), inner) end
  end
end

-- All taps of Q pixels from x on; the sums go to `out`.
local function register_sums(b, c, p, w, from, out, q)
  local acc, x, weight = {}, b:copy(from), b:copy(w.panel)
  local vector, row = b.lanes * b.bytes, p.rows * b.bytes
  for i = 0, q - 1 do
    acc[i] = {}
    for f = 1, p.vectors do acc[i][f] = c.bias and b:load(w.bias, (f - 1) * vector) or b:splat(0) end
  end
  local function line()
    for kw = 0, c.tap[2] - 1 do tap(b, c, p, acc, x, weight, kw, q) end
    b:g_set(x, b:g_add(x, w.row_step))
    b:g_set(weight, b:g_addk(weight, c.tap[2] * row))
  end
  b:loop(w.depth, function()
    if p.whole_window then line() else b:loop(w.high, line) end
    b:g_set(x, b:g_add(x, w.channel_step))
    if not p.whole_window then b:g_set(weight, b:g_add(weight, w.panel_step)) end
  end)
  for i = 0, q - 1 do
    for f = 1, p.vectors do b:store(out, acc[i][f], (i * p.vectors + f - 1) * vector) end
  end
end

local function sums_block(k, c, p, q)
  return function(b)
    local w = {}
    for i, name in ipairs(WORDS) do w[name] = b:arg(i - 1) end
    k:note(b, k.group.anchor)
    local x, out = b:copy(w.x), b:copy(w.out)
    b:loop(w.lines, function()
      register_sums(b, c, p, w, x, out, q)
      b:g_set(x, b:g_add(x, w.line_step))
      b:g_set(out, b:g_add(out, w.out_line))
    end)
  end
end

-- ---- the step ----

-- Is this way the better one: true, false, or the number of columns up to which it is? Few taps do not pay for the turning.
local function suits(k, c, window)
  local taps, high, wide = c.tap[1] * c.tap[2], (c.tap[1] - 1) * c.dilation[1] + 1, (c.tap[2] - 1) * c.dilation[2] + 1
  if not PIXELS[k.isa] or c.pad[2] > MOST_PAD or k.dims:value(c.xs[4]) ~= 1 then return false end
  if math.ceil(c.each / k:lanes(c.dtype)) * k:lanes(c.dtype) > 1.1 * c.each then return false end
  if not c.own then return c.depth * taps >= (taps > 1 and FEWEST or FEWEST_POINTS) end
  if taps == 1 or high * ((OWN.columns - 1) * c.stride[2] + wide) > OWN.pixels then return false end
  if c.stride[2] > 1 or not window then return true end
  local narrow, width = taps >= 25 and OWN.narrow or OWN.narrow / 2, k.dims:value(c.out[2])
  if width then return width <= narrow end
  return taps >= 25 and narrow
end

-- The tile: vectors and rows of a block, blocks per group, last = channels of the last vector, columns of a tile of the step,
-- sizes of register tiles.
local function plan(k, c)
  local lanes, width = k:lanes(c.dtype), k.dims:value(c.out[2])
  local count = math.ceil(c.each / lanes)
  local vectors = not c.own and count % 2 == 0 and k:choice("conv_vectors", { 2, 1 }) or 1
  local sizes = PIXELS[k.isa][vectors]
  local p = { vectors = vectors, rows = vectors * lanes, blocks = count / vectors, sizes = sizes,
    whole_window = c.tap[1] == 1 and c.pad[1] == 0, last = (c.each - 1) % lanes + 1, columns = c.own and OWN.columns or COLUMNS }
  if width and width > 0 and width <= p.columns then -- one size that divides the line best
    local most = k:choice("conv_pixels", { sizes[1], sizes[2] })
    p.sizes = { math.ceil(width / math.ceil(width / most)) }
  end
  return p
end

-- C locals of tile t, blocks outermost: they keep their weights in the cache.
local function decode(k, c, p, s)
  k:line("long c0 = t %% %s * %dL, rest = t / %s;", k:dim(s.column_parts), p.columns, k:dim(s.column_parts))
  k:line("long r0 = rest %% %s * %dL; rest /= %s;", k:dim(s.line_parts), LINES, k:dim(s.line_parts))
  k:line("long sample = rest %% %s; rest /= %s;", k:dim(c.samples), k:dim(c.samples))
  if c.groups == 1 then k:line("long block = rest, group = 0;")
  else k:line("long block = rest %% %dL, group = rest / %dL;", p.blocks, p.blocks) end
  k:line("long lines = %s - r0 < %dL ? %s - r0 : %dL;", k:dim(c.out[1]), LINES, k:dim(c.out[1]), LINES)
  k:line("long columns = %s - c0 < %dL ? %s - c0 : %dL;", k:dim(c.out[2]), p.columns, k:dim(c.out[2]), p.columns)
  k:line("long valid = block == %dL ? %dL : %dL;", p.blocks - 1, p.whole, p.rows)
  k:line("long o = (sample * %dL + group) * %dL + block * %dL;", c.groups, c.each, p.rows)
  k:line("long start = (o * %s + r0) * %s + c0;", k:dim(c.out[1]), k:dim(c.out[2]))
  k:line("long some = %dL / columns;", BUFFER)
  k:line("char *x = %s, *panel = %s;", k:at(c.x, { "sample", c.own and ("block * %dL"):format(p.rows) or ("group * %dL"):format(c.depth) }),
    p.address("group", "block"))
  if not c.own then return end
  k:line("long before = c0 * %dL - %dL, pitch = before + (columns - 1) * %dL + %dL;", c.stride[2], c.pad[2], c.stride[2],
    (c.tap[2] - 1) * c.dilation[2] + 1)
  k:line("if (before < 0) before = 0;")
  k:line("pitch = (pitch < %s ? pitch : %s) - before;", k:dim(c.size[2]), k:dim(c.size[2]))
  k:line("if (pitch < 1) pitch = 1;")
  k:line("long most = (%dL / pitch - %dL) / %dL + 1;", OWN.pixels, (c.tap[1] - 1) * c.dilation[1] + 1, c.stride[1])
  k:line("if (some > most) some = most;")
end

-- C: `main` = the size of which most tiles of a line are, so that the fewest pixels are computed twice. Costs are doubles, which
-- keeps them out of the range proof: all it needs is main <= columns.
local function choose_size(k, p)
  k:line("long main = %dL;", p.sizes[#p.sizes])
  if #p.sizes == 1 then return end
  k:line("double least = columns * 32L;")
  for i = #p.sizes - 1, 1, -1 do
    local size, rest = p.sizes[i], "0L"
    for j = #p.sizes, i, -1 do rest = ("(left > %dL ? %dL : %s)"):format(p.sizes[j + 1] or 0, p.sizes[j], rest) end
    k:open("if (columns >= %dL)", size)
    k:line("double left = columns %% %dL, all = (columns - left + %s) * %dL;", size, rest, 16 + math.ceil(16 / size))
    k:line("if (all <= least) { least = all; main = %dL; }", size)
    k:close()
  end
end

-- C: one register tile of `q` pixels in m lines from line `i` of the pass on, at column `at`.
local function call_sums(k, c, p, s, q)
  local bytes, pad, pixel = k:bytes(c.dtype), c.pad[2], p.rows * k:bytes(c.dtype)
  local unit = c.own and pixel or bytes
  local row = ("%s * %dL"):format(c.own and "pitch" or k:dim(c.xs[3]), unit)
  local words = { "m",
    ("%s + (y + low * %dL - %s) * %s + ((c0 + at) * %dL - %dL - %s) * %dL"):format(c.own and "(char *)" .. s.pixels or "x", c.dilation[1],
      c.own and "above" or "0L", row, c.stride[2], pad, c.own and "before" or "0L", unit),
    ("%s * %dL"):format(row, c.stride[1]), ("(char *)%s + (i * columns + at) * %dL"):format(s.buffer, pixel),
    ("columns * %dL"):format(pixel), "panel", ("panel + (low * %dL + %dL) * %dL"):format(c.tap[2], c.bias and 1 or 0, pixel),
    ("%dL"):format(c.depth), "high - low", ("%s * %dL"):format(row, c.dilation[1]),
    ("%s * %dL - (high - low) * %s * %dL"):format(k:dim(c.xs[2]), bytes, row, c.dilation[1]),
    ("(%dL - (high - low)) * %dL"):format(c.tap[1], c.tap[2] * pixel) }
  for t = 1, pad do words[#words + 1] = ("(c0 + at) * %dL >= %dL"):format(c.stride[2], t) end
  local reach = (q - 1) * c.stride[2] + (c.tap[2] - 1) * c.dilation[2]
  for t = 1, pad do
    words[#words + 1] = ("(c0 + at) * %dL + %dL < %s"):format(c.stride[2], reach - 2 * pad + t, k:dim(c.size[2]))
  end
  k:call(s.sums[q], words)
end

-- C: the sums of m lines from line i of the pass on, whose windows start in row y and have rows low .. high - 1 inside of x.
local function line_sums(k, c, p, s)
  k:open("for (long at = 0; at < columns; )")
  local q = p.sizes[1] .. "L"
  for i = 2, #p.sizes do q = ("(left <= %dL ? %dL : %s)"):format(p.sizes[i], p.sizes[i], q) end
  k:line("long left = columns - at, q = %s;", q)
  if #p.sizes > 1 then k:line("if (q > main) q = main;") end
  k:line("if (left < q) at = columns - q;")
  for i, q in ipairs(p.sizes) do
    if #p.sizes > 1 then k:open("%sif (q == %dL)", i > 1 and "else " or "", q) end
    call_sums(k, c, p, s, q)
    if #p.sizes > 1 then k:close() end
  end
  k:line("at += q;")
  k:close()
end

-- C: lines of a pass: those whose windows lie inside of x together, others one by one.
local function pass_sums(k, c, p, s)
  local stride, dilation, high = c.stride[1], c.dilation[1], c.tap[1]
  k:open("for (long i = 0; i < count; )")
  k:line("long y = (r0 + pass + i) * %dL - %dL, past = %s - y, low = 0, high = %dL, m = 1;", stride, c.pad[1], k:dim(c.size[1]), high)
  k:line("if (y >= 0 && past >= %dL) m = (past - %dL) / %dL + 1;", (high - 1) * dilation + 1, (high - 1) * dilation + 1, stride)
  k:line("if (y < 0) low = (%dL - y) / %dL;", dilation - 1, dilation)
  k:line("if (past < %dL) high = past > 0 ? (past + %dL) / %dL : 0;", (high - 1) * dilation + 1, dilation - 1, dilation)
  k:line("if (m > count - i) m = count - i;")
  k:line("if (high < low) high = low;")
  line_sums(k, c, p, s)
  k:line("i += m;")
  k:close()
end

-- C: what the windows of the pass read of x.
local function fetch(k, c, p, s)
  k:line("long above = (r0 + pass) * %dL - %dL, below = above + (count - 1) * %dL + %dL;", c.stride[1], c.pad[1], c.stride[1],
    (c.tap[1] - 1) * c.dilation[1] + 1)
  k:line("if (above < 0) above = 0;")
  k:line("if (below > %s) below = %s;", k:dim(c.size[1]), k:dim(c.size[1]))
  turn.fetch(k, c, p, s)
end

-- A depthwise convolution as one of depth 1.
local function of_vectors(c)
  if c.depth ~= 1 or c.each ~= 1 then return c end
  local own = setmetatable({}, { __index = c })
  own.own, own.groups, own.each = true, 1, c.groups
  return own
end

--- Writes the steps, or gives false when this way does not suit; or the number of output columns above which the steps do
-- nothing. window: is there another good way for a depthwise convolution (conv_depthwise.lua)?
function M.emit(k, c, window)
  c = of_vectors(c)
  local target, suit = planes.target(k), suits(k, c, window)
  if not (target and suit) or k:choice("conv_way", { "channels", "direct" }) == "direct" then return false end
  local p = plan(k, c)
  local D, room = k.dims, k:lanes(c.dtype)
  weights.steps(k, weights.part(k, c, p))
  local s = { target = target, plane = D:mul(c.out[1], c.out[2]), sums = {} }
  s.line_parts, s.column_parts = k:ceildiv(c.out[1], LINES), k:ceildiv(c.out[2], p.columns)
  for _, q in ipairs(p.sizes) do s.sums[q] = k:block(sums_block(k, c, p, q), c.dtype) end
  s.turn, s.fetch = turn.out_of(k, c, p), c.own and turn.into(k, c, p)
  k:step { tiles = k:product { D:const(c.groups * p.blocks), c.samples, s.line_parts, s.column_parts } }
  s.buffer, s.pixels = k:buffer(c.dtype, (BUFFER + room) * p.rows), c.own and k:buffer(c.dtype, (OWN.pixels + room) * p.rows)
  if suit ~= true then k:line("if (%s > %dL) return;", k:dim(c.out[2]), suit) end
  k:tiles(function()
    decode(k, c, p, s)
    choose_size(k, p)
    k:open("for (long pass = 0; pass < lines; pass += some)")
    k:line("long count = lines - pass < some ? lines - pass : some;")
    if c.own then fetch(k, c, p, s) end
    pass_sums(k, c, p, s)
    turn.store(k, c, p, s)
    planes.finish(k, { target = target, start = "begin", planes = "valid", lines = "count", columns = "columns", width = c.out[2],
      plane = s.plane })
    k:close()
  end)
  return suit
end

return M
