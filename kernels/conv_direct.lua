--- Convolution as outer products, straight from x or its padded copy: no matrix of patches is written.
--
-- A tile of the step is one block of output channels over up to LINES output rows and a stretch of columns. Its pixels are
-- walked row by row, or, where that wastes fewer lanes, as one flat run over the layout's pitch: the columns between rows
-- are then computed too, and left behind when the rows are brought together. The sums themselves: conv_tile.lua.

local copy = require "kernels.conv_copy"
local planes = require "kernels.planes"
local tiles = require "kernels.conv_tile"
local weights = require "kernels.conv_weights"

local M = {}

local RAW_BYTES = 36 * 1024 -- stack buffer of raw sums
local PIXELS, LINES = 1024, 16

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

-- Lines and columns of a tile, capacity of the raw buffer per channel (elements).
local function cut(k, c, p)
  local D, strip = k.dims, p.wide * k:lanes(c.dtype)
  local capacity = math.min(2 * PIXELS, math.floor(RAW_BYTES / k:bytes(c.dtype) / p.rows))
  local pixels = k:choice("conv_tile", { PIXELS, PIXELS / 2 })
  local columns = math.max(strip, math.floor(math.min(pixels, capacity) / strip) * strip)
  local height, width = D:value(c.out[1]), D:value(c.out[2])
  local lines = width and width > 0 and math.max(1, math.ceil(pixels / 2 / width)) or LINES * pixels / PIXELS
  if height and height > 0 then lines = math.ceil(height / math.ceil(height / lines)) end
  return lines, columns, math.max(capacity, strip)
end

-- C locals of tile t: block, group, sample; first line and column (r0, c0), how many (lines, columns), valid channels.
local function decode(k, c, p, s)
  local block = ("long block = rest %% %dL; rest /= %dL;"):format(p.blocks, p.blocks)
  local channels = k:choice("conv_order", { "channels", "pixels" }) == "channels" -- what neighbouring tiles differ in
  k:line("long rest = t;%s", channels and " " .. block or "")
  k:line("long c0 = rest %% %s * %dL; rest /= %s;", k:dim(s.column_parts), s.columns, k:dim(s.column_parts))
  k:line("long r0 = rest %% %s * %dL; rest /= %s;", k:dim(s.line_parts), s.lines, k:dim(s.line_parts))
  if not channels then k:line("%s", block) end
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
  for _, word in ipairs(tiles.loop_words(k, c, l.loops)) do words[#words + 1] = word end
  k:call(s.sums, words)
  if not l.flat then return end
  k:open("if (flat)")
  k:call(s.gather, { "valid", "m", "columns", "sums", ("%s * %dL"):format(k:dim(l.pitch), bytes),
    ("channel - m * %s * %dL"):format(k:dim(l.pitch), bytes), "to", ("columns * %dL"):format(bytes),
    ("%s - m * columns * %dL"):format(plane, bytes) })
  k:close()
end

--- Writes the steps. l: conv_form.lua's layout.
function M.emit(k, c, l)
  local D, p = k.dims, tiles.of(k, c, l)
  weights.steps(k, weights.part(k, c, p), copy.part(k, c, l))
  local s = { wide = p.wide, lanes = k:lanes(c.dtype), width = c.out[2], plane = D:mul(c.out[1], c.out[2]) }
  s.strip = s.wide * s.lanes
  s.lines, s.columns, s.capacity = cut(k, c, p)
  s.line_parts, s.column_parts = k:ceildiv(c.out[1], s.lines), k:ceildiv(c.out[2], s.columns)
  s.sums = tiles.block(k, c, p, l.loops)
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
